"""Frames that no honest client sends, by kind, for the soak test of the server."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np

from qsft_robot.server.wire import pack

TEXT, BINARY, MASKED = 0x81, 0x82, 0x80
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
DTYPES = ("O", "<U8", "|S4", "<c16", "|V8", "<M8[s]", ">f4", "f4,f4", "", "float32", 7, None, [])
MASK = bytes(4)  # a mask of zeros leaves the payload as it is
BROKEN_FRAMES = {
    "unmasked": bytes([BINARY, 0x01, 0x80]),
    "reserved bits": bytes([0xF2, 0x80]) + MASK,
    "unknown kind": bytes([0x83, 0x80]) + MASK,
    "control frame in parts": bytes([0x09, 0x80]) + MASK,
    "long control frame": bytes([0x89, 0xFE, 0x01, 0x00]) + MASK + bytes(256),
    "a part of nothing": bytes([0x80, 0x80]) + MASK,
    "two halves": bytes([0x02, 0x80]) + MASK + bytes([BINARY, 0x80]) + MASK,
    "exabytes announced": bytes([BINARY, 0xFF]) + b"\xff" * 8 + MASK,
    "a gigabyte announced": bytes([BINARY, 0xFF]) + (1 << 30).to_bytes(8, "big") + MASK,
    "text that is no UTF-8": bytes([TEXT, 0x82]) + MASK + b"\xc3\x28",
    "close with one byte": bytes([0x88, 0x81]) + MASK + b"\x03",
    "close with a wrong code": bytes([0x88, 0x82]) + MASK + b"\x00\x01",
}
Maker = Callable[[random.Random], bytes]


def frame(payload: bytes, first: int = BINARY) -> bytes:
    """A client's websocket frame."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, MASKED | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", first, MASKED | 127, size)
    return head + MASK + payload


def junk(rng: random.Random, depth: int = 3) -> Any:
    """A value of any type that msgpack has."""
    leaves: list[Any] = [
        None, True, -1, 2**64 - 1, -(2**63), 0.5, float("nan"), float("inf"), "word", b"bytes",
        "a" * rng.randrange(300), rng.randbytes(rng.randrange(300)), np.zeros(3),
        np.full(21, np.nan), np.zeros((2, 2), np.int8), np.float32(1),
    ]  # fmt: skip
    if depth == 0 or rng.random() < 0.6:
        return rng.choice(leaves)
    if rng.random() < 0.5:
        return [junk(rng, depth - 1) for _ in range(rng.randrange(6))]
    return {f"key{i}": junk(rng, depth - 1) for i in range(rng.randrange(6))}


def payload_makers(message: Mapping[str, Any], limit: int) -> dict[str, Maker]:
    """Kind -> what makes the payload of a binary frame. `message` is a good observation, `limit`
    the most bytes that the server takes."""
    good = pack(message)
    keys = [key for key in message if key not in ("reset", "seed")]
    ready = {
        "deep nesting": [(b"\x91" * n, b"\x81\xa1a" * n) for n in (17, 100, 1000, 1025, 20_000)],
        "many empty lists": [(b"\xdc\xff\xf0" + b"\x90" * 0xFFF0,) * 2],
    }

    def with_entry(key: str, value: Any) -> bytes:
        return pack({**message, key: value})

    def array_map(rng: random.Random, **changes: Any) -> bytes:
        array = {"__ndarray__": True, "data": bytes(32), "dtype": "<f4", "shape": [8]} | changes
        entries = {k.encode(): x for k, x in array.items()}
        return with_entry(rng.choice(keys), entries)

    def damaged(rng: random.Random) -> bytes:
        found = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(min(len(found), 200) if rng.random() < 0.7 else len(found))
            found[at] = rng.randrange(256)
        return bytes(found[: rng.randrange(len(found)) if rng.random() < 0.5 else None])

    def huge(rng: random.Random) -> bytes:
        sizes = (0, 1, 8, 2**16, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, -1, -8)
        shape = [rng.choice(sizes) for _ in range(rng.randint(1, 10))]
        return array_map(rng, shape=shape)

    def nested(rng: random.Random) -> bytes:
        whole = rng.choice(ready["deep nesting"])[rng.randrange(2)] + b"\xc0"
        return whole if rng.random() < 0.5 else b"\x81\xa6prompt" + whole

    def announced(rng: random.Random) -> bytes:
        kind = rng.choice((b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"))
        return kind + rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")) + rng.randbytes(20)

    return {
        "random bytes": lambda rng: rng.randbytes(rng.randrange(1, 400)),
        "damaged observation": damaged,
        "wrong dtype": lambda rng: array_map(rng, dtype=rng.choice(DTYPES)),
        "huge shape": huge,
        "data of another length": lambda rng: array_map(rng, data=rng.randbytes(rng.randrange(99))),
        "deep nesting": nested,
        "many empty lists": lambda rng: ready["many empty lists"][0][0],
        "announced, not sent": announced,
        "other types": lambda rng: with_entry(rng.choice(keys), junk(rng)),
        "other messages": lambda rng: pack(junk(rng)),
        "missing keys": lambda rng: pack({k: message[k] for k in keys if rng.random() < 0.5}),
        "wrong seed or reset": lambda rng: with_entry(rng.choice(("seed", "reset")), junk(rng, 1)),
        "extension types": lambda rng: msgpack.packb(
            {"prompt": msgpack.ExtType(rng.randrange(128), rng.randbytes(rng.randrange(64)))}
        ),
        "ever new prompts": lambda rng: with_entry("prompt", rng.randbytes(400).hex()),
        "long prompt": lambda rng: with_entry("prompt", "a" * rng.randint(2001, limit // 2)),
    }
