"""Floods that a policy server must bear, by kind: each a process that fills connections with bytes.

`python scripts/server_floods.py KIND ADDRESS SECONDS` runs one against loopback and prints what
became of its connections. scripts/soak_floods.py starts them.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from malformed_frames import BINARY, HANDSHAKE, TEXT, frame

TOKEN = "a-token-for-the-soak-test"
PATIENCE_S = 5.0
CLOSE, PING, PONG, PART = 0x88, 0x89, 0x8A, 0x00


@dataclass(frozen=True)
class Flood:
    """One kind of flood: connections held at once, what each sends first, then again and again."""

    connections: int
    first: bytes = b""
    again: bytes = b""
    # How far each gets: a bare TCP connection, TLS where the server speaks it, or a client's place.
    stage: str = "client"
    reads: bool = True
    # Seconds between two sendings of one connection.
    pause_s: float = 0.0
    # Whether it hangs up after `first` and comes again.
    comes_again: bool = False


def floods(limit: int) -> dict[str, Flood]:
    """The kinds, for a server that takes messages of up to `limit` bytes."""
    get = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"
    most = limit - 64
    words = min(0xFFFF, (most - 3) // 3)
    body = b"\xdc" + words.to_bytes(2, "big") + b"\xa2ab" * words  # a list of two-letter words
    return {
        "silent sockets": Flood(3999, stage="tcp"),
        "half a TLS hello": Flood(200, b"\x16\x03\x01\x02\x00\x01", stage="tcp"),
        "silent after TLS": Flood(200, stage="tls"),
        "headers by bytes": Flood(200, b"GET / HTTP/1.1\r\nX: ", b"x", "tls", pause_s=0.2),
        "connect and go": Flood(8, stage="tcp", comes_again=True),
        "/healthz": Flood(8, get.format("/healthz").encode(), stage="tls", comes_again=True),
        "wrong tokens": Flood(8, get.format("/metrics").encode(), stage="tls", comes_again=True),
        "pongs": Flood(1, again=4000 * frame(b"", PONG)),
        "pongs of 8 clients": Flood(8, again=4000 * frame(b"", PONG)),
        "pings, never reading": Flood(8, again=500 * frame(bytes(125), PING), reads=False),
        "parts of one byte": Flood(8, frame(b"\x81", 0x02), 2000 * frame(b"a", PART)),
        "parts of nothing": Flood(8, frame(b"\x81", 0x02), 4000 * frame(b"", PART)),
        "a byte of a part": Flood(32, frame(b"\x81", 0x02), frame(b"a", PART), pause_s=1.0),
        "all but one byte": Flood(32, frame(bytes(most))[:-1]),
        "empty requests": Flood(8, again=2000 * frame(b"")),
        "empty requests, unread": Flood(8, again=2000 * frame(b""), reads=False),
        "many words": Flood(8, again=frame(body)),
        "text": Flood(8, again=500 * frame(b"a" * 100, TEXT)),
        "compressed": Flood(8, again=frame(bytes(1000), BINARY | 0x40)),
        "close, never ending": Flood(32, frame(b"\x03\xe8", CLOSE), 100 * frame(bytes(999))),
    }


@dataclass
class Stream:
    """One connection of a flood, and what of the next bytes is still to be sent."""

    socket: socket.socket
    left: memoryview = field(default_factory=lambda: memoryview(b""))
    next_at: float = 0.0
    sent: int = 0


def connect(address: tuple[str, int], stage: str, tls: bool) -> socket.socket:
    """A connection that got as far as `stage`; OSError when the server does not let it."""
    stream: socket.socket = socket.create_connection(address, timeout=PATIENCE_S)
    try:
        if stage != "tcp" and tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            stream = context.wrap_socket(stream)
        if stage == "client":
            stream.sendall(f"{HANDSHAKE}Authorization: Api-Key {TOKEN}\r\n\r\n".encode())
            if b" 101 " not in stream.recv(1 << 16)[:20]:
                raise ConnectionRefusedError("not let in")
        stream.setblocking(False)
    except OSError:
        stream.close()
        raise
    return stream


def push(stream: Stream, flood: Flood, now: float) -> bool:
    """Send what the sockets' buffers take; whether the connection goes on."""
    try:
        if flood.reads and stream.sent:
            found = stream.socket.recv(1 << 16)
            if not found:
                return False
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
    except OSError:
        return False
    if not stream.left:
        if flood.comes_again and stream.sent:
            return True  # the answer is still to come
        if now < stream.next_at or (stream.sent and not flood.again):
            return True
        stream.left = memoryview(flood.first + flood.again if not stream.sent else flood.again)
        stream.next_at = now + flood.pause_s
        stream.sent += 1
    try:
        stream.left = stream.left[stream.socket.send(stream.left) :]
    except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return not (flood.comes_again and not flood.first)


def run(flood: Flood, address: tuple[str, int], tls: bool, seconds: float) -> Counter[str]:
    """Keep the flood up for `seconds`; connections that were opened, refused and ended."""
    counts: Counter[str] = Counter()
    streams: list[Stream] = []
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        before = counts.total()
        # A few at a time, so that those that are open are kept busy.
        for _ in range(min(500, flood.connections - len(streams))):
            try:
                streams.append(Stream(connect(address, flood.stage, tls)))
                counts["opened"] += 1
            except OSError:
                counts["refused"] += 1
                break
        kept = []
        for stream in streams:
            if push(stream, flood, now):
                kept.append(stream)
            else:
                counts["ended"] += 1
                stream.socket.close()
        streams = kept
        if counts.total() == before and (not flood.again or flood.pause_s):
            time.sleep(0.01)
    for stream in streams:
        stream.socket.close()
    return counts


def main() -> None:
    """One flood; its counts on one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("address", help="ws://127.0.0.1:PORT or wss://127.0.0.1:PORT")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--limit", type=int, default=1 << 16, help="bytes of one message")
    options = parser.parse_args()
    scheme, _, place = options.address.partition("://")
    host, _, port = place.rpartition(":")
    if host != "127.0.0.1":
        sys.exit("floods go to 127.0.0.1 alone")
    flood = floods(options.limit)[options.kind]
    os.nice(5)  # the server and its clients are what is measured
    print(dict(run(flood, (host, int(port)), scheme == "wss", options.seconds)))


if __name__ == "__main__":
    main()
