"""A Ray cluster of several nodes on this machine, each in processes of its own, one of which is
killed in mid-run: the same episodes as without it, to the bit."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_fixtures import describe, random_policy

from qsft_robot.cli import main
from qsft_robot.extras import is_installed
from qsft_robot.logs.checks import ANY_SCALE
from qsft_robot.logs.reader import read_episodes, read_masks
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.policy.open import open_policy
from qsft_robot.rollouts.collect import CollectPart, collect
from qsft_robot.rollouts.evaluate import evaluate

# Read when ray is imported. 127.0.0.1 stays what it is, and is all that is listened on; without it
# Ray looks up the address that other machines see.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
needs_ray = pytest.mark.skipif(
    not is_installed("ray"), reason="ray is not installed: pip install 'qsft-robot[ray]'"
)
ROOT = Path(__file__).resolve().parents[2]
TRUSTED = {"imports": ["rollout_environments"]}
SEEDS = range(300, 318)


def arm(**kwargs):
    return {"env_name": "gymnasium:rollout_environments:ArmPoint-v0", "env_kwargs": kwargs}


@pytest.fixture(scope="module")
def cluster():
    """A cluster of three nodes of two cores, to which this process is connected: its head, and two
    that can be killed; all of it on loopback alone."""
    before = signal.getsignal(signal.SIGTERM)
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_worker_niceness", "0")  # else whatever runs beside the tests starves them
    # Every node has the project and the tests' environments, as it would have them installed.
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "shared")))
    patch.setenv("PYTHONPATH", paths)
    from ray.cluster_utils import Cluster

    from qsft_robot.cluster.ray_machines import ray_cluster

    small = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"}
    head = {"num_cpus": 2, "include_dashboard": False, **small}
    made = Cluster(initialize_head=True, head_node_args=head)
    there = [made.add_node(num_cpus=2, wait=False, **small) for _ in range(2)]
    made.wait_for_nodes()
    handled = signal.getsignal(signal.SIGTERM)
    with ray_cluster(made.address):
        yield made, there
    assert signal.getsignal(signal.SIGTERM) is handled  # Ray takes it for itself
    made.shutdown()
    signal.signal(signal.SIGTERM, before)  # the nodes that this process began took it
    patch.undo()


@pytest.fixture
def machines(cluster):
    from qsft_robot.cluster.ray_machines import RayMachines

    return RayMachines(cluster[0].address)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy with random weights, every one of which counts."""
    policy = random_policy(describe())
    made = tmp_path_factory.mktemp("policy") / "checkpoint"
    write_checkpoint(made, policy.description, policy.networks)
    return made


def kill_when(cluster, is_time):
    """Kill a node as soon as it is time; the thread that does it."""
    made, there = cluster

    def kill():
        while not is_time():
            time.sleep(0.05)
        made.remove_node(there.pop(), allow_graceful=False)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def same_logs(one, two):
    for a, b in zip(
        *(read_episodes(x, action_scale=ANY_SCALE, require_reward=False) for x in (one, two)),
        strict=True,
    ):
        assert (a.name, a.attributes, a.success) == (b.name, b.attributes, b.success)
        assert np.array_equal(a.actions, b.actions)
        assert all(np.array_equal(a.observations[k], b.observations[k]) for k in a.observations)
    assert read_masks(one) == read_masks(two)


