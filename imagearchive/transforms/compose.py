"""Several transforms as one, and functions as transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import check_callable, check_integer, check_sequence
from imagearchive.transforms.base import Layout, Transform, check_key
from imagearchive.transforms.fields import Field, Image, Sample
from imagearchive.transforms.joint import JointPass
from imagearchive.transforms.random_keys import Key
from imagearchive.transforms.stages import Step, run_step, split_stages
from imagearchive.transforms.values import Normalize

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["Compose", "Lambda", "as_sample", "flat"]


class Lambda:
    """A function of an image as a transform.

    It can be pickled if the function can: a function of a module, not a ``lambda``.

    Parameters
    ----------
    function : callable
        Takes the image as the previous transform returned it.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = check_callable("function", function)

    def __call__(self, image: Any, key: Key | None = None) -> Any:
        """Same as `apply`."""
        return self.function(image)

    def apply(self, image: Any, key: Key | None = None) -> Any:
        """Call the function. `key` is not used."""
        return self.function(image)

    def __repr__(self) -> str:
        return f"Lambda({self.function!r})"


class Compose:
    """Several transforms, one after the other.

    With a key, each transform draws from the random stream of its position, so equal transforms at
    different positions draw differently. Positions count through nested `Compose`. Without a key,
    each transform draws from its own stream. Functions are called with the image only.

    Parameters
    ----------
    transforms : iterable of callable
        In the order of application.
    """

    def __init__(self, transforms: Iterable[Callable[..., Any]]) -> None:
        self.transforms: list[Callable[..., Any]] = list(
            check_sequence("transforms", transforms, "a list of transforms")
        )
        for transform in self.transforms:
            check_transform(transform)

    def __call__(
        self, image: Any, key: Key | None = None, fields: Mapping[str, Field] | None = None
    ) -> Any:
        """Same as `apply`."""
        return self.apply(image, key, fields)

    def apply(
        self, image: Any, key: Key | None = None, fields: Mapping[str, Field] | None = None
    ) -> Any:
        """Transform one image, or one sample of several fields.

        Parameters
        ----------
        image : ndarray, PIL.Image.Image, torch.Tensor, or dict
            See `Transform.apply` for the kinds of images. A dict is a sample. What moves pixels
            moves its images, masks, boxes and keypoints by the same random choices; everything
            else, functions too, changes each image only. Boxes are clipped, and dropped as their
            field says, with their rows in its `labels`. The dict is not modified.
        key : Key, optional
            Identifies the random choices.
        fields : mapping of str to Field, optional
            What the values of a dict are, such as ``{"image": Image(), "mask": Mask(),
            "boxes": Boxes(labels="classes")}``. Samples of a `SampleArchive` say it themselves.

        Returns
        -------
        ndarray, torch.Tensor, or Sample

        Raises
        ------
        OptionError
            A mask does not have the size of its image, or a transform does not say where it moves
            pixels.
        """
        steps = flat(self)
        key = check_key(key)
        if isinstance(image, dict):
            sample = JointPass(as_sample(image, fields), key or _own_key(steps))
            sample.run(split_stages(steps))
            return sample.result()
        layout: Layout | None = None
        for position, step in enumerate(steps):
            image, layout = run_step(step, image, layout, key, position)
        return image

    def preview(
        self,
        image: Any,
        n: int = 16,
        seed: int = 0,
        *,
        fields: Mapping[str, Field] | None = None,
        columns: int | None = None,
        size: int = 128,
    ) -> PillowImage.Image:
        """Draw what the transforms make of one image under several keys.

        Parameters
        ----------
        image : ndarray, PIL.Image.Image, torch.Tensor, or dict
            As for `apply`. The masks, boxes, and keypoints of a sample are drawn with it.
        n : int
            How many results are shown.
        seed : int
            Which random choices are shown. Equal seeds give equal pictures.
        fields : mapping of str to Field, optional
            As for `apply`.
        columns : int, optional
            How many results are in a row. By default, as many as make a square.
        size : int
            Length in pixels of the longer side of each result.

        Returns
        -------
        PIL.Image.Image
            An RGB image. Normalization is undone.

        Raises
        ------
        OptionError
            The result has no image, or an argument is out of range.

        Examples
        --------
        >>> transform.preview(image).save("augmented.png")  # doctest: +SKIP
        """
        # Imported here: a training run draws nothing.
        from imagearchive.transforms.drawing import draw_sample, images_of, tile

        n = check_integer("n", n, 1, 1000)
        seed = check_integer("seed", seed)
        size = check_integer("size", size, 16, 1024)
        normalized = [step for step in flat(self) if isinstance(step, Normalize)]
        pictures = []
        for number in range(n):
            result = self.apply(image, Key(seed, 0, number), fields)
            if not isinstance(result, Sample):
                result = Sample({"image": result}, {"image": Image()})
            names = images_of(result)
            if not names:
                raise OptionError("there is nothing to draw: the sample has no field of kind Image")
            pictures += [draw_sample(result, name, size, None, normalized) for name in names]
        if columns is None:
            columns = max(1, round(len(pictures) ** 0.5))
        return tile(pictures, min(check_integer("columns", columns, 1), len(pictures)))

    def __or__(self, other: Callable[..., Any]) -> Compose:
        """Return a longer `Compose`."""
        return Compose([*self.transforms, other])

    def __len__(self) -> int:
        return len(self.transforms)

    def __getitem__(self, position: int) -> Callable[..., Any]:
        return self.transforms[position]

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(self.transforms)

    def __repr__(self) -> str:
        lines = "".join(f"    {transform!r},\n" for transform in self.transforms)
        return f"Compose([\n{lines}])" if lines else "Compose([])"


Transform._composed = Compose


def check_transform(transform: object) -> None:
    """Raise unless it is an instance of a transform or a function."""
    if isinstance(transform, type):
        raise OptionTypeError(
            f"{transform!r} is a class; pass an instance, {transform.__name__}(...), or wrap the "
            f"class in Lambda to call it with each image"
        )
    if not callable(transform):
        raise OptionTypeError(f"a transform must be callable, got {transform!r}")


def flat(transform: Callable[..., Any] | None) -> list[Callable[..., Any]]:
    """Return the single steps, with those of nested `Compose` in place."""
    if transform is None:
        return []
    if not isinstance(transform, Compose):
        check_transform(transform)
        return [transform]
    return [step for part in transform.transforms for step in flat(part)]


def as_sample(sample: Mapping[str, Any], fields: Mapping[str, Field] | None) -> Sample:
    """Return a dict as a sample of known fields."""
    if fields is not None:
        unknown = [name for name in fields if name not in sample]
        if unknown:
            raise OptionError(f"fields names {unknown[0]!r}, but the sample has no such entry")
        return Sample(sample, fields)
    if isinstance(sample, Sample):
        return sample
    raise OptionTypeError(
        "a dict does not say which of its values are images, masks or boxes; pass "
        'fields={"image": Image(), "mask": Mask()}, or use the samples of a SampleArchive'
    )


def _own_key(steps: Sequence[Step]) -> Key:
    """Return a key for a call without one, from the stream of the first random transform."""
    for step in steps:
        if isinstance(step, Transform) and step.is_random:
            stream = step._streams.next()
            return Key(stream.below((1 << 32) - 1) << 32 | stream.below((1 << 32) - 1))
    return Key(0)
