"""The verb `serve`: a policy behind a websocket, in the protocol of openpi or of vla-eval."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from qsft_robot.extras import require_packages
from qsft_robot.hub.repository import local_folder
from qsft_robot.policy.description import LoadedPolicy
from qsft_robot.presets.look_up import EVALUATION_SEED
from qsft_robot.printed_text import PrintableLines, printable, say
from qsft_robot.trust import Trust
from qsft_robot.verbs.flag_words import acting_changes, say_device, server_address, use_threads

TOKEN_VARIABLE = "QSFT_TOKEN"


def serve(
    run: Positional[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    token_in_clear: bool = False,
    certificate: Path | None = None,
    key: Path | None = None,
    acting: tuple[str, ...] = (),
    refuse_far: bool = False,
    max_batch: int = 16,
    window_ms: float = 0.0,
    max_connections: int = 64,
    max_waiting: int = 64,
    protocol: Literal["openpi", "vla-eval"] = "openpi",
    key_map: Path | None = None,
    seed: int = EVALUATION_SEED,
    runtime: Literal["auto", "onnx", "torch"] = "auto",
    device: str = "auto",
    threads: int = 1,
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
) -> None:
    """Serve a policy over a websocket, in openpi's protocol, until Ctrl-C or SIGTERM.

    The token that clients must send is read from the environment's QSFT_TOKEN or from a file.

    Args:
        run: Run folder, or an exported policy or checkpoint; or a Hub id (owner/name); or the
            address of a model server of vla-eval's (ws://host:8000), which is then asked.
        host: Address to listen on. Off loopback a token is needed.
        port: Port; 0 takes a free one.
        token_file: File that holds the token, instead of QSFT_TOKEN.
        token_in_clear: Listen off loopback without TLS, where clients send the token in clear text.
        certificate: PEM certificate chain; with --key the server speaks TLS (wss://).
        key: PEM key of the certificate, unencrypted.
        acting: Changes of train's --acting settings, e.g. k=4 min_p=0.1.
        refuse_far: Refuse readings far from the logs' range, instead of counting and saying them.
        max_batch: Requests that are decided together, at most.
        window_ms: How long the first request of a batch waits for others.
        max_connections: Clients at once.
        max_waiting: Requests that may wait; more are refused as busy.
        protocol: vla-eval: for `vla-eval run`, on loopback, without a token (extra harness).
        key_map: With --protocol vla-eval, YAML file as of `evaluate --key-map`.
        seed: With --protocol vla-eval, seed of the samples of each task's first episode.
        runtime: What runs the policy; auto takes ONNX where the folder has it.
        device: Where the policy runs: auto (cuda, mps or cpu, the first that is here), cuda:1, ...
        threads: Threads of the policy's arithmetic.
        trust_remote_code: Run code that a pretrained model in the folder brings along. Only for
            publishers that you trust.
        allow_downloads: Fetch a model that the folder names from the hub, where it is not here yet.
    """
    from qsft_robot.server.config import ServerConfig, bind
    from qsft_robot.server.running import run_until_signal
    from qsft_robot.server.server import PolicyServer

    if threads < 1:
        raise ValueError(f"--threads {threads}: give at least 1.")
    trust = Trust(trust_remote_code, allow_downloads)
    upstream = server_address(run)
    if protocol == "vla-eval" or upstream is not None:
        safe = (token_file, certificate, key)
        if host != "127.0.0.1" or refuse_far or any(x is not None for x in safe):
            raise ValueError(
                "vla-eval's protocol knows neither tokens nor TLS, so it is served on loopback "
                "alone: leave --host, --token-file, --certificate, --key and --refuse-far out."
            )
        require_packages("--protocol vla-eval", "vla_eval")
        if upstream is not None:
            if protocol == "vla-eval":
                raise ValueError(f"{upstream} speaks vla-eval's protocol already.")
            _serve_bridge(upstream, key_map, port)
            return
        _serve_harness(
            lambda: _open(run, acting, runtime, device, threads, trust),
            key_map,
            port,
            seed,
            max_batch,
        )
        return
    if key_map is not None:
        raise ValueError("--key-map is for --protocol vla-eval and for ws://... in RUN's place.")
    config = ServerConfig(
        host=host,
        port=port,
        token=read_token(token_file),
        token_in_clear=token_in_clear,
        certificate=certificate,
        key=key,
        refuse_far=refuse_far,
        max_batch=max_batch,
        window_ms=window_ms,
        max_connections=max_connections,
        max_waiting=max_waiting,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableLines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    # Its warnings tell of clients that went away in the middle: strangers could fill a disk so.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    # Before the policy is loaded: a port in use is told at once.
    bound = bind(config)
    policy = _open(run, acting, runtime, device, threads, trust)

    async def until_signal() -> None:
        server = PolicyServer(policy, config, bound)

        def tell(what: str) -> None:
            if what == "listening":
                say(printable(f"warming up the policy of {run} ..."))
                return
            say(f"listening on {server.url}  (health: /healthz, metrics: /metrics)")
            say(how_to_connect(server.url, config.token is not None, config.token_in_clear))
            if config.token is not None and config.certificate is None and not server.on_loopback:
                say("the token crosses the network in clear text (--token-in-clear)")

        await run_until_signal(server, tell)
        say("stopped")

    asyncio.run(until_signal())


def _serve_bridge(model_server: str, key_map: Path | None, port: int) -> None:
    from qsft_robot.harness.key_map import KeyMap, read_key_map
    from qsft_robot.harness.openpi_bridge import bridge_until_signal

    keys = KeyMap() if key_map is None else read_key_map(key_map)
    bridge_until_signal(
        model_server,
        keys,
        port,
        lambda url: say(f"listening on {url}: {model_server} in openpi's protocol"),
    )
    say("stopped")


def _serve_harness(
    opened: Callable[[], LoadedPolicy], key_map: Path | None, port: int, seed: int, max_batch: int
) -> None:
    from qsft_robot.harness.deciders import LocalDecider
    from qsft_robot.harness.key_map import KeyMap, read_key_map
    from qsft_robot.harness.serving import serve_until_signal

    keys = KeyMap() if key_map is None else read_key_map(key_map)
    serve_until_signal(
        LocalDecider(opened()),
        keys,
        port=port,
        first_seed=seed,
        max_batch=max_batch,
        tell=lambda url: say(
            f"listening on {url}  (health: /health)\nrun vla-eval with\n"
            f"  vla-eval run --config FILE.yaml --server-url {url}"
        ),
    )
    say("stopped")


def read_token(file: Path | None) -> str | None:
    """The token of the file, else of the environment, else None. ValueError on an empty one."""
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"--token-file {file}: no such file")
        token = file.read_bytes().decode("ascii", "replace").strip()
        where = f"--token-file {file}"
    else:
        token, where = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
        if TOKEN_VARIABLE not in os.environ:
            return None
    if not token or not (token.isascii() and token.isprintable()):
        raise ValueError(
            f"{where} holds no token (one line of ASCII); make one with: python -c "
            '"import secrets; print(secrets.token_urlsafe(32))"'
        )
    return token


def how_to_connect(url: str, needs_token: bool, in_clear: bool = False) -> str:
    """A line of Python for each of the two clients."""
    scheme, _, address = url.partition("://")
    host, _, port = address.rpartition(":")
    if host in ("0.0.0.0", "[::]"):
        host = socket.gethostname()
    shown = host if scheme == "ws" else f"{scheme}://{host}"
    openpi = f'"{shown}", {port}' + (", api_key=token" if needs_token else "")
    ours = f'"{scheme}://{host}:{port}"' + (", token=token" if needs_token else "")
    if needs_token and in_clear:
        ours += ", token_in_clear=True"
    return (
        "connect with\n"
        f"  openpi_client.websocket_client_policy.WebsocketClientPolicy({openpi})\n"
        f"  qsft_robot.server.remote_policy.RemotePolicy({ours})"
    )


def _open(
    run: Path,
    acting: tuple[str, ...],
    runtime: Literal["auto", "onnx", "torch"],
    device: str,
    threads: int,
    trust: Trust,
) -> LoadedPolicy:
    from qsft_robot.files import SUMS, sha256_of
    from qsft_robot.policy.open import open_policy

    run = local_folder(run)
    policy = open_policy(
        run,
        acting_changes(acting),
        device,
        runtime,
        threads,
        trust_remote_code=trust.remote_code,
        allow_downloads=trust.downloads,
    )
    use_threads(threads)
    say_device(device, policy)
    # Clients tell one policy from another by it, and log it.
    inner = run / ("checkpoint" if acting else "policy")
    sums = (inner if inner.is_dir() else run) / SUMS
    policy.description = replace(policy.description, policy_sha256=sha256_of(sums))  # type: ignore[misc]
    return policy
