"""The server's listening socket: it bounds the connections that have not shown who they are."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

try:
    import resource
except ImportError:  # Windows has no limit of this kind
    resource = None  # type: ignore[assignment]

# Connections taken in one pass of the event loop: between two passes the clients get their turn.
PER_PASS = 8
# Connections that are closed between two collections of garbage: each TLS connection leaves a
# buffer of 256 KiB in a circle of references, which no allocation of small objects makes visible.
COLLECT_EVERY = 64
# Files beside the connections: the policy's, logs, the loop's own.
OTHER_FILES = 128
_NO_FILES_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Stranger(socket.socket):
    """An accepted connection, which tells the door when it is closed."""

    on_close: Callable[[Stranger], None] | None = None
    host = ""

    def close(self) -> None:
        """Close the socket."""
        if self.on_close is not None:
            self.on_close(self)
            self.on_close = None
        super().close()


class Door(socket.socket):
    """A listening socket for `loop.create_server` whose `accept` counts.

    From `accept` on, before any TLS, a connection is a stranger until `let_in`. There are at most
    `max_strangers`: who comes beyond them takes the place of the oldest one of the address that
    has the most. An honest client needs milliseconds to show itself, so whoever holds doors half
    open closes his own.
    """

    def __init__(self, bound: socket.socket, max_strangers: int) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._max_strangers = max_strangers
        # In the order of their coming, by file number.
        self._strangers: dict[int, Stranger] = {}
        self._by_host: Counter[str] = Counter()
        self._taken = 0
        self._closed_since = 0
        # Strangers who lost their place.
        self.evicted = 0

    @property
    def strangers(self) -> int:
        """Connections that have not finished their handshakes."""
        return len(self._strangers)

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection; BlockingIOError when none waits or this pass took enough."""
        if self._taken >= PER_PASS:
            raise BlockingIOError("the other connections' turn")
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._next_pass)
        self._taken += 1
        try:
            plain, address = super().accept()
        except OSError as error:
            if error.errno in _NO_FILES_LEFT and self._strangers:
                self._evict()
                raise BlockingIOError("no file is left for a connection") from None
            raise
        stranger = Stranger(plain.family, plain.type, plain.proto, fileno=plain.detach())
        stranger.host = str(address[0])
        stranger.on_close = self._closed_one
        if len(self._strangers) >= self._max_strangers:
            self._evict()
        self._strangers[stranger.fileno()] = stranger
        self._by_host[stranger.host] += 1
        return stranger, address

    def let_in(self, file: int) -> None:
        """The connection of this file number is a client's from now on."""
        stranger = self._strangers.get(file)
        if stranger is not None:
            self._forget(stranger)

    def turn_out(self) -> None:
        """End every connection that is still a stranger."""
        while self._strangers:
            self._evict()

    def _next_pass(self) -> None:
        self._taken = 0

    def _evict(self) -> None:
        most = max(self._by_host.values())
        oldest = next(s for s in self._strangers.values() if self._by_host[s.host] == most)
        self._forget(oldest)
        self.evicted += 1
        # The transport owns the file and closes it once it has seen the end.
        with suppress(OSError):
            oldest.shutdown(socket.SHUT_RDWR)

    def _closed_one(self, stranger: Stranger) -> None:
        self._forget(stranger)
        self._closed_since += 1
        if self._closed_since >= COLLECT_EVERY:
            self._closed_since = 0
            asyncio.get_running_loop().call_soon(gc.collect)

    def _forget(self, stranger: Stranger) -> None:
        if self._strangers.get(stranger.fileno()) is stranger:
            del self._strangers[stranger.fileno()]
            self._by_host[stranger.host] -= 1
            self._by_host += Counter()  # drops those at 0


def reserve_files(connections: int) -> None:
    """Raise this process' limit of open files where `connections` need it; ValueError beyond what
    the system allows."""
    if resource is None:
        return
    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ValueError(
            f"--max-connections needs {needed} open files, this process may have {hard}; give at "
            f"most {max(1, hard - OTHER_FILES - (needed - OTHER_FILES - connections))}, or raise "
            "the limit (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
