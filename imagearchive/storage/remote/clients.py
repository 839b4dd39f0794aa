"""The clients of this process: one for each bucket or kind of server, and options.

A forked child must not use what its parent has used: connections, and the threads of obstore. So
clients belong to a process, and a child makes its own. obstore cannot be started a second time
after a fork; a child whose parent had imported it uses it in a helper process instead.
"""

from __future__ import annotations

import atexit
import os
import sys

from imagearchive.storage.path_options import AccessOptions
from imagearchive.storage.remote.client import Client
from imagearchive.storage.remote.direct_client import HTTP, make_client

__all__ = ["client_for"]

_clients: dict[tuple[str, str, bytes], Client] = {}
# In a child, those of its parents, which are never used again.
_of_parents: list[dict[tuple[str, str, bytes], Client]] = []
# Set in a child if obstore's threads may have been lost in the fork, so that a call of it would
# never return.
_lost_obstore: list[int] = []


def client_for(scheme: str, bucket: str, options: AccessOptions) -> Client:
    """Return the client of this process for a bucket, or for a scheme alone.

    Parameters
    ----------
    scheme : str
    bucket : str
        Empty for HTTP, where a key is a whole URL.
    options : AccessOptions
    """
    key = (scheme, bucket, options.key)
    client = _clients.get(key)
    if client is None:
        # Of several threads, all get the same client.
        client = _clients.setdefault(key, _make(scheme, bucket, options))
    return client


def _make(scheme: str, bucket: str, options: AccessOptions) -> Client:
    if options.filesystem is not None:
        from imagearchive.storage.remote.fsspec_client import FilesystemClient

        return FilesystemClient(scheme, options.filesystem)
    if scheme in HTTP or not _lost_obstore:
        return make_client(scheme, bucket, options)
    from imagearchive.storage.remote.helper_client import HelperClient

    return HelperClient(scheme, bucket, options)


def _forget_parent() -> None:
    if "obstore" in sys.modules:
        _lost_obstore.append(os.getpid())
    # Neither closed nor freed: the connections are the parent's, too, and obstore may wait forever
    # for a lock that one of the parent's threads held during the fork.
    _of_parents.append(dict(_clients))
    _clients.clear()


@atexit.register
def _close() -> None:
    for client in _clients.values():
        client.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
