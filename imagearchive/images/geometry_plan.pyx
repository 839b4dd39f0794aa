"""The geometry of many images, drawn without the GIL.

For small images, one Python call for each transform takes as long as decoding.
"""

from cython cimport final
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.math cimport exp, log, rint, sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from imagearchive.errors import OptionError
from imagearchive.images.geometry import FILTERS

from imagearchive.images.geometry cimport (
    MAX_SIDE, four_numbers, geometry_crop, geometry_pad, geometry_resize, geometry_start,
    px_geometry,
)
from imagearchive.images.random cimport (
    Stream, px_stream, stream_below, stream_start, stream_uniform, stream_unit,
)


cdef enum Kind:
    RESIZE, RESIZE_SHORTER, RANDOM_REGION, FLIP_X, FLIP_Y, RANDOM_CROP, CENTER_CROP, PAD, PAD_TO


cdef struct Operation:
    Kind kind
    uint32_t position           # of the transform, for its random stream
    int64_t width, height       # of the result; the shorter side is a width
    int64_t max_pixels
    int64_t margins[4]          # left, top, right, bottom
    int filter
    double scale[2]
    double ratio[2]
    double p
    float fill[4]


cdef int draw_region(px_stream *stream, int64_t width, int64_t height, const double *scale,
                     const double *ratio, int64_t *box) noexcept nogil:
    """Draw x, y, width, height of a region of a `width` x `height` image, as torchvision does."""
    cdef double area = <double> width * <double> height, shape = <double> width / <double> height
    cdef double target, drawn, w, h
    cdef int i
    for i in range(10):
        if stream_uniform(stream, scale[0], scale[1], &target):
            return -1
        if stream_uniform(stream, log(ratio[0]), log(ratio[1]), &drawn):
            return -1
        target = area * target
        drawn = exp(drawn)
        w, h = rint(sqrt(target * drawn)), rint(sqrt(target / drawn))
        if 0 < w <= width and 0 < h <= height:
            box[2], box[3] = <int64_t> w, <int64_t> h
            if stream_below(stream, width - box[2] + 1, &box[0]):
                return -1
            return stream_below(stream, height - box[3] + 1, &box[1])
    w, h = <double> width, <double> height
    if shape < ratio[0]:
        h = min(h, max(1.0, rint(width / ratio[0])))
    elif shape > ratio[1]:
        w = min(w, max(1.0, rint(height * ratio[1])))
    box[2], box[3] = <int64_t> w, <int64_t> h
    box[0], box[1] = (width - box[2]) // 2, (height - box[3]) // 2
    return 0


def random_region(Stream stream not None, int64_t width, int64_t height, scale, ratio):
    """Draw x, y, width and height of a region; see `imagearchive.transforms.RandomResizedCrop`."""
    cdef double[2] scales
    cdef double[2] ratios
    cdef int64_t[4] box
    if not (0 < width < MAX_SIDE and 0 < height < MAX_SIDE):
        raise OptionError(f"cannot transform an image of {width} x {height} pixels")
    scales[0], scales[1] = scale
    ratios[0], ratios[1] = ratio
    if draw_region(&stream.s, width, height, scales, ratios, box):
        raise OptionError("the stream of a random transform has no more numbers")
    return box[0], box[1], box[2], box[3]


