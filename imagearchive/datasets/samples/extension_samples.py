"""The samples of `Archive.samples`, decoded by the extensions of their members."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from imagearchive.datasets.samples.field_specs import resolve_fields
from imagearchive.datasets.samples.field_values import decode_field
from imagearchive.errors import ImageArchiveError, OptionError
from imagearchive.storage.mapping import damaged_mappings
from imagearchive.transforms.compound_fields import Npz
from imagearchive.transforms.fields import KEY, Field, Sample

if TYPE_CHECKING:
    from imagearchive.archive.samples import Samples
    from imagearchive.images.render import Decoder

__all__ = ["ExtensionSamples"]


class ExtensionSamples:
    """`Samples` as a dataset of fields, which the loader reads.

    With extensions, samples are tuples of a value for each; otherwise dicts of a value for each
    extension that the first sample has.

    Parameters
    ----------
    samples : Samples

    Raises
    ------
    OptionError
        There is no codec for an extension.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.form: Literal["dict", "tuple"] = "tuple" if samples.extensions else "dict"
        self.has_keys = self.form == "dict"
        if samples.extensions:
            patterns = {
                name: "{key}." + text.lstrip(".").replace(";", "|")
                for name, text in zip(_unique_names(samples.extensions), samples.extensions)
            }
        else:
            extensions = [name for name, _ in samples.members(0)[1]] if len(samples) else []
            patterns = {name: f"{{key}}.{name}" for name in extensions}
        self.fields: Mapping[str, Field] = resolve_fields(patterns) if patterns else {}
        if any(isinstance(field, Npz) for field in self.fields.values()):
            raise OptionError(
                "NPZ files have several arrays, so they are not values of a tuple; use "
                "SampleArchive(path, fields={...: '{key}.npz'})"
            )

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, index: int) -> str:
        """Return the key of a sample."""
        return self._samples.key(index)

    def optional_fields(self) -> frozenset[str]:
        """Return the fields that may be None: none."""
        return frozenset()

    def load(
        self, index: int, encoded: Container[str] = (), decoder: Decoder | None = None
    ) -> Sample:
        """Return a sample, in which these images are as they are stored."""
        key, members = self._samples.members(index)
        archive = self._samples.archive
        names = list(self.fields) if self.form == "tuple" else [name for name, _ in members]
        values: dict[str, Any] = {KEY: key}
        for name, (_, position) in zip(names, members):
            data = archive.read(position)
            field = self.fields.get(name, Field())
            if name in encoded:
                values[name] = data
                continue
            try:
                values[name] = decode_field(field, archive.name(position), data, _no_size, decoder)
            except ImageArchiveError as error:
                archive.check_unchanged()
                raise type(error)(
                    f"{archive.path}: {archive.name(position)!r}: {error.message}",
                    hints=error.hints,
                ) from error
        if damaged_mappings():
            archive.check_unchanged()
        return Sample(values, self.fields)

    @property
    def requests_ahead(self) -> int:
        """How many samples are best requested ahead; 0 for local archives."""
        ahead: int = self._samples.archive.requests_ahead
        return ahead

    def prefetch(self, indices: Iterable[int]) -> None:
        """Start to read these samples ahead; return at once."""
        positions = [at for index in indices for _, at in self._samples.members(index)[1]]
        self._samples.archive.prefetch(positions)

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if a file has changed since it was opened."""
        self._samples.archive.check_unchanged()


def _unique_names(extensions: Sequence[str]) -> list[str]:
    """Return a name for each extension; a tuple may have the same one twice."""
    names = [text.lstrip(".") for text in extensions]
    return [
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names)
    ]


def _no_size() -> tuple[int, int]:
    raise OptionError("a file that is relative to the size of an image needs SampleArchive")
