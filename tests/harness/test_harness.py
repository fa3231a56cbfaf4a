"""vla-eval: our policies behind its protocol and our simulators before it, on loopback."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from policy_fixtures import describe, random_policy
from served_description import served
from vla_eval.api import run
from vla_eval.orchestrator import _accepted_init_params
from vla_eval.registry import resolve_import_string
from websockets.sync.server import ServerConnection, serve

from qsft_robot.cli import main
from qsft_robot.harness.configurations import (
    HERE,
    SIMULATOR,
    configuration_names,
    find_configuration,
    local_image,
)
from qsft_robot.harness.deciders import LocalDecider, OpenpiDecider
from qsft_robot.harness.evaluation import evaluate_in_harness
from qsft_robot.harness.key_map import KeyMap, Part
from qsft_robot.harness.observations import ObservationReader, Wanted, fitted, raw_turn
from qsft_robot.harness.serving import serve_until_signal
from qsft_robot.harness.simulators import simulator_configuration
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.rollouts.evaluate import evaluate
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.running import serving
from qsft_robot.server.wire import pack, unpack
from qsft_robot.types import Decision
from qsft_robot.verbs.harness import result_name


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random networks, whose logs name no simulator."""
    folder, told = tmp_path_factory.mktemp("run") / "checkpoint", describe()
    write_checkpoint(folder, told, random_policy(told).networks)
    return folder


IMPORTS = {"imports": ["rollout_environments"]}
ENV = "gymnasium:rollout_environments:Point-v0"
SHIPPED = [name for name in configuration_names() if name != SIMULATOR]


def point(**kwargs: Any) -> dict[str, Any]:
    return {"env_name": ENV, "type": 2, "env_kwargs": kwargs}


class Walker:
    """Walks right with random steps; its value is the way it has gone."""

    def __init__(self, chunk: int = 1, execute: int | None = None, images: bool = False) -> None:
        self.chunk, self.images = chunk, images
        self.description = served(
            2,
            {"horizon": chunk},
            state_keys=["position"],
            norm_stats={
                "state": {"position": {"mean": [0, 0], "std": [1, 1]}},
                "actions": {"low": [-1, -1], "high": [1, 1]},
            },
            cameras={"front_image": [16, 16]} if images else {},
            acting={} if execute is None else {"execute": execute},
            env_args=point(image=images),
        )

    def begin_episode(self, seed: int) -> np.random.Generator:
        return np.random.default_rng(seed)

    def infer_batch(self, observations: Any, memories: Any) -> list[Decision]:
        found = []
        for seen, rng in zip(observations, memories, strict=True):
            x = seen.state["position"][0]
            if self.images:  # what the picture shows, and the step and the pay that are told
                x += 0.001 * seen.images["front_image"][0, 0, 0] + 0.01 * (seen.step or 0)
                x += seen.paid or 0
            actions = rng.uniform(-0.7, 1, (self.chunk, 2)) + 0.01 * x
            found.append(Decision(actions.astype(np.float32), float(np.clip(x / 3, 0, 1))))
        return found


def by_harness(decider: Any, out: Path, count: int, **kwargs: Any) -> Any:
    found, described = simulator_configuration(point(**kwargs), IMPORTS, ["position"], 100, None)
    assert found.shown is not None
    keys = fitted(KeyMap(), decider.wanted, found.shown, found.name)
    return evaluate_in_harness(
        decider, found, keys, seed=100, out=out, episodes=count, env_args=described
    )


def outcomes(result: Any) -> list[Any]:
    return [
        (
            e.seed, e.steps, e.total_reward, e.success_any, e.success_last, e.failure_reason,
            e.values, e.decisions, e.instruction, e.task,
        )
        for e in result.episodes
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("chunk", "execute", "images"), [(1, None, False), (4, None, False), (4, 3, True)]
)
def test_the_harness_has_our_own_episodes(tmp_path, chunk, execute, images) -> None:
    walker = Walker(chunk, execute, images)
    ours = evaluate(
        walker, point(image=images), range(100, 112), workers=1, env_overrides=IMPORTS,
        out=tmp_path / "ours", progress=False,
    )  # fmt: skip
    theirs = by_harness(LocalDecider(walker), tmp_path / "harness", 12, image=images)
    assert outcomes(theirs) == outcomes(ours)
    assert 0 < theirs.success_any.rate < 1
    for key in ("n", "success_rate", "low", "high", "mean_return", "failure_reasons", "seeds"):
        assert theirs.summary[key] == ours.summary[key], key
    # MuJoCo's version too, where another test has loaded it in this process.
    told = [each.summary["env_args"] for each in (theirs, ours)]
    assert told[0]["versions"].items() >= told[1]["versions"].items()
    assert {**told[0], "versions": {}} == {**told[1], "versions": {}}
    assert main(["compare", str(tmp_path / "ours"), str(tmp_path / "harness")]) == 0


