"""One client's connection, bounded in what it can hold and in what it can cost the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Opcode
from websockets.protocol import Event, State

from qsft_robot.server.metrics import ServerMetrics

# Bytes parsed at once: a hundred and seventy pongs at most.
SLICE = 1 << 10
# Frames of one connection in one pass of the event loop; the rest waits for the next pass.
FRAMES_PER_PASS = 64
# Pings and pongs of one client: this many at once, and so many a second. An honest one sends one in
# 20 seconds and answers ours.
CONTROL_BURST, CONTROL_PER_S = 64, 16
POLICY_VIOLATION = 1008


class Valve:
    """A transport as the library sees it: pausing holds back what is parsed, too, not only what
    is read."""

    def __init__(self, transport: asyncio.Transport, opened: Callable[[], None]) -> None:
        self._transport = transport
        self._opened = opened
        self.closed = False

    def pause_reading(self) -> None:
        self.closed = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self.closed = False
        self._opened()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def bounded_connection(
    metrics: ServerMetrics, max_unread: int, slow_after_s: float
) -> type[ServerConnection]:
    """A connection class for `websockets.asyncio.server.serve`.

    It takes a bounded number of frames in one pass of the event loop. It is cut off when it sends
    more pings and pongs than its budget, leaves more than `max_unread` bytes of answers unread, or
    takes more than `slow_after_s` for one frame.
    """

    class BoundedConnection(ServerConnection):
        """Parses in slices, counts its control frames and looks at its write buffer."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._real = cast(asyncio.Transport, transport)
            self._valve = Valve(self._real, self._go_on)
            self._data, self._at = b"", 0
            self._next: asyncio.Handle | None = None
            self._frames = 0
            self._budget, self._counted_at = float(CONTROL_BURST), self.loop.time()
            self._slow: asyncio.TimerHandle | None = None
            super().connection_made(cast(asyncio.Transport, self._valve))

        def data_received(self, data: bytes) -> None:
            self._data, self._at = self._data[self._at :] + data, 0
            if self._next is None:
                self._parse()

        def eof_received(self) -> None:
            self._forget()
            super().eof_received()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def process_event(self, event: Event) -> None:
            self._frames += 1
            opcode = getattr(event, "opcode", None)
            if isinstance(opcode, Opcode) and opcode not in DATA_OPCODES:
                now = self.loop.time()
                refilled = self._budget + CONTROL_PER_S * (now - self._counted_at)
                self._budget = min(float(CONTROL_BURST), refilled) - 1
                self._counted_at = now
            super().process_event(event)

        @property
        def _unparsed(self) -> bool:
            return self._at < len(self._data)

        def _parse(self) -> None:
            """Parse what came, up to this pass' share of frames."""
            self._next = None
            self._frames = 0
            while self._unparsed and not self._valve.closed and self._frames < FRAMES_PER_PASS:
                part, before = self._data[self._at : self._at + SLICE], self._frames
                self._at += len(part)
                super().data_received(part)
                self._watch_frame(self._frames > before)
                if self._budget < 0:
                    self._cut_off("control_frames", "too many pings or pongs")
                # The library answers every ping, whether the client reads the answers or not.
                elif self._real.get_write_buffer_size() > max_unread:
                    self._cut_off("unread", "answers are left unread")
            if self._valve.closed:
                return
            if self._unparsed:
                self._real.pause_reading()
                self._next = self.loop.call_soon(self._parse)
            elif not self._real.is_closing():
                self._real.resume_reading()

        def _go_on(self) -> None:
            if self._next is None:
                self._next = self.loop.call_soon(self._parse)

        def _watch_frame(self, whole: bool) -> None:
            """Start a time limit at the first part of a frame, stop it when frames are whole or
            when it is this side that does not read."""
            if whole or self._valve.closed or self.protocol.state is not State.OPEN:
                if self._slow is not None:
                    self._slow.cancel()
                self._slow = None
            elif self._slow is None:
                self._slow = self.loop.call_later(
                    slow_after_s, self._cut_off, "slow", "half a frame, for too long"
                )

        def _cut_off(self, reason: str, words: str) -> None:
            """Close with 1008 if that can be sent at once, else without."""
            self._forget()
            if self._real.is_closing():
                return
            metrics.cut_off[reason] += 1
            if self.protocol.state is State.OPEN:
                self.protocol.fail(POLICY_VIOLATION, words)
                self.send_data()
            if self._real.get_write_buffer_size():
                self._real.abort()
            else:
                self._real.close()

        def _forget(self) -> None:
            """Drop what was not parsed, and all that was to come of it."""
            self._data, self._at = b"", 0
            for handle in (self._next, self._slow):
                if handle is not None:
                    handle.cancel()
            self._next = self._slow = None

    return BoundedConnection