cdef int apply(const Operation *o, px_stream *stream, px_geometry *g) noexcept nogil:
    """Do one operation; return -1 if it is refused."""
    cdef int64_t[4] box
    cdef int64_t width = g.canvas_w, height = g.canvas_h, x, y
    cdef double drawn
    if o.kind == RESIZE:
        return geometry_resize(g, o.width, o.height, 0, 0, <double> width, <double> height,
                               o.filter)
    if o.kind == RESIZE_SHORTER:
        if width <= height:
            x, y = o.width, <int64_t> (<double> (o.width * height) / <double> width)
        else:
            x, y = <int64_t> (<double> (o.width * width) / <double> height), o.width
        x, y = max(x, 1), max(y, 1)
        if x * y > o.max_pixels:
            return -1
        return geometry_resize(g, x, y, 0, 0, <double> width, <double> height, o.filter)
    if o.kind == RANDOM_REGION:
        if draw_region(stream, width, height, o.scale, o.ratio, box):
            return -1
        return geometry_resize(g, o.width, o.height, <double> box[0], <double> box[1],
                               <double> (box[0] + box[2]), <double> (box[1] + box[3]), o.filter)
    if o.kind == FLIP_X or o.kind == FLIP_Y:
        if stream_unit(stream, &drawn):
            return -1
        if drawn < o.p:
            if o.kind == FLIP_X:
                g.flip_x = not g.flip_x
            else:
                g.flip_y = not g.flip_y
        return 0
    if o.kind == PAD:
        return geometry_pad(g, o.margins[0], o.margins[1], o.margins[2], o.margins[3], o.fill)
    if o.kind == PAD_TO:
        x, y = max(o.width - width, 0), max(o.height - height, 0)
        if x or y:
            return geometry_pad(g, x // 2, y // 2, x - x // 2, y - y // 2, o.fill)
        return 0
    if o.width > width or o.height > height:
        return -1
    if o.kind == CENTER_CROP:
        x, y = <int64_t> rint((width - o.width) / 2.0), <int64_t> rint((height - o.height) / 2.0)
    elif (stream_below(stream, width - o.width + 1, &x)
          or stream_below(stream, height - o.height + 1, &y)):
        return -1
    return geometry_crop(g, x, y, o.width, o.height)


@final
cdef class GeometryPlan:
    """What a geometric stage of a pipeline does to the geometry of an image.

    Immutable, so threads may share a plan.

    Parameters
    ----------
    steps : sequence of (int, tuple)
        The position of a transform in its pipeline, and one of its operations: a name and its
        arguments. These are ``("resize", width, height, filter)``, ``("resize_shorter", side,
        max_pixels, filter)``, ``("resize_region", width, height, scale, ratio, filter)`` for a
        region as `random_region` draws it, ``("flip_x", p)``, ``("flip_y", p)``, ``("random_crop",
        width, height)``, ``("center_crop", width, height)``, ``("pad", left, top, right, bottom,
        fill)``, and ``("pad_to", width, height, fill)``. Each begins the random stream of its
        transform anew, so one transform has at most one that is random.
    """

    def __cinit__(self, steps):
        self.steps = tuple(steps)
        for position, (name, *arguments) in self.steps:
            self.add(position, name, tuple(arguments))

    def __dealloc__(self):
        PyMem_Free(self.operations)

    def __reduce__(self):
        return GeometryPlan, (self.steps,)

    cdef int add(self, uint32_t position, str name, tuple arguments) except -1:
        cdef Operation *o
        grown = <Operation *> PyMem_Realloc(self.operations, (self.count + 1) * sizeof(Operation))
        if grown == NULL:
            raise MemoryError()
        self.operations = grown
        o = grown + self.count
        memset(o, 0, sizeof(Operation))
        o.position = position
        if name == "resize":
            o.kind = RESIZE
            o.width, o.height, filter = arguments
            o.filter = FILTERS.index(filter)
        elif name == "resize_shorter":
            o.kind = RESIZE_SHORTER
            o.width, o.max_pixels, filter = arguments
            o.filter = FILTERS.index(filter)
        elif name == "resize_region":
            o.kind = RANDOM_REGION
            o.width, o.height, scale, ratio, filter = arguments
            o.scale[0], o.scale[1] = scale
            o.ratio[0], o.ratio[1] = ratio
            o.filter = FILTERS.index(filter)
        elif name in ("flip_x", "flip_y"):
            o.kind = FLIP_X if name == "flip_x" else FLIP_Y
            o.p, = arguments
        elif name in ("random_crop", "center_crop"):
            o.kind = RANDOM_CROP if name == "random_crop" else CENTER_CROP
            o.width, o.height = arguments
        elif name == "pad":
            o.kind = PAD
            o.margins[0], o.margins[1], o.margins[2], o.margins[3], fill = arguments
            four_numbers(fill, o.fill)
        elif name == "pad_to":
            o.kind = PAD_TO
            o.width, o.height, fill = arguments
            four_numbers(fill, o.fill)
        else:
            raise OptionError(f"a plan has no operation {name!r}")
        # Sizes are checked where they are used; this only keeps their sum and product small.
        if max(o.width, o.height) >= MAX_SIDE or min(o.width, o.height) < 0:
            raise OptionError(f"cannot make images of {o.width} x {o.height} pixels")
        self.count += 1
        return 0

    cdef int draw(self, int64_t width, int64_t height, uint64_t seed, uint32_t epoch,
                  uint64_t index, px_geometry *g) noexcept nogil:
        cdef px_stream stream
        cdef Py_ssize_t i
        if geometry_start(g, width, height):
            return -1
        for i in range(self.count):
            stream_start(&stream, seed, epoch, index, self.operations[i].position)
            if apply(&self.operations[i], &stream, g):
                return -1
        return 0
