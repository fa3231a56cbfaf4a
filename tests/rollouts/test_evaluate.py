import json
from functools import cache

import imageio
import numpy as np
import pytest
from served_description import served
from walking_policy import Walker, evaluate, outcomes, point

from qsft_robot.parts.simulators import build_env
from qsft_robot.parts.told_success import told_success
from qsft_robot.types import Decision


@pytest.fixture(autouse=True)
def importable(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.path.parent))


def test_the_same_seeds_give_the_same_episodes_for_any_number_of_workers_and_environments():
    seeds = range(100, 117)
    one = evaluate(Walker(), point(), seeds, workers=1, envs_per_worker=1, progress=False)
    two = evaluate(Walker(), point(), seeds, workers=2, envs_per_worker=3, progress=False)
    assert outcomes(one) == outcomes(two)
    assert [e.seed for e in two.episodes] == list(seeds)
    assert len({e.steps for e in one.episodes}) > 1


def test_a_batch_never_takes_more_than_half_of_the_environments():
    walker = Walker()
    evaluate(walker, point(), range(40), workers=2, envs_per_worker=8, progress=False)
    assert 1 <= max(walker.batches) <= 8


@cache
def nine_good_episodes():
    result = evaluate(Walker(), point(), range(9), workers=1, envs_per_worker=3, progress=False)
    return outcomes(result)


@pytest.mark.parametrize("at", ["step", "reset"])
@pytest.mark.parametrize(
    ("misbehave", "reason", "words"),
    [
        ("raise", "error", "ArithmeticError: the simulation became unstable"),
        ("die", "crashed", "status 7"),
        ("hang", "timeout", "in _misbehave"),
    ],
)
def test_a_bad_episode_is_lost_alone_and_told(tmp_path, misbehave, reason, words, at):
    seeds, bad = range(9), (2, 5)
    result = evaluate(
        Walker(),
        point(bad_seeds=bad, misbehave=misbehave, at=at),
        seeds,
        workers=2,
        envs_per_worker=3,
        episode_timeout_s=1.5,
        out=tmp_path,
        progress=False,
    )
    for mine, reference in zip(outcomes(result), nine_good_episodes(), strict=True):
        assert mine == reference or mine[0] in bad
    lost = [e for e in result.episodes if e.seed in bad]
    assert [e.failure_reason for e in lost] == [reason, reason]
    assert all(words in e.error for e in lost)
    assert not any(e.success_any or e.success_last for e in lost)
    assert result.summary["broken"] == 2
    assert result.summary["failure_reasons"][reason] == 2
    assert "broke off" in str(result)
    assert result.success_any.n == 9
    if misbehave == "raise":
        assert result.summary["restarts"] == 0
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == list(seeds)
    assert rows[2]["failure_reason"] == reason


def test_the_last_words_of_a_process_that_died_are_kept():
    result = evaluate(
        Walker(), point(bad_seeds=(1,), misbehave="die"), [0, 1], workers=1, progress=False
    )
    assert "last words" in result.episodes[1].error


def test_success_at_any_step_and_at_the_last_step_differ_when_run_to_the_limit():
    seeds = range(12)
    walker = Walker(drift=0.9)
    stopped = evaluate(walker, point(), seeds, progress=False)
    assert stopped.success_any == stopped.success_last
    run_on = evaluate(walker, point(), seeds, run_to_limit=True, progress=False)
    assert run_on.success_any.successes > run_on.success_last.successes
    assert all(e.steps == 30 for e in run_on.episodes)
    assert run_on.summary["success_last"]["n"] == 12


