"""Write the members of any archive as an archive of another kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from imagearchive.archive.archive import check_archive
from imagearchive.archive.checked_read import read_whole
from imagearchive.archive.expansion import check_expansion
from imagearchive.archive.member_copy import write_members
from imagearchive.errors import OptionError
from imagearchive.errors.arguments import check_choice, check_integer
from imagearchive.storage.changes import changes_first
from imagearchive.storage.limits import Limits, check_limits
from imagearchive.storage.location import locate
from imagearchive.storage.outputs import output_path

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.storage.executors import AnyExecutor

__all__ = ["Kind", "convert", "kind_of"]

Kind = Literal["tar", "zip", "npz", "bins"]


def kind_of(target: str) -> Kind:
    """Return the kind of archive that the name of a target asks for.

    ``.tar``, ``.zip`` and ``.npz`` by extension; bins if there is no extension, or a slash at
    the end.

    Raises
    ------
    OptionError
        The extension is another one.
    """
    extension = os.path.splitext(target)[1].lower()
    if target.endswith("/") or not extension:
        return "bins"
    for kind in ("tar", "zip", "npz"):
        if extension == f".{kind}":
            return kind
    raise OptionError(f"{target}: unknown extension; use .tar, .zip, .npz, or none for bins")


def convert(
    archive: Archive,
    target: str | os.PathLike[str],
    kind: Kind | None = None,
    *,
    splits: int = 128,
    shards: int | None = None,
    overwrite: bool = False,
    index: bool = True,
    sync: bool = True,
    limits: Limits | None = None,
    executor: AnyExecutor | None = None,
    progress: Callable[[int], object] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> int:
    """Write all members of an archive, in its order, as another archive.

    ========  ====================================================================================
    ``tar``   every member with its name, time (in seconds) and permissions
    ``zip``   likewise, stored, not compressed; names must be UTF-8
    ``npz``   members that are ``.npy`` arrays, and nothing else; the arrays are not changed
    ``bins``  the content of the members as packets of `write_split_data`; **names are lost**, and
              packet ``i`` is member ``i``
    ========  ====================================================================================

    An NPZ that is read shows each array as the member ``NAME.npy``, and bins show packets as
    numbered members, so those names are what is written. Links become files, and holes of sparse
    files become zeros; empty directories are left out. Where several archives are read as one and
    share a name, the last holds it.

    Parameters
    ----------
    archive : Archive
        Of any kind that `open` reads.
    target : path-like
        The file, which may be a URL, or the directory of bins.
    kind : {"tar", "zip", "npz", "bins"}, optional
        By default what the name of the target asks for; see `kind_of`.
    splits : int
        Number of bins.
    shards : int, optional
        Number of archives to write, ``train-000000.zip`` and so on for ``train.zip``. Consecutive
        members with the same name up to the first dot are one sample, and stay together; the
        number of samples is the same in all archives, give or take one. Each archive appears when
        it is whole. One that is there already, with the same members and newer than `archive`, is
        kept, so the same call again writes only what is missing.
    overwrite : bool
        Replace what is there.
    index : bool
        Build the index of the new archive.
    sync : bool
        Put the archive on disk before it gets its name.
    limits : Limits, optional
        The members may take ``max_ratio`` times what the archive holds of them, in any case 64 MiB.
        It counts where there are sparse files, links to one file, or members that overlap.
    executor : int or concurrent.futures.Executor, optional
        Write several shards at a time: in a number of processes, or on an executor whose workers
        see the files under the same paths, such as
        ``dask.distributed.Client(...).get_executor()``. It is not shut down.
    progress : callable, optional
        Called with 1 after each member; with shards, with the number of members of each.
    storage_options, filesystem : optional
        How to reach `target`, as in `open`.

    Returns
    -------
    int
        The number of members written.

    Raises
    ------
    TargetExistsError
        The target exists, and `overwrite` is false.
    OptionError
        A member cannot go into an NPZ, or there are fewer samples than shards.
    IncompleteError
        Some of the shards failed; the others are there.
    UnsafePathError
        A member's name leads out of the archive.
    CorruptArchiveError, UnsupportedMemberError
        A member cannot be read, or differs from the checksum that a ZIP or NPZ has of it.
    LimitError
        The members take more than `limits` allow.
    """
    check_archive(archive)
    path = output_path("target", target, storage_options, filesystem)
    chosen = kind_of(path) if kind is None else kind
    check_choice("kind", chosen, get_args(Kind))
    if chosen == "bins" and locate(path).local_path is None:
        raise OptionError(
            f"{path}: bins cannot be written to a URL; write them to a directory, and upload it"
        )
    step = progress or (lambda count: None)
    positions = [*_live(archive)]
    check_expansion(archive, positions, check_limits(limits))
    if shards is not None or executor is not None:
        if shards is None or chosen == "bins":
            raise OptionError(
                "executor writes several archives at a time; say how many with shards, and choose "
                "another kind than bins"
            )
        check_integer("shards", shards, 1)
        from imagearchive.archive.convert_shards import convert_shards
        from imagearchive.archive.pack import shard_path

        return convert_shards(
            archive,
            (locate(shard_path(path, number)).path for number in range(shards)),
            chosen,
            positions,
            shards,
            executor,
            progress,
            overwrite=overwrite,
            index=index,
            sync=sync,
        )
    if chosen == "bins":
        with changes_first(archive):
            _to_bins(archive, path, positions, splits, overwrite, step)
        if index:
            from imagearchive.index.table import IndexTable

            IndexTable.open(path, overwrite=True)
    else:
        write_members(
            archive,
            path,
            chosen,
            positions,
            overwrite=overwrite,
            index=index,
            sync=sync,
            step=step,
        )
    return len(positions)


def _live(archive: Archive) -> Iterator[int]:
    if len(archive.table.files) == 1:
        yield from range(len(archive))
        return
    lookup = archive.table.lookup
    for position in range(len(archive)):
        if lookup.find(lookup.name(position)) == position:
            yield position


def _to_bins(
    archive: Archive,
    path: str,
    positions: list[int],
    splits: int,
    overwrite: bool,
    step: Callable[[int], object],
) -> None:
    from imagearchive.containers.bins.writer import write_split_data

    def packets() -> Iterator[bytes | memoryview]:
        for position in positions:
            yield read_whole(archive, position)
            step(1)

    write_split_data(path, packets(), splits=splits, start_clean=overwrite)