def test_an_episode_whose_simulator_raises_is_a_broken_one(tmp_path) -> None:
    result = by_harness(LocalDecider(Walker()), tmp_path, 4, bad_seeds=(101,))
    assert result.broken == 1
    assert [e.failure_reason == "error" for e in result.episodes] == [False, True, False, False]
    assert "became unstable" in result.episodes[1].error


def test_a_policy_that_fails_ends_the_evaluation_with_its_own_words(tmp_path) -> None:
    class Broken(Walker):
        def infer_batch(self, observations: Any, memories: Any) -> list[Decision]:
            raise RuntimeError("the network gave NaN")

    class NotFinite(Walker):
        def infer_batch(self, observations: Any, memories: Any) -> list[Decision]:
            return [Decision(np.full((1, 2), np.nan, np.float32)) for _ in observations]

    with pytest.raises(RuntimeError, match="gave NaN"):
        by_harness(LocalDecider(Broken()), tmp_path, 3)
    with pytest.raises(RuntimeError, match="an action that is NaN or infinite"):
        by_harness(LocalDecider(NotFinite()), tmp_path, 3)
    assert not (tmp_path / "summary.json").exists()


def test_a_server_of_ours_is_the_policy_it_serves(tmp_path) -> None:
    walker = Walker(4, 3, images=True)
    at_home = by_harness(LocalDecider(walker), tmp_path / "a", 4, image=True)
    with serving(walker, ServerConfig(port=0)) as server:
        behind = by_harness(OpenpiDecider(server.url, KeyMap()), tmp_path / "b", 4, image=True)
    assert outcomes(behind) == outcomes(at_home)


def test_a_server_for_runs_that_are_started_elsewhere(tmp_path) -> None:
    walker, told = Walker(4, 3, images=True), list[Any]()
    found, _ = simulator_configuration(point(image=True), IMPORTS, ["position"], 100, None)

    def elsewhere(url: str) -> None:
        try:
            entries = {"episodes_per_task": 5}
            config = {**found.harness, "output_dir": str(tmp_path)}
            told.extend(run(config, server_url=url, benchmark_overrides=entries))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    serve_until_signal(
        LocalDecider(walker), KeyMap(), port=0, first_seed=100, max_batch=4,
        tell=lambda url: Thread(target=elsewhere, args=(url,)).start(),
    )  # fmt: skip
    ours = evaluate(
        walker, point(image=True), range(100, 105), workers=1, env_overrides=IMPORTS, progress=False
    )
    (task,) = told[0]["tasks"]
    assert [(x["steps"], x["metrics"]["success"]) for x in task["episodes"]] == [
        (e.steps, e.success_any) for e in ours.episodes
    ]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@contextmanager