def test_the_files_hold_every_field_that_makes_a_rate_reproducible(tmp_path):
    result = evaluate(Walker(), point(), [3, 4, 5], out=tmp_path, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert {
        "seed", "steps", "return", "success_any", "success_last", "failure_reason", "instruction",
        "mean_decision_ms", "value_at_start", "values", "restarts", "error",
    } <= set(rows[0])  # fmt: skip
    assert rows[0]["instruction"] == "reach the goal"
    assert rows[0]["value_at_start"] == 0.0
    assert len(rows[0]["values"]) == rows[0]["decisions"] == rows[0]["steps"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    assert summary["n"] == 3
    assert summary["low"] <= summary["success_rate"] <= summary["high"]
    assert summary["versions"]["numpy"] == np.__version__
    assert summary["versions"]["python"]
    assert "mujoco_gl" in summary["render_backend"]
    assert summary["env_args"]["env_name"].startswith("gymnasium:")
    assert summary["seeds"] == [3, 4, 5]
    assert summary["command"]


def test_tabletop_runs_from_pixels_and_the_renderer_is_stored():
    class Still(Walker):
        def infer_batch(self, observations, memories):
            assert observations[0].images["front_image"].shape == (24, 24, 3)
            return [Decision(np.zeros((1, 4), np.float32), 0.5) for _ in observations]

    args = {
        "env_name": "tabletop",
        "env_kwargs": {"task": "pick", "cameras": ["front"], "image_size": 24, "max_steps": 5},
    }
    result = evaluate(Still(), args, range(3), progress=False)
    assert [e.steps for e in result.episodes] == [5, 5, 5]
    assert all(e.instruction.startswith("pick up the") for e in result.episodes)
    assert result.summary["render_backend"]["gl_renderer"]
    assert result.summary["env_args"]["env_version"]


def test_a_chunk_is_executed_whole_or_as_far_as_asked():
    whole = evaluate(Walker(chunk=4), point(), [1], progress=False).episodes[0]
    part = evaluate(Walker(chunk=4), point(), [1], execute_steps=2, progress=False).episodes[0]
    assert whole.decisions == -(-whole.steps // 4)
    assert part.decisions == -(-part.steps // 2)


def test_videos_are_of_the_first_seeds_with_a_frame_a_step_and_the_outcome_in_the_name(tmp_path):
    result = evaluate(Walker(), point(), [7, 8, 9], videos=2, out=tmp_path, progress=False)
    assert len(result.videos) == 2
    for episode, path in zip(result.episodes[:2], result.videos, strict=True):
        word = "success" if episode.success_any else "fail"
        assert path.name == f"seed_{episode.seed}_{word}.mp4"
        frames = [frame for frame in imageio.get_reader(path)]
        assert len(frames) == episode.steps + 1
    assert result.episodes[2].video is None
    assert len(list((tmp_path / "videos").iterdir())) == 2


def test_videos_of_failures_show_failures(tmp_path):
    result = evaluate(
        Walker(drift=0.2), point(), range(8), videos=2, video_of="failures", out=tmp_path,
        progress=False,
    )  # fmt: skip
    failed = [e.seed for e in result.episodes if not e.success_any][:2]
    assert [p.name for p in result.videos] == [f"seed_{s}_fail.mp4" for s in failed]


def test_an_installed_gymnasium_environment_runs_and_takes_reset_options():
    class Still:
        def begin_episode(self, seed):
            return None

        def infer_batch(self, observations, memories):
            assert observations[0].state["observation"].shape == (3,)
            return [Decision(np.zeros((1, 1), np.float32)) for _ in observations]

    args = {"env_name": "gymnasium:Pendulum-v1", "env_kwargs": {"max_episode_steps": 20}}
    result = evaluate(Still(), args, [1, 2], reset_options={"x_init": 0.1}, progress=False)
    assert [e.steps for e in result.episodes] == [20, 20]
    assert result.episodes[0].value_at_start is None
    assert result.episodes[0].failure_reason == "step_limit"


PENDULUM = {"env_name": "gymnasium:Pendulum-v1", "env_kwargs": {}}


def test_a_step_limit_is_gymnasiums_own_where_the_environment_takes_none():
    env = build_env(PENDULUM, max_steps=5)
    env.reset(seed=0)
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(5)] == [False] * 4 + [True]
    env.close()


class Wrong(Walker):
    def __init__(self, actions):
        super().__init__()
        self.actions = actions

    def infer_batch(self, observations, memories):
        return [Decision(self.actions) for _ in observations]


@pytest.mark.parametrize(
    ("actions", "words"),
    [(np.zeros((1, 3)), r"takes \[h, 2\]"), (np.full((1, 2), np.nan), "NaN")],
)
def test_actions_of_a_wrong_shape_or_not_finite_are_refused(actions, words):
    with pytest.raises(ValueError, match=words):
        evaluate(Wrong(actions), point(), [1], progress=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seeds": []}, "no seeds"),
        ({"seeds": [1, 2, 1]}, "seed 1 stands more than once"),
        ({"seeds": [-1]}, "negative"),
        ({"workers": 0}, "workers=0"),
        ({"videos": 1}, "no folder"),
        ({"video_of": "best"}, "first, failures"),
        ({"execute_steps": 0}, "execute_steps is 0"),
        ({"env_args": {"env_name": "tabeltop"}}, "Did you mean 'tabletop'"),
        ({"env_overrides": {"speed": 3}}, "speed"),
        ({"env_args": PENDULUM, "run_to_limit": True}, "terminate_on_success.*--run-to-limit"),
    ],
)
def test_bad_arguments_are_answered_with_one_clear_error(arguments, words):
    given = {"policy": Walker(), "env_args": point(), "seeds": [1], "progress": False} | arguments
    with pytest.raises((ValueError, RuntimeError), match=words):
        evaluate(**given)


def test_what_was_finished_is_kept_when_the_policy_raises(tmp_path):
    class Tires(Walker):
        def infer_batch(self, observations, memories):
            if len(self.batches) > 40:
                raise MemoryError("too tired")
            return super().infer_batch(observations, memories)

    with pytest.raises(MemoryError, match="too tired"):
        evaluate(
            Tires(), point(), range(50), workers=1, envs_per_worker=2, out=tmp_path, progress=False
        )
    rows = (tmp_path / "partial_episodes.jsonl").read_text().splitlines()
    assert 0 < len(rows) < 50
    assert not (tmp_path / "summary.json").exists()


def test_what_was_finished_is_kept_when_filming_is_broken_off(tmp_path):
    class StopsAtFilms(Walker):
        begun = 0

        def begin_episode(self, seed):
            self.begun += 1
            if self.begun > 8:
                raise KeyboardInterrupt
            return super().begin_episode(seed)

    with pytest.raises(KeyboardInterrupt):
        evaluate(
            StopsAtFilms(drift=0.2), point(), range(8), videos=2, video_of="failures",
            out=tmp_path, progress=False,
        )  # fmt: skip
    rows = (tmp_path / "partial_episodes.jsonl").read_text().splitlines()
    assert [json.loads(row)["seed"] for row in rows] == [*range(8)]


class Described(Walker):
    """Its logs had these actions."""

    def __init__(self, low, high):
        super().__init__()
        seen = {"low": low, "high": high, "largest_change": [0.0, 0.0]}
        self.description = served(2, {"seen": seen})


def test_actions_that_the_environment_would_clip_are_refused_unless_accepted():
    beyond = Described([-1.0, 0.2], [1.0, 1.4])
    with pytest.raises(ValueError, match=r"dimension 1 from 0\.2 to 1\.4, where -1 to 1"):
        evaluate(beyond, point(), [1], workers=1, progress=False)
    evaluate(beyond, point(), [1], workers=1, accept=["range"], progress=False)
    evaluate(Described([-1.0, -1.0], [1.0, 1.0]), point(), [1], workers=1, progress=False)


def test_an_environment_that_tells_no_success_has_a_mean_return_and_no_rate(tmp_path):
    args = {"env_name": "gymnasium:rollout_environments:Point-v0", "env_kwargs": {"tells": False}}
    result = evaluate(Walker(), args, [1, 2], workers=1, out=tmp_path, progress=False)
    assert "tells no success" in str(result)
    assert f"mean return {result.summary['mean_return']:.4g}" in str(result)
    assert not result.tells_success
    with pytest.raises(ValueError, match="tells no success"):
        _ = result.success_any
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["success_rate"] is summary["low"] is summary["success_any"] is None
    lines = [json.loads(x) for x in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [line["success_any"] for line in lines] == [None, None]


@pytest.mark.parametrize(
    ("info", "told"),
    [
        ({}, None),
        ({"success": None}, None),
        ({"episode_success": 1.0}, None),
        ({"is_success": np.float32(1)}, True),
        ({"success": np.array([0.0])}, False),
        ({"success": None, "is_success": True}, True),
    ],
)
def test_success_is_what_the_info_says(info, told):
    assert told_success(info) is told


@pytest.mark.parametrize("value", ["no", [], np.array([1, 0]), 0.5, float("nan"), {}])
def test_success_that_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(ValueError, match="true or false"):
        told_success({"success": value})


def test_an_episode_whose_observation_is_not_finite_is_lost_alone():
    args = point(bad_seeds=(3,), misbehave="nan")
    result = evaluate(Walker(), args, [2, 3], workers=1, progress=False)
    assert [e.failure_reason == "error" for e in result.episodes] == [False, True]
    assert "'position' holds NaN" in result.episodes[1].error
