"""The process of `FaultyServer`: HTTP/1.1 on one thread, with latency that costs no CPU."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import random
import socket
import struct
import urllib.parse
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from support.servers.faults import Fault, Response

CHUNK = 1 << 20
# The pace of a limited bandwidth is kept in steps of this many seconds, if they are large enough.
PACE = 0.002
SMALLEST_CHUNK = 16 << 10
# What asyncio's timers are late by on average, because the system's are in milliseconds.
TIMER_DELAY = 0.0005


@dataclass
class Request:
    """A request that the server got, and what it answered.

    Attributes
    ----------
    method, path : str
        The path without its first slash, decoded.
    query : str
    headers : dict
        With names in small letters.
    connection : int
        The number of the connection, in the order in which they came.
    status : int
        What was answered.
    sent : int
        How many bytes of a body were sent.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    connection: int
    status: int = 0
    sent: int = 0

    @property
    def range(self) -> tuple[int, int] | None:
        """The first byte that was asked for, and the one after the last, if both were given."""
        first, _, last = self.headers.get("range", "").removeprefix("bytes=").partition("-")
        return (int(first), int(last) + 1) if first and last else None


@dataclass
class Settings:
    """How slow the server is."""

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    record: bool = True
    round_gap: float = 0.0


@dataclass
class Totals:
    """What the server did since it started, or since `reset`."""

    requests: int = 0
    connections: int = 0
    sent: int = 0
    most_in_flight: int = 0
    rounds: int = 0


class _Object:
    """The bytes of an object, in memory or in a file, and its ETag."""

    def __init__(self, data: bytes | Path) -> None:
        if isinstance(data, Path):
            with open(data, "rb") as file:
                status = os.fstat(file.fileno())
                size = status.st_size
                self.data: Any = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if size else b""
            token = f"{size:x}-{status.st_mtime_ns:x}"
        else:
            self.data = data
            token = hashlib.sha256(data).hexdigest()[:32]
        self.etag = f'"{token}"'


class _Server:
    def __init__(self) -> None:
        self.settings = Settings()
        self.objects: dict[str, _Object] = {}
        self.forget()
        self.in_flight = 0
        self._free_at = 0.0
        self._round: list[asyncio.Future[None]] = []
        self._round_end: asyncio.TimerHandle | None = None

    def forget(self) -> None:
        """Forget all faults and requests."""
        self.faults: list[tuple[Fault, list[int]]] = []
        self.requests: list[Request] = []
        self.totals = Totals()
        self._random = random.Random(0)

    def put(self, path: str, data: bytes | Path | None) -> None:
        """Set an object, or remove it."""
        if data is None:
            self.objects.pop(path, None)
        else:
            self.objects[path] = _Object(data)

    def latency(self) -> float:
        """Return how many seconds the next round trip takes."""
        settings = self.settings
        return settings.latency + settings.jitter * self._random.random()

    async def pace(self, count: int) -> None:
        """Wait until the bandwidth, which all connections share, allows some bytes."""
        if self.settings.bandwidth:
            now = asyncio.get_running_loop().time()
            self._free_at = max(now, self._free_at) + count / self.settings.bandwidth
            await asyncio.sleep(self._free_at - now)

    async def next_round(self) -> None:
        """Wait until no further request comes, if requests are answered in rounds."""
        if not self.settings.round_gap:
            return
        loop = asyncio.get_running_loop()
        self._round.append(loop.create_future())
        if self._round_end is not None:
            self._round_end.cancel()
        self._round_end = loop.call_later(self.settings.round_gap, self._end_round)
        await self._round[-1]

    def _end_round(self) -> None:
        self.totals.rounds += 1
        ended, self._round, self._round_end = self._round, [], None
        for future in ended:
            if not future.done():
                future.set_result(None)

    def answer(self, request: Request) -> Response:
        """Return what to send, with the faults that apply."""
        applied = [fault for fault, seen in self.faults if _applies(fault, seen, request)]
        for fault in applied:
            data = fault.replacement()
            if data is not None:
                self.put(request.path, data)
        response = _proper_answer(self.objects.get(request.path), request)
        for fault in applied:
            fault.change(response)
        return response


def _applies(fault: Fault, seen: list[int], request: Request) -> bool:
    if fault.path is not None and fault.path != request.path:
        return False
    if fault.method is not None and fault.method != request.method:
        return False
    if fault.header is not None and request.headers.get(fault.header[0]) != fault.header[1]:
        return False
    number = seen[0]
    seen[0] += 1
    return number >= fault.skip and (fault.times is None or number < fault.skip + fault.times)


def _proper_answer(found: _Object | None, request: Request) -> Response:
    if request.method not in {"GET", "HEAD"}:
        return Response(405, {"allow": "GET, HEAD"}, b"", b"")
    if found is None:
        return Response(404, {"content-type": "text/plain"}, b"not found\n", b"")
    whole = memoryview(found.data)
    headers = {
        "etag": found.etag,
        "accept-ranges": "bytes",
        "content-type": "application/octet-stream",
        "last-modified": "Wed, 01 Jan 2025 00:00:00 GMT",
    }
    if not _matches(request.headers.get("if-match"), found.etag, default=True):
        return Response(412, headers, b"", whole)
    if _matches(request.headers.get("if-none-match"), found.etag, default=False):
        return Response(304, headers, b"", whole)
    wanted = request.headers.get("range")
    if wanted is None or request.headers.get("if-range", found.etag) != found.etag:
        return Response(200, headers, whole, whole)
    try:
        span = _parse_range(wanted, len(whole))
    except ValueError:
        return Response(200, headers, whole, whole)
    if span is None:
        headers["content-range"] = f"bytes */{len(whole)}"
        return Response(416, headers, b"", whole)
    start, stop = span
    headers["content-range"] = f"bytes {start}-{stop - 1}/{len(whole)}"
    return Response(206, headers, whole[start:stop], whole)