@needs_ray
def test_an_address_that_does_not_answer_is_one_clear_line(tmp_path, capsys, monkeypatch):
    import ray
    from ray._private.services import find_gcs_addresses

    from qsft_robot.cluster import connection

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # by the cluster of other tests
    monkeypatch.setattr(connection, "_ANSWER_S", 4.0)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        closed = socket.create_server(("127.0.0.1", 0))
        gone, port = (each.getsockname()[1] for each in (closed, silent))
        closed.close()
        expected = {
            f"127.0.0.1:{gone}": "no Ray cluster answers there",
            f"127.0.0.1:{port}": "no Ray cluster answers there",
            "ray://there": "give auto, or host:port",
            "127.0.0.1:port": "give auto, or host:port",
        }
        if not find_gcs_addresses():
            expected["auto"] = "no Ray cluster runs here"
        for address, words in expected.items():
            assert main(["evaluate", str(tmp_path), "--ray", address]) == 2
            said = capsys.readouterr()
            assert not said.out
            assert said.err.startswith(f"error: --ray {address}: ")
            assert words in said.err
            assert said.err.count("\n") == 1
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@needs_ray
def test_the_command_line_collects_the_logs_of_one_machine(cluster, folder, tmp_path, capsys):
    words = [
        "collect", "--env", "gymnasium:rollout_environments:ArmPoint-v0", "--policy", str(folder),
        "--episodes", "8", "--max-batch", "1", "--seed", "4", "--workers", "2",
    ]  # fmt: skip
    here, there = tmp_path / "here.hdf5", tmp_path / "there.hdf5"
    assert main([*words, "--out", str(here)]) == 0
    assert main([*words, "--out", str(there), "--ray", cluster[0].address]) == 0
    assert "ray: 3 nodes, 6 cores, 0 GPUs" in capsys.readouterr().err
    same_logs(here, there)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.hdf5", "there.hdf5"]


@needs_ray
def test_an_experts_logs_are_those_of_one_machine_though_a_node_is_killed(
    cluster, machines, tmp_path
):
    tabletop = {"env_name": "tabletop", "env_kwargs": {"task": "place", "cameras": []}}
    parts = [CollectPart(12, {"expert": 0.5, "sloppy": 0.5}, noise=0.1)]
    here, there = tmp_path / "here.hdf5", tmp_path / "there.hdf5"
    collect(tabletop, here, parts, seed=3, progress=False)
    killing = kill_when(cluster, lambda: list(tmp_path.glob("there.hdf5.parts/episode_*")))
    report = collect(
        tabletop, there, parts, seed=3, workers=6, machines=machines, resumable=True,
        progress=False,
    )  # fmt: skip
    killing.join()
    assert report.episodes == 12
    same_logs(here, there)
    assert not (tmp_path / "there.hdf5.parts").exists()


@needs_ray
def test_a_node_that_is_killed_costs_its_unfinished_episodes_which_begin_again(
    cluster, machines, folder, tmp_path
):
    from qsft_robot.cluster.players import PolicyOnNodes

    # One takes its process down, as it does on one machine.
    bad = {"bad_seeds": [303], "misbehave": "die"}
    words = {"max_batch": 1, "env_overrides": TRUSTED, "progress": False}
    here = evaluate(open_policy(folder), arm(**bad), SEEDS, **words)
    partial = tmp_path / "partial_episodes.jsonl"
    killing = kill_when(
        cluster, lambda: partial.exists() and len(partial.read_text().splitlines()) >= 3
    )
    with pytest.warns(UserWarning, match="unfinished episodes begin again elsewhere"):
        there = evaluate(
            PolicyOnNodes(folder), arm(pause_s=0.03, **bad), SEEDS, workers=2, envs_per_worker=3,
            machines=machines, out=tmp_path, **words,
        )  # fmt: skip
    killing.join()

    def told(result):
        # Without what a clock measured, and who shared a process with the one that died.
        return [
            replace(e, mean_decision_ms=0.0, env_seconds=0.0, restarts=0, error=None)
            for e in result.episodes
        ]

    assert told(there) == told(here)
    assert len({tuple(e.values) for e in here.episodes}) == len(SEEDS)
    assert "last words" in there.episodes[3].error
    assert there.summary["machines"]["lost"] >= 1
    assert not list(tmp_path.glob("partial_*"))


def test_a_node_without_the_policys_folder_or_with_another_one_is_named(folder, tmp_path):
    from qsft_robot.cluster.players import PolicyOnNodes, open_here

    told = PolicyOnNodes(folder).to_json()
    opened = open_here(told, on_gpu=False)
    assert opened.description.to_json() == PolicyOnNodes(folder).description.to_json()
    with pytest.raises(ValueError, match=r"node \S+ has no folder .*nowhere: let all nodes see"):
        open_here(told | {"folder": str(tmp_path / "nowhere")}, on_gpu=False)
    with pytest.raises(ValueError, match=r"node \S+ has another policy in"):
        open_here(told | {"fingerprint": "of another"}, on_gpu=False)
