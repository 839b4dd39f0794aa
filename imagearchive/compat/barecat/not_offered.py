"""Names of `barecat` that are not offered: each raises one line that names our way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from imagearchive.compat.barecat.exceptions import NotOfferedError

__all__ = ["FUNCTIONS", "INDEX_METHODS", "METHODS", "VIEW_METHODS", "not_offered"]

_WRITE: Final = "write a TAR with imagearchive.TarWriter or imagearchive.pack"
_REPACK: Final = "write a new archive with imagearchive.TarWriter"
_VIEW: Final = "register the codec with DecodedView(archive).register_codec"
_GLOB: Final = "use glob_paths, or match iter_all_filepaths with fnmatch"
_SQL: Final = "there is no SQLite connection; use lookup and iter_all_fileinfos"

#: Methods of `barecat.Barecat`, and what to use instead.
METHODS: Final = {
    "__setitem__": _WRITE,
    "__delitem__": _REPACK,
    "add": _WRITE,
    "add_by_path": _WRITE,
    "chmod": _REPACK,
    "chown": _REPACK,
    "clear": _REPACK,
    "defrag": "imagearchive.convert writes an archive without gaps",
    "merge_from_other_barecat": "imagearchive.open reads a list of archives as one",
    "mkdir": _WRITE,
    "pop": _REPACK,
    "popitem": _REPACK,
    "register_codec": _VIEW,
    "remove": _REPACK,
    "rename": _REPACK,
    "rmdir": _REPACK,
    "rmtree": _REPACK,
    "truncate_all_to_logical_size": "imagearchive.convert writes an archive without gaps",
    "update": _WRITE,
    "update_file": _REPACK,
}

#: Methods of `barecat.Index`, and what to use instead.
INDEX_METHODS: Final = {
    "add": _WRITE,
    "add_dir": _WRITE,
    "add_file": _WRITE,
    "add_files": _WRITE,
    "bulk_mode": _WRITE,
    "chmod": _REPACK,
    "chown": _REPACK,
    "fetch_all": _SQL,
    "fetch_iter": _SQL,
    "fetch_many": _SQL,
    "fetch_one": _SQL,
    "fetch_one_or_raise": _SQL,
    "find_space": _WRITE,
    "iterglob_infos_incl_excl": _GLOB,
    "merge_from_other_barecat": "imagearchive.open reads a list of archives as one",
    "optimize": "the index file needs no maintenance",
    "raw_glob_paths": _GLOB,
    "raw_iterglob_infos": _GLOB,
    "raw_iterglob_infos_incl_excl": _GLOB,
    "raw_iterglob_paths": _GLOB,
    "raw_iterglob_paths_multi": _GLOB,
    "remove_empty_dir": _REPACK,
    "remove_file": _REPACK,
    "remove_files": _REPACK,
    "remove_recursively": _REPACK,
    "rename": _REPACK,
    "rename_dir": _REPACK,
    "rename_file": _REPACK,
    "update_dirs": _WRITE,
    "update_file": _REPACK,
    "update_mtime": _REPACK,
    "update_treestats": _WRITE,
}

#: Methods of `barecat.DecodedView`, and what to use instead.
VIEW_METHODS: Final = {
    "__setitem__": _WRITE,
    "__delitem__": _REPACK,
    "clear": _REPACK,
    "clear_codecs": "the archive itself returns the bytes of its files",
    "pop": _REPACK,
    "popitem": _REPACK,
    "setdefault": _WRITE,
    "update": _WRITE,
}

#: Functions and classes of the module `barecat`, and what to use instead.
FUNCTIONS: Final = {
    "BarecatReadWriteFileObject": _WRITE,
    "Sharder": "imagearchive.Archive.storage returns the bytes of a shard",
    "archive2barecat": "imagearchive.open reads a TAR or ZIP in place",
    "barecat2archive": "use imagearchive.convert",
    "get_completion_script": "run `imagearchive completion`",
    "merge": "imagearchive.open reads a list of archives as one",
    "merge_symlink": "imagearchive.open reads a list of archives as one",
    "remove": "remove the files with os.remove",
    "write_index": _WRITE,
}


def not_offered(name: str, instead: str) -> Callable[..., Any]:
    """Return a function that raises `NotOfferedError`, whatever its arguments."""

    def refuse(*args: object, **kwargs: object) -> Any:
        raise NotOfferedError(f"barecat's {name} is not offered, as nothing is written; {instead}")

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Not offered: {instead}."
    return refuse
