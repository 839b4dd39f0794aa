"""Where points and boxes go, from the published formulas of torchvision's v2 transforms.

Plain NumPy in float64, written independently of `imagearchive`. Points are on the edges of pixels,
as the corners of boxes are: the first pixel is from (0, 0) to (1, 1).
"""

import numpy as np


def corners(boxes):
    """Return the four corners of each box, of shape (n, 4, 2)."""
    x0, y0, x1, y1 = np.asarray(boxes, float).T
    return np.stack([np.stack([x, y], -1) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)


def boxes_around(points, width, height):
    """Return the boxes around groups of points, clipped to the image."""
    low, high = points.min(1), points.max(1)
    boxes = np.concatenate([low, high], 1)
    return np.clip(boxes, 0, [width, height, width, height])


def crop(points, left, top):
    """Return where points go if the region from (left, top) is cut out."""
    return points - [left, top]


def resize(points, before, after):
    """Return where points go if an image of the size `before` gets the size `after`."""
    return points * (np.asarray(after, float) / before)


def flip(points, width):
    """Return where points go if an image is mirrored from left to right."""
    return np.stack([width - points[..., 0], points[..., 1]], -1)


def affine(points, size, angle, translate, scale, shear):
    """Return where points go: M = T * C * RotateScaleShear * C^-1, about the center of the image.

    `angle` and `shear` are in degrees, clockwise in the image, and `translate` is in pixels.
    """
    turn, (shear_x, shear_y) = np.deg2rad(angle), np.deg2rad(shear)
    a = np.cos(turn - shear_y) / np.cos(shear_y)
    b = -np.cos(turn - shear_y) * np.tan(shear_x) / np.cos(shear_y) - np.sin(turn)
    c = np.sin(turn - shear_y) / np.cos(shear_y)
    d = -np.sin(turn - shear_y) * np.tan(shear_x) / np.cos(shear_y) + np.cos(turn)
    center = np.asarray(size, float) / 2
    return (points - center) @ (scale * np.array([[a, b], [c, d]])).T + center + translate


def perspective(points, start, end):
    """Return where points go by the homography that takes four points `start` to `end`."""
    rows, values = [], []
    for (x, y), (u, v) in zip(start, end):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    matrix = np.append(np.linalg.solve(np.array(rows, float), values), 1).reshape(3, 3)
    moved = np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1) @ matrix.T
    return moved[..., :2] / moved[..., 2:]
