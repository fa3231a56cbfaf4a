"""`--ray`: where evaluations and collections run, and who opens their policy there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsft_robot.policy.folder import fingerprint
from qsft_robot.printed_text import say
from qsft_robot.rollouts.machines import Machines, ThisMachine
from qsft_robot.trust import Trust
from qsft_robot.verbs.flag_words import say_device, use_threads


@contextmanager
def machines_of(ray: str | None) -> Iterator[Machines]:
    """This machine, or the cluster at an address; in the block it is connected."""
    if ray is None:
        yield ThisMachine()
        return
    from qsft_robot.cluster.ray_machines import ray_cluster

    with ray_cluster(ray) as cluster:
        say(cluster, sys.stderr)
        yield cluster


def policy_on(
    machines: Machines,
    folder: Path,
    acting: Mapping[str, Any],
    device: str,
    threads: int,
    trust: Trust,
) -> Any:
    """The policy, open here, or as each node is to open it; its `description` in any case."""
    if not isinstance(machines, ThisMachine):
        from qsft_robot.cluster.players import PolicyOnNodes

        return PolicyOnNodes(folder, acting, device, threads, trust)
    from qsft_robot.policy.open import open_policy

    return open_policy(
        folder,
        acting,
        device,
        threads=threads,
        trust_remote_code=trust.remote_code,
        allow_downloads=trust.downloads,
    )


def say_where(machines: Machines, device: str, threads: int, policy: Any) -> None:
    """Say in one line where a policy that is open here runs, on so many threads."""
    if isinstance(machines, ThisMachine):
        use_threads(threads)
        say_device(device, policy)


def identity_of(folder: Path, acting: Mapping[str, Any]) -> dict[str, Any]:
    """Which policy it is, by its files and the changes of its acting rule: what an interrupted
    command left of the same one is gone on from."""
    return {"fingerprint": fingerprint(folder), "acting": dict(acting)}
