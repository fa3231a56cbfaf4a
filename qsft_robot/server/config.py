"""Settings of the policy server: its address, whom it lets in, how much of anything it takes."""

from __future__ import annotations

import hmac
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qsft_robot.server.secrecy import is_loopback

# Of each setting; a batch is decided at every size up to the largest before the server is ready.
MOST = {"max_batch": 1024, "max_connections": 1 << 16, "max_waiting": 1 << 16}


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one server; contradictions are refused."""

    host: str = "127.0.0.1"
    # 0 takes a free port.
    port: int = 8000
    # What clients must send in their handshake; None lets everybody in, on loopback alone.
    token: str | None = field(default=None, repr=False)
    # Whether clients may send the token over the network without TLS.
    token_in_clear: bool = False
    # PEM files; both or none.
    certificate: Path | None = None
    key: Path | None = None
    # Requests decided together, and how long the first of them waits for others.
    max_batch: int = 16
    window_ms: float = 0.0
    # Whether readings far from the logs' range are refused instead of said.
    refuse_far: bool = False
    max_connections: int = 64
    max_waiting: int = 64
    # Seconds for the handshake, and from the first to the last part of one message.
    open_timeout_s: float = 5.0
    message_timeout_s: float = 10.0
    # Seconds for which a client that never asked for anything keeps its place from newcomers.
    silent_s: float = 60.0
    # A client that has not answered a ping for this long is gone.
    ping_s: float = 20.0

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("--certificate and --key go together; only one of them was given.")
        for file in (self.certificate, self.key):
            if file is not None and not file.is_file():
                raise FileNotFoundError(f"{file}: no such file; TLS needs it in PEM form.")
        for name, most in MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; at least 1, at most "
                    f"{most}"
                )
        if not 0 <= self.window_ms <= 1000:
            raise ValueError(f"--window-ms is {self.window_ms}; it lies between 0 and 1000")
        if self.token is not None and (not self.token.isascii() or not self.token.isprintable()):
            raise ValueError("the token holds characters that an HTTP header can't carry")
        if self.token is not None and len(self.token.split()) != 1:
            raise ValueError("the token is empty or holds blanks")


def bind(config: ServerConfig) -> socket.socket:
    """A socket bound to the address, not yet listening.

    ValueError off loopback without a token, or where it would be seen; OSError in one line when
    the port is in use.
    """
    if not 0 <= config.port <= 65535:
        raise ValueError(f"--port {config.port}: give 0 (any free one) to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise ValueError(f"--host {config.host}: no address of this name ({error})") from None
    if config.token is None and not is_loopback(str(address[0])):
        raise ValueError(
            f"--host {config.host} is reached by others, so a token is needed: set QSFT_TOKEN or "
            "give --token-file. Without one the server listens on 127.0.0.1 only."
        )
    clear = config.certificate is None and not config.token_in_clear
    if clear and not is_loopback(str(address[0])):
        raise ValueError(
            f"--host {config.host} is reached by others, and without TLS they see the token: give "
            "--certificate and --key, or --token-in-clear where the network is yours alone or "
            "something in front of the server speaks TLS."
        )
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        raise OSError(
            f"port {config.port} of {config.host} can't be taken ({reason}); stop what listens "
            "there, or choose another --port (0 takes a free one)."
        ) from None
    return bound


def tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    """TLS with the certificate and key; None when there are none. ValueError when they are bad."""
    if config.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.key)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(
            f"{config.certificate} and {config.key} are no PEM certificate with its unencrypted "
            f"key ({error})"
        ) from None
    return context


def lets_in(token: str | None, authorization: Sequence[str]) -> bool:
    """Whether a handshake's Authorization headers hold the token, as `Api-Key <token>` (openpi's
    client) or `Bearer <token>`. The time it takes tells nothing of how much of it was right."""
    if token is None:
        return True
    scheme, _, given = (authorization[0] if len(authorization) == 1 else "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    return right and scheme.lower() in ("api-key", "bearer")
