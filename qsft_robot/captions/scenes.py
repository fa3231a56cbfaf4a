"""Moments of random tabletop episodes, with what the simulator knows to be true of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsft_robot.parts.simulators import build_env, build_expert

CAMERAS = ("front", "wrist")
_TASKS, _TASK_SHARES = ("place", "pick", "drawer"), (0.6, 0.15, 0.25)
_MODES = (None, None, "sloppy", "wander", "wrong_object", "drop_early", "hesitate")
_EXPERT_NOISE = 0.25


@dataclass(frozen=True)
class CaptionScene:
    """One moment of an episode: what the cameras see, and what is true of it."""

    images: dict[str, np.ndarray]  # camera -> uint8 [h, w, 3]
    truth: Any  # sim.tabletop.truth.SceneTruth


def sample_scenes(count: int, seed: int, image_size: int = 64) -> Iterator[CaptionScene]:
    """Moments of random tabletop episodes: fresh layouts, and what a noisy expert makes of them.

    The same seed gives the same scenes to the bit. An episode gives at most 8 scenes.
    """
    rng = np.random.default_rng(seed)
    envs = {
        task: build_env(
            {"env_name": "tabletop", "env_kwargs": {"task": task, "image_size": image_size}}
        )
        for task in _TASKS
    }
    made = 0
    while made < count:
        env = envs[str(rng.choice(_TASKS, p=_TASK_SHARES))]
        for scene in _episode(env, rng):
            yield scene
            made += 1
            if made == count:
                break
    for env in envs.values():
        env.close()


def _episode(env: Any, rng: np.random.Generator) -> Iterator[CaptionScene]:
    options = {}
    if env.unwrapped.task == "drawer":
        options["drawer"] = str(rng.choice(["open", "closed"]))
    observation, _ = env.reset(seed=int(rng.integers(2**31)), options=options)
    yield _scene(env, observation)
    mode = _MODES[int(rng.integers(len(_MODES)))]
    expert = build_expert(env, mode, _EXPERT_NOISE, rng)
    over, made = False, 1
    while not over and made < 8:
        for _ in range(int(rng.integers(3, 8))):
            observation, _, terminated, truncated, _ = env.step(expert.act())
            over = terminated or truncated or expert.done
            if over:
                break
        yield _scene(env, observation)
        made += 1


def _scene(env: Any, observation: dict[str, np.ndarray]) -> CaptionScene:
    images = {camera: observation[f"{camera}_image"] for camera in CAMERAS}
    return CaptionScene(images, env.unwrapped.truth())
