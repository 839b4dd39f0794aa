"""The answer of an HTTP server, read with few calls.

For a small member, `http.client` takes four times as much processor time as all of this: it reads
line by line, and makes an e-mail message of the headers.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
from typing import Final

__all__ = ["HttpResponse"]

# Bytes that one call receives at most, together with headers. Small members arrive at once.
_RECEIVE: Final = 64 << 10
# Longest headers, and longest line that begins a chunk.
_MAX_HEAD: Final = 64 << 10
_MAX_LINE: Final = 4096
_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS: Final = re.compile(r"HTTP/1\.([01]) ([1-9]\d\d)(?: (.*))?")
_LENGTH: Final = re.compile(r"\d{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class HttpResponse:
    """The answer to a GET request: its headers, and then its body, as it is asked for.

    Parameters
    ----------
    connected : socket
        A request was sent on it, and nothing was received since.
    deadline : float
        When the headers, and those of all chunks, must have arrived, as `time.monotonic` counts.

    Attributes
    ----------
    status : int
    reason : str
    length : int or None
        How many bytes of the body are left; None if the headers do not say it.

    Raises
    ------
    OSError, http.client.HTTPException
        The connection was closed, or this is not HTTP/1.
    """

    __slots__ = (
        "_chunk_left",
        "_deadline",
        "_headers",
        "_is_chunked",
        "_keeps_alive",
        "_rest",
        "_socket",
        "length",
        "reason",
        "status",
    )

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        self._deadline = deadline
        # What was received and not read yet.
        self._rest = memoryview(b"")
        self.status = 100
        # A server may announce an answer by others.
        while self.status < 200:
            self._parse_head(self._receive_head())
        coding = self._headers.get("transfer-encoding", "").lower()
        self._is_chunked = coding == "chunked"
        self._chunk_left = -1
        self.length: int | None = None
        if self.status in (204, 304):
            self.length, self._is_chunked = 0, False
        elif not coding and "content-length" in self._headers:
            text = self._headers["content-length"]
            if not _LENGTH.fullmatch(text):
                raise http.client.HTTPException("the server sent a length that is not a number")
            self.length = int(text)

    def getheader(self, name: str) -> str | None:
        """Return the value of a header; several of the same name are joined by commas."""
        return self._headers.get(name.lower())

    def readinto(self, buffer: memoryview) -> int:
        """Receive a part of the body that arrives with one call; return its size, 0 at the end."""
        wanted = len(buffer)
        if self._is_chunked:
            wanted = min(wanted, self._next_chunk())
        elif self.length is not None:
            wanted = min(wanted, self.length)
        if not wanted:
            return 0
        if self._rest:
            received = min(wanted, len(self._rest))
            buffer[:received] = self._rest[:received]
            self._rest = self._rest[received:]
        else:
            received = self._socket.recv_into(buffer, wanted)
        if self._is_chunked:
            self._chunk_left -= received
        elif self.length is not None:
            self.length -= received
        return received

    def finish(self, most: int = 0) -> None:
        """Receive the rest of the body if it is known to be short, or if only its end is left."""
        if self._is_chunked:
            self._next_chunk()
        elif self.length is not None and self.length <= most:
            rest = memoryview(bytearray(self.length))
            while self.length and self.readinto(rest):
                pass

    @property
    def can_be_followed(self) -> bool:
        """Whether the body was read to its end, and the connection can be used again."""
        return self.length == 0 and self._keeps_alive and not self._rest

    def _receive_head(self) -> str:
        """Receive all headers, and perhaps what follows them."""
        data = bytes(self._rest)
        searched = 0
        while (end := _END.search(data, searched)) is None:
            # The end may be cut.
            searched = max(0, len(data) - 3)
            if len(data) > _MAX_HEAD:
                raise http.client.HTTPException("the server sent headers of more than 64 KiB")
            received = self._receive()
            data = data + received if data else received
        self._rest = memoryview(data)[end.end() :]
        return data[: end.start()].decode("latin-1")

    def _receive(self) -> bytes:
        if time.monotonic() > self._deadline:
            raise TimeoutError
        received = self._socket.recv(_RECEIVE)
        if not received:
            raise http.client.RemoteDisconnected("")
        return received

    def _parse_head(self, head: str) -> None:
        first, *lines = head.split("\n")
        match = _STATUS.fullmatch(first.rstrip("\r"))
        if match is None:
            raise http.client.BadStatusLine(first[:100])
        minor, status, self.reason = match[1], int(match[2]), (match[3] or "").strip()
        self.status = status
        headers: dict[str, str] = {}
        last = ""
        for line in lines:
            name, colon, value = line.partition(":")
            if line[:1] in " \t" and last:
                # A long value of an old server, which goes on.
                headers[last] = f"{headers[last]} {line.strip()}"
            elif colon:
                last, value = name.lower(), value.strip()
                headers[last] = f"{headers[last]}, {value}" if last in headers else value
        self._headers = headers
        option = headers.get("connection", "").lower()
        self._keeps_alive = "close" not in option if minor == "1" else "keep-alive" in option

    def _next_chunk(self) -> int:
        """Return how many bytes of the current chunk are left; 0 after the last one."""
        if self._chunk_left > 0 or self.length == 0:
            return max(0, self._chunk_left)
        if self._chunk_left == 0 and self._receive_line():
            raise http.client.HTTPException("the server sent a chunk of another size")
        match = _CHUNK.fullmatch(self._receive_line())
        if match is None:
            raise http.client.HTTPException("the server sent a chunk without its size")
        self._chunk_left = int(match[1], 16)
        if not self._chunk_left:
            read = 0
            while line := self._receive_line():
                read += len(line)
                if read > _MAX_HEAD:
                    raise http.client.HTTPException("the server sent headers of more than 64 KiB")
            self.length = 0
        return self._chunk_left

    def _receive_line(self) -> bytes:
        line = bytes(self._rest[:_MAX_LINE])
        while (end := line.find(b"\n")) < 0:
            if len(line) == _MAX_LINE:
                raise http.client.HTTPException("the server sent a line of more than 4 KiB")
            self._rest = memoryview(bytes(self._rest) + self._receive())
            line = bytes(self._rest[:_MAX_LINE])
        self._rest = self._rest[end + 1 :]
        return line[:end].rstrip(b"\r")