def _matches(condition: str | None, etag: str, default: bool) -> bool:
    if condition is None:
        return default
    return condition.strip() == "*" or etag in [one.strip() for one in condition.split(",")]


def _parse_range(text: str, size: int) -> tuple[int, int] | None:
    unit, _, spelled = text.partition("=")
    first, dash, last = spelled.partition("-")
    if unit != "bytes" or not dash:
        raise ValueError(text)
    if first:
        start, stop = int(first), int(last) + 1 if last else size
    else:
        start, stop = max(0, size - int(last)), size
    return (start, min(stop, size)) if start < min(stop, size) else None


class _HTTP(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._received = b""
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._answered = 0
        self._received_at = 0.0

    def connection_made(self, transport) -> None:
        self.transport = transport
        # `_writable` then means that the system has everything.
        transport.set_write_buffer_limits(0)
        self._number = self._server.totals.connections
        self._server.totals.connections += 1

    def connection_lost(self, exc) -> None:
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._received_at = asyncio.get_running_loop().time()
        self._begin()

    def _begin(self) -> None:
        if self._task is not None:
            return
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        request = self._parse(head.decode("latin-1"))
        length = int(request.headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._received = rest[length:]
        self._task = asyncio.get_running_loop().create_task(self._handle(request))
        self._task.add_done_callback(self._ended)

    def _parse(self, head: str) -> Request:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        return Request(method, urllib.parse.unquote(path)[1:], query, headers, self._number)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        task.result()
        self._task = None
        if not self.transport.is_closing():
            self._begin()

    async def _handle(self, request: Request) -> None:
        server, totals = self._server, self._server.totals
        totals.requests += 1
        if server.settings.record:
            server.requests.append(request)
        server.in_flight += 1
        totals.most_in_flight = max(totals.most_in_flight, server.in_flight)
        try:
            response = server.answer(request)
            request.status = response.status
            # To connect takes one round trip, which loopback does not show.
            delay = server.latency() + response.delay
            if not self._answered:
                delay += server.latency()
            self._answered += 1
            if delay:
                # What the server itself needed under load is part of the round trip.
                due = self._received_at + delay - TIMER_DELAY
                await asyncio.sleep(due - asyncio.get_running_loop().time())
            await server.next_round()
            await self._send(request, response)
        finally:
            server.in_flight -= 1

    async def _send(self, request: Request, response: Response) -> None:
        headers = {"date": formatdate(usegmt=True), **response.headers}
        if response.status != 304:
            headers.setdefault("content-length", str(len(response.body)))
        phrase = HTTPStatus(response.status).phrase
        lines = [f"HTTP/1.1 {response.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        body = memoryview(b"" if request.method == "HEAD" else response.body)
        if response.keep is not None:
            body = body[: response.keep]
        if not response.silent:
            await self._write(request, head, body, response)
        if response.keep is not None:
            self._hang_up(response.reset)

    async def _write(self, request: Request, head, body, response: Response) -> None:
        server, bandwidth = self._server, self._server.settings.bandwidth
        step = max(SMALLEST_CHUNK, min(CHUNK, int(bandwidth * PACE))) if bandwidth else CHUNK
        if response.chunk:
            step = response.chunk
        for start in range(0, len(body), step):
            part = body[start : start + step]
            await server.pace(len(part))
            if start and response.interval:
                await asyncio.sleep(response.interval)
            if self.transport.is_closing():
                return
            self.transport.write(b"".join([head, part]) if head else part)
            head = b""
            request.sent += len(part)
            server.totals.sent += len(part)
            await self._writable.wait()
        if head:
            self.transport.write(head)
            await self._writable.wait()

    def _hang_up(self, reset: bool) -> None:
        if reset:
            connected = self.transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()


async def _serve(control: Connection) -> None:
    loop = asyncio.get_running_loop()
    server = _Server()
    done = asyncio.Event()

    def obey() -> None:
        try:
            command, *arguments = control.recv()
        except EOFError:
            # The tests are over, or were killed.
            done.set()
            return
        control.send(_obey(server, command, arguments))

    loop.add_reader(control.fileno(), obey)
    listener = await loop.create_server(lambda: _HTTP(server), "127.0.0.1", 0, backlog=1024)
    control.send(listener.sockets[0].getsockname()[1])
    await done.wait()


def _obey(server: _Server, command: str, arguments: list[Any]) -> Any:
    match command:
        case "put":
            for path, data in arguments[0].items():
                server.put(path, data)
        case "etag":
            return server.objects[arguments[0]].etag
        case "settings":
            server.settings = arguments[0]
        case "faults":
            server.faults += [(fault, [0]) for fault in arguments[0]]
        case "requests":
            return server.requests
        case "totals":
            return server.totals
        case "forget":
            server.forget()
        case "reset":
            server.forget()
            server.settings = Settings()
            server.objects.clear()
    return None


def main(descriptor: int) -> None:
    """Serve until the other end of the connection is closed."""
    with Connection(descriptor) as control:
        asyncio.run(_serve(control))
