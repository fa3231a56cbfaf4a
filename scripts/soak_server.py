"""Fuzz the policy server byte by byte and watch its memory: each frame is answered or closed."""

from __future__ import annotations

import argparse
import random
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from malformed_frames import (
    BROKEN_FRAMES,
    HANDSHAKE,
    MASK,
    TEXT,
    Maker,
    frame,
    payload_makers,
)
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from server_process import ServerProcess, server_process

from qsft_robot.policy.folder import PolicySpec
from qsft_robot.policy.open import open_policy
from qsft_robot.server.requests import message_limit

TOKEN = "a-token-for-the-soak-test"
BURST = 64
PATIENCE_S = 30.0


class RawClient:
    """A websocket client that sends what it is given and counts what comes back."""

    def __init__(self, address: tuple[str, int], authorization: str = f"Api-Key {TOKEN}") -> None:
        self._socket = socket.create_connection(address, timeout=PATIENCE_S)
        self._buffer = bytearray()
        self._socket.sendall(f"{HANDSHAKE}Authorization: {authorization}\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self.status = int(head.split()[1])
        self._buffer = bytearray(rest)
        if self.status == 101:
            self.receive()

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self._socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next frame's kind and payload; ConnectionError when the server closed."""
        while True:
            kind, size = self._take(2)
            if size == 126:
                size = int.from_bytes(self._take(2), "big")
            elif size == 127:
                size = int.from_bytes(self._take(8), "big")
            payload = self._take(size)
            if kind & 0x0F == 0x8:
                raise ConnectionResetError("closed")
            if kind & 0x0F == 0x9:
                self._socket.sendall(frame(payload, 0x8A))
                continue
            return kind, payload

    def closes(self) -> bool:
        """Whether the server ends the connection; TimeoutError when it does neither."""
        try:
            while True:
                self.receive()
        except ConnectionError:
            return True

    def close(self) -> None:
        self._socket.close()

    def _fill(self) -> None:
        found = self._socket.recv(1 << 16)
        if not found:
            raise ConnectionResetError("closed")
        self._buffer += found

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found


class GoodClient(threading.Thread):
    """An honest robot during all of it: every answer is compared with the local policy's."""

    def __init__(self, server: ServerProcess, message: dict[str, Any], expected: Any) -> None:
        super().__init__(daemon=True)
        host, port = server.address
        self._client = WebsocketClientPolicy(host, port, api_key=TOKEN)
        self._message, self._expected = message, expected
        self.right, self.wrong, self.slowest_ms = 0, 0, 0.0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            began = time.perf_counter()
            answer = self._client.infer(self._message)
            self.slowest_ms = max(self.slowest_ms, 1000 * (time.perf_counter() - began))
            same = np.array_equal(answer["actions"], self._expected)
            self.right, self.wrong = self.right + same, self.wrong + (not same)


class SlowClients(threading.Thread):
    """Holds doors half open: handshakes a byte at a time, halves of frames and of messages."""

    KINDS = ("handshake by bytes", "half a frame", "half a message", "pings, never reading")

    def __init__(self, server: ServerProcess, each: int) -> None:
        super().__init__(daemon=True)
        self._address, self._each = server.address, each
        self.opened: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.over = threading.Event()

    def run(self) -> None:
        held: list[tuple[str, socket.socket]] = []
        while not self.over.wait(0.25):
            for kind in self.KINDS:
                if sum(k == kind for k, _ in held) < self._each:
                    held.append((kind, self._open(kind)))
                    self.opened[kind] += 1
            held = [each for each in held if self._goes_on(*each)]
        for _, stream in held:
            stream.close()

    def _open(self, kind: str) -> socket.socket:
        stream = socket.create_connection(self._address)
        if kind == self.KINDS[0]:
            stream.sendall(b"GET / HTTP/1.1\r\nX: ")
        else:
            stream.sendall(f"{HANDSHAKE}Authorization: Api-Key {TOKEN}\r\n\r\n".encode())
            if kind == self.KINDS[1]:
                stream.sendall(bytes([0x82, 0xFE, 0x04, 0x00]) + MASK + b"\x81")
            elif kind == self.KINDS[2]:
                stream.sendall(bytes([0x02, 0x81]) + MASK + b"\x81")
        stream.setblocking(False)
        return stream

    def _goes_on(self, kind: str, stream: socket.socket) -> bool:
        try:
            if kind == self.KINDS[0]:
                stream.send(b"x")
            if kind == self.KINDS[3]:
                stream.send(200 * (bytes([0x89, 0x80 | 125]) + MASK + bytes(125)))
            elif not stream.recv(1 << 16):
                raise ConnectionResetError
        except BlockingIOError:
            return True
        except ConnectionError:
            self.closed[kind] += 1
            stream.close()
            return False
        return True


class Soak:
    """The fuzzing of one server, and its count by kind."""

    def __init__(self, server: ServerProcess, message: dict[str, Any], limit: int) -> None:
        self._server = server
        self._rng = random.Random(0)
        self._makers = payload_makers(message, limit)
        self._limit = limit
        self.counts: dict[str, Counter[str]] = {}

    def payloads(self, kind: str, count: int) -> None:
        """Frames that are sound as frames: each gets one answer, the connection goes on."""
        maker: Maker = self._makers.get(kind, lambda rng: rng.randbytes(rng.randrange(99)))
        client = RawClient(self._server.address)
        counts = self.counts.setdefault(kind, Counter())
        # Bursts, so that much is under way at once; large ones would fill both sides' buffers.
        burst = 4 if kind in ("long prompt", "many empty lists", "deep nesting") else BURST
        while count:
            size = min(count, burst)
            if kind == "text frames":
                whole = [frame(maker(self._rng).hex().encode(), TEXT) for _ in range(size)]
            else:
                whole = [frame(maker(self._rng)) for _ in range(size)]
            client.send(b"".join(whole))
            for _ in range(size):
                reply, payload = client.receive()
                if reply == TEXT and not payload.startswith(b"bad request: "):
                    counts[f"answered {payload[:40]!r}"] += 1
                counts["told what is wrong" if reply == TEXT else "acted on"] += 1
            counts["sent"] += size
            count -= size
        client.close()

    def connections(self, kind: str, count: int) -> None:
        """Bytes that end their connection."""
        counts = self.counts.setdefault(kind, Counter())
        for i in range(count):
            counts["sent"] += 1
            try:
                counts["closed" if self._ends(kind, i) else "neither"] += 1
            except TimeoutError:
                counts["neither"] += 1

    def _ends(self, kind: str, i: int) -> bool:
        rng = self._rng
        if kind == "wrong token":
            wrong = rng.choice((TOKEN[:-1], TOKEN + "x", "", "Api-Key", rng.randbytes(9).hex()))
            client = RawClient(self._server.address, f"Api-Key {wrong}")
            return client.status == 401 and client.closes()
        if kind == "no handshake":
            with socket.create_connection(self._server.address, timeout=PATIENCE_S) as stream:
                try:
                    stream.sendall(rng.randbytes(rng.randrange(1, 400)) + b"\r\n\r\n")
                    stream.shutdown(socket.SHUT_WR)
                    while stream.recv(1 << 16):
                        pass
                except ConnectionError:
                    pass
            return True
        client = RawClient(self._server.address)
        if kind == "random frames":
            client.send(rng.randbytes(rng.randrange(1, 400)))
            client._socket.shutdown(socket.SHUT_WR)
        elif kind == "too large":
            try:
                client.send(frame(bytes(self._limit + rng.randrange(1, 1000))))
            except ConnectionError:
                return True
        else:
            client.send(list(BROKEN_FRAMES.values())[i % len(BROKEN_FRAMES)])
        ended = client.closes()
        client.close()
        return ended


def plan(frames: int) -> list[tuple[str, str, int]]:
    """(method, kind, count) whose counts sum to `frames`: a tenth are connections of their own."""
    alone = ("broken frames", "random frames", "no handshake", "too large", "wrong token")
    kinds = [*payload_makers({"x": 0}, 1 << 16), "text frames"]
    each_alone, each = frames // 10 // len(alone), frames * 9 // 10 // len(kinds)
    steps = [("payloads", kind, each) for kind in kinds]
    steps += [("connections", kind, each_alone) for kind in alone]
    steps[0] = (*steps[0][:2], each + frames - each * len(kinds) - each_alone * len(alone))
    return steps


def samples(server: ServerProcess) -> dict[str, float]:
    """The server's metrics."""
    host, port = server.address
    request = urllib.request.Request(
        f"http://{host}:{port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request) as page:
        lines = [line for line in page.read().decode().splitlines() if line[0] != "#"]
    return {name: float(x) for name, x in (line.rsplit(" ", 1) for line in lines)}


def table(counts: dict[str, Counter[str]]) -> None:
    """Print what became of each kind."""
    columns = ("sent", "told what is wrong", "acted on", "closed", "neither")
    print("| kind | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    total: Counter[str] = Counter()
    for kind, found in counts.items():
        total.update(found)
        print(f"| {kind} | " + " | ".join(str(found[c]) for c in columns) + " |")
    print("| all | " + " | ".join(str(total[c]) for c in columns) + " |")


def soak(run: Path, frames: int, slow: int, flags: Sequence[str]) -> bool:
    """Run it all; whether everything was as it should be."""
    policy = open_policy(run)
    spec = PolicySpec.of(policy.description)
    message: dict[str, Any] = {k: np.zeros((*s, 3), np.uint8) for k, s in spec.cameras.items()}
    message |= {k: np.zeros(size, np.float32) for k, size in spec.state.items()}
    message["prompt"] = (*spec.instructions, "")[0]
    with server_process(run, flags, TOKEN) as server:
        host, port = server.address
        client = WebsocketClientPolicy(host, port, api_key=TOKEN)
        good = {**message, "reset": True, "seed": 1}
        expected = client.infer(good)["actions"]
        # What Python and the policy take once is taken before the count begins.
        fuzz = Soak(server, message, message_limit(spec))
        for method, kind, _ in plan(frames):
            getattr(fuzz, method)(kind, 100)
        for _ in range(200):
            client.infer(good)
        fuzz.counts.clear()
        honest, slow_ones = GoodClient(server, good, expected), SlowClients(server, slow)
        honest.start()
        slow_ones.start()
        time.sleep(2)
        before, began = samples(server), time.monotonic()
        memory = [(0, server.resident_mib())]
        print(f"0 frames: {memory[0][1]:.1f} MiB, {server.open_files()} files", flush=True)
        sent = 0
        # Ten rounds, so that growth would show as a slope.
        for number in range(10):
            for method, kind, count in plan(frames):
                share = count * (number + 1) // 10 - count * number // 10
                getattr(fuzz, method)(kind, share)
                sent += share
            memory.append((sent, server.resident_mib()))
            print(
                f"{sent} frames, {time.monotonic() - began:.0f} s: {memory[-1][1]:.1f} MiB, "
                f"{server.open_files()} files, {server.threads()} threads",
                flush=True,
            )
        after = samples(server)
        for thread in (slow_ones, honest):
            thread.over.set()
            thread.join()
        time.sleep(1)
        print()
        table(fuzz.counts)
        print("\n| slow client | opened | given up by the server |\n|---|---|---|")
        for kind in slow_ones.KINDS:
            print(f"| {kind} | {slow_ones.opened[kind]} | {slow_ones.closed[kind]} |")
        refused = 'qsft_refused_handshakes_total{reason="token"}'
        growth = memory[-1][1] - memory[0][1]
        print(
            f"\nwrong tokens refused {after[refused] - before[refused]:.0f}; "
            f"the honest client: {honest.right} right answers, {honest.wrong} wrong, slowest "
            f"{honest.slowest_ms:.0f} ms\nresident memory {memory[0][1]:.1f} -> "
            f"{memory[-1][1]:.1f} MiB ({growth:+.1f}); open files at the end {server.open_files()}"
        )
        with urllib.request.urlopen(f"http://{host}:{port}/healthz") as page:
            healthy = page.status == 200
        total = sum(fuzz.counts.values(), Counter())
        answered = total["told what is wrong"] + total["acted on"] + total["closed"]
        strange = [key for found in fuzz.counts.values() for key in found if "answered b" in key]
        print(f"answered or closed {answered} of {total['sent']}; {strange or 'no other words'}")
        return healthy and answered == total["sent"] and not (honest.wrong or strange)


def main() -> None:
    """Fuzz, print the tables; exit status 1 if a frame was neither answered nor closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder or exported policy")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--slow", type=int, default=5, help="slow clients of each kind")
    options = parser.parse_args()
    raise SystemExit(int(not soak(options.run, options.frames, options.slow, [])))


if __name__ == "__main__":
    main()
