"""Whether evaluations met the same episodes: simulator, its arguments and versions, seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from qsft_robot.compare.recorded import Recorded
from qsft_robot.versions import recorded_versions

# Arguments of simulators that say what a policy is shown, not what the task is.
_SEEN = {
    "cameras", "image_size", "render_quality", "keys", "camera_names", "camera_heights",
    "camera_widths", "camera_depths", "camera_segmentations", "use_camera_obs", "use_object_obs",
    "has_renderer", "has_offscreen_renderer", "render_camera", "render_gpu_device_id",
    "render_collision_mesh", "render_visual_mesh", "renderer",
}  # fmt: skip
# Asked for by videos and by modules that register environments.
_NO_MATTER = {"render_mode", "imports"}
SEEDS, ENVIRONMENT = "seeds", "environment"


def common_seeds(runs: Sequence[Recorded], accept: Collection[str] = ()) -> list[int]:
    """The episode seeds that every evaluation has, in order. ValueError where they are not the same
    in all, unless `accept` has "seeds", and where none is."""
    first = runs[0]
    common = set(first.episodes).intersection(*(run.episodes for run in runs[1:]))
    other = next((run for run in runs if set(run.episodes) != set(first.episodes)), None)
    if other is None:
        return sorted(common)
    each = f"{first.folder} has {_span(first.episodes)}, {other.folder} {_span(other.episodes)}"
    if not common:
        raise ValueError(
            f"the evaluations share no episode seed: {each}. Evaluate both with the same --seed "
            "and --episodes."
        )
    if SEEDS not in accept:
        raise ValueError(
            f"the evaluations have other episode seeds: {each}; {len(common)} are common. Evaluate "
            f"both with the same --seed and --episodes, or compare those alone: --accept {SEEDS}."
        )
    return sorted(common)


def _span(seeds: Collection[int]) -> str:
    return f"{len(seeds)} from {min(seeds)} to {max(seeds)}"


def check_same_environment(
    runs: Sequence[Recorded],
    seeds: Sequence[int],
    accept: Collection[str] = (),
    strict_versions: bool = False,
) -> list[str]:
    """The differences between the evaluations that do not forbid to compare them, one line each.

    ValueError where the simulator, its arguments or the tasks of the seeds differ, unless `accept`
    has "environment"; with `strict_versions` where the simulator's versions do, too.
    """
    first, notes = runs[0], []
    for other in runs[1:]:
        against = f"{first.folder} and {other.folder}"
        if differing := list(_differences(first, other, seeds)):
            text = f"{against} are not of the same environment: {'; '.join(differing)}"
            if ENVIRONMENT not in accept:
                raise ValueError(
                    f"{text}. Evaluate both in one, or compare them all the same: --accept "
                    f"{ENVIRONMENT}."
                )
            notes.append(text)
        if shown := list(_that_differ(_arguments(first), _arguments(other), _SEEN)):
            notes.append(f"the policies of {against} were shown other things: {'; '.join(shown)}")
        if versions := list(_that_differ(_versions(first), _versions(other))):
            text = f"{against} were simulated by other versions: {'; '.join(versions)}"
            if strict_versions:
                raise ValueError(f"{text} (refused by --strict-versions).")
            notes.append(f"{text}: physics and images may differ")
        steps = [run.summary.get("execute_steps") for run in (first, other)]
        if steps[0] != steps[1]:
            notes.append(
                f"{against} executed {steps[0] or 'all'} and {steps[1] or 'all'} actions a decision"
            )
    return list(dict.fromkeys(notes))


def _differences(first: Recorded, other: Recorded, seeds: Sequence[int]) -> Iterator[str]:
    a, b = _arguments(first), _arguments(other)
    yield from _that_differ(a, b, (set(a) | set(b)) - _SEEN - _NO_MATTER)
    for key in ("reset_options", "run_to_limit"):
        told = [run.summary.get(key) or None for run in (first, other)]
        if told[0] != told[1]:
            yield f"{key} is {_short(told[0])} and {_short(told[1])}"
    for seed in seeds:
        texts = [run.episodes[seed].get("instruction") for run in (first, other)]
        if texts[0] != texts[1]:
            yield f"seed {seed} is the task {_short(texts[0])} and {_short(texts[1])}"
            return


def _arguments(run: Recorded) -> dict[str, Any]:
    """The simulator's name and arguments, as they were in force."""
    env_args = run.summary.get("env_args") or {}
    kwargs = {**(env_args.get("env_kwargs") or {}), **(run.summary.get("env_overrides") or {})}
    return {"env_name": env_args.get("env_name"), **kwargs}


def _versions(run: Recorded) -> dict[str, Any]:
    return dict(recorded_versions(run.summary.get("env_args") or {}))


def _that_differ(
    a: Mapping[str, Any], b: Mapping[str, Any], keys: Collection[str] | None = None
) -> Iterator[str]:
    for key in sorted(set(a) | set(b)):
        if (keys is None or key in keys) and a.get(key) != b.get(key):
            yield f"{key} is {_short(a.get(key))} and {_short(b.get(key))}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
