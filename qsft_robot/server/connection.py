"""One TCP connection of the policy server, bounded in what it can hold."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection


def bounded_connection(max_transports: int, max_unread: int) -> type[ServerConnection]:
    """A connection class for `websockets.asyncio.server.serve`: beyond `max_transports` TCP
    connections at once (half-open ones count) a new one is dropped, and one that leaves more than
    `max_unread` bytes of answers unread is cut off."""
    transports = 0

    class BoundedConnection(ServerConnection):
        """Counts itself, and looks at its write buffer whenever data come in."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal transports
            transports += 1
            super().connection_made(transport)
            if transports > max_transports:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            nonlocal transports
            transports -= 1
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # The library answers every ping, whether the client reads the answers or not.
            if self.transport.get_write_buffer_size() > max_unread:
                self.transport.abort()

    return BoundedConnection