def foreign(asked: list[Mapping[str, Any]]) -> Iterator[str]:
    """A server of openpi's protocol that tells nothing of itself and walks right."""

    def answer(connection: ServerConnection) -> None:
        connection.send(pack({}))
        for frame in connection:
            asked.append(unpack(frame))
            connection.send(pack({"actions": np.ones((3, 2))}))

    with serve(answer, "127.0.0.1", 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_of_another_kind_is_asked_by_the_key_map(tmp_path) -> None:
    asked: list[Mapping[str, Any]] = []
    keys = KeyMap(
        {"observation/image": "front_image"}, {"observation/state": Part("states")}, (32, 24)
    )
    found, _ = simulator_configuration(point(image=True), IMPORTS, ["position"], 100, None)
    with foreign(asked) as url:
        with pytest.raises(ValueError, match="--key-map FILE"):
            OpenpiDecider(url, KeyMap())
        result = evaluate_in_harness(
            OpenpiDecider(url, keys), found, keys, seed=100, out=tmp_path, episodes=2
        )
    assert set(asked[0]) == {"prompt", "observation/image", "observation/state"}
    assert asked[0]["observation/image"].shape == (32, 24, 3)
    assert asked[0]["prompt"] == "reach the goal"
    assert [e.decisions for e in result.episodes] == [-(-e.steps // 3) for e in result.episodes]
    with pytest.raises(ConnectionError, match="no server of openpi's protocol"):
        OpenpiDecider(url, keys, timeout_s=1)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_is_what_the_benchmarks_take_and_say(name) -> None:
    found = find_configuration(name)
    assert found.shown is not None
    names = [each["subname"] for each in found.entries]
    assert len(set(names)) == len(names)
    assert [x["subname"] for x in find_configuration(f"{name}/{names[-1]}").entries] == names[-1:]
    for entry in found.entries:
        kind = resolve_import_string(entry["benchmark"])
        assert set(entry["params"]) <= _accepted_init_params(kind)
        sends = {"send_state": True, "send_wrist_image": True}
        taken = {key: x for key, x in sends.items() if key in _accepted_init_params(kind)}
        benchmark = kind(**{**taken, **entry["params"]})
        numbers = sum(spec.dims for spec in benchmark.get_action_spec().values())
        assert numbers == found.shown.action_dim
        spec = benchmark.get_observation_spec()
        images = {key for key, each in spec.items() if each.format == "rgb_hwc_uint8"}
        assert images <= set(found.shown.images)
        assert spec["state"].dims in (0, found.shown.numbers["states"])
    for part in found.keys.state.values():
        assert part.name in found.shown.numbers
    assert set(found.keys.cameras.values()) <= set(found.shown.images)


def test_a_policy_of_robocasas_files_sees_what_they_hold(rng) -> None:
    """Through the benchmark's own `make_obs`, which needs no kitchen."""
    found = find_configuration("robocasa")
    (entry,) = found.entries
    kind = resolve_import_string(entry["benchmark"])
    benchmark = kind(send_state=True, **entry["params"])
    assert len(benchmark.get_tasks()) == found.tasks
    assert found.episodes(None) == 50 * found.tasks
    sizes = {
        "robot0_base_to_eef_pos": 3, "robot0_base_to_eef_quat": 4, "robot0_gripper_qpos": 2,
    }  # fmt: skip
    raw = {key: rng.normal(size=size).astype(np.float32) for key, size in sizes.items()}
    for camera in entry["params"]["camera_names"]:
        raw[f"{camera}_image"] = rng.integers(0, 256, (128, 128, 3)).astype(np.uint8)
    cameras = {key: (128, 128) for key in raw if key.endswith("_image")}
    wanted = Wanted(cameras, sizes, 7)
    assert found.shown is not None
    keys = fitted(found.keys, wanted, found.shown, found.name)
    told = served(7, env_args={"env_name": "RoboCasa", "image_convention": "opengl"})
    keys = raw_turn(keys, told, found.raw_images)
    seen = ObservationReader(wanted, keys).read(benchmark.make_obs(raw, {}), 0)
    for key, value in raw.items():
        assert ((seen.images | seen.state)[key] == value).all(), key


def test_a_result_takes_no_other_ones_place() -> None:
    names = [None, "simulator", "libero/10", "configs/a b.yaml"]
    assert [result_name(x) for x in names] == ["policy", "simulator", "libero-10", "configs-a-b"]


def test_the_container_is_one_of_this_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_configuration("libero/goal")
    with pytest.raises(FileNotFoundError, match="docker is not installed here"):
        found.in_image(None)
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho other/libero:1\necho host/vla-evaluation-harness/libero:2\n")
    docker.chmod(docker.stat().st_mode | stat.S_IEXEC)
    assert found.in_image(None).harness["docker"]["image"] == "host/vla-evaluation-harness/libero:2"
    assert found.in_image("mine").harness["docker"]["image"] == "mine"
    assert "docker" not in found.in_image(HERE).harness
    with pytest.raises(FileNotFoundError, match="--harness-image"):
        local_image("vla-evaluation-harness/calvin", "calvin")
    docker.write_text("#!/bin/sh\necho no daemon >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match="no daemon"):
        found.in_image(None)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--key-map x.yaml", "--key-map and --harness-image are for --harness"),
        ("--harness libro", "unknown harness 'libro'. Did you mean 'libero'"),
        ("--harness libero/goat", "unknown benchmark of libero 'goat'. Did you mean 'goal'"),
        ("--harness x.yaml", "x.yaml: no such file"),
        ("--harness libero --env tabletop/place", "--env: only --harness simulator"),
        ("--harness libero --videos 3", "--videos: the harness films nothing"),
        ("--harness libero --episodes 0", "--episodes 0: give at least 1"),
        ("--harness libero", "the policy needs the state key 'joints', but libero shows"),
        ("--harness simulator --harness-image x", "runs here, in no container"),
        ("serve --key-map x.yaml", "--key-map is for --protocol vla-eval and for ws://"),
        ("serve --protocol vla-eval --host 0.0.0.0", "served on loopback alone"),
        ("serve --protocol vla-eval --key-map x.yaml", "x.yaml: no such file"),
        ("serve --protocol vla-eval --port 70000", "--port 70000: give 0"),
    ],
)
def test_bad_words_get_one_line(exported, capsys, words, line) -> None:
    first, *rest = words.split()
    verb = [first, *rest] if first == "serve" else ["evaluate", first, *rest]
    assert main([verb[0], str(exported), *verb[1:]]) == 2
    said = capsys.readouterr().err
    (error,) = [each for each in said.splitlines() if each.startswith("error: ")]
    assert line in error
    assert "Traceback" not in said
