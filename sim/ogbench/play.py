"""Play data of OGBench's manipulation scenes: the package's own oracles at one goal after another,
with no task in mind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sim.ogbench.env import close_scene
from sim.ogbench.tasks import SCENES, find_task, make_scene, state_before

# As the published data are recorded.
EPISODES = 1000
STEPS = 1001
NOISE, SMOOTHING = 0.1, 0.5


class PlayRecorder:
    """Records episodes of the scene of a task; an episode depends on its seed alone.

    `cameras` are those of the environment: images take the place of flat states.
    """

    def __init__(
        self,
        task: str = "cube-single",
        *,
        cameras: Sequence[str] = (),
        image_size: int = 64,
        noise: float = NOISE,
        steps: int = STEPS,
    ) -> None:
        self.scene, _ = find_task(task)
        self._facts, self._steps = SCENES[self.scene], steps
        size = {"height": image_size, "width": image_size} if cameras else {}
        self._env = make_scene(
            f"visual-{self.scene}" if cameras else self.scene,
            mode="data_collection",
            terminate_at_goal=False,
            **size,
        )
        kinds = self._facts.oracles
        self._oracles = {kind: _oracle(kind, self._env, noise, self.scene) for kind in kinds}

    def record(self, seed: int) -> dict[str, np.ndarray]:
        """One episode as the arrays of OGBench's files: row i is what was seen before action i.

        An episode of `scene` that loses the cube from sight is drawn anew, as the published ones.
        """
        draws = np.random.SeedSequence(seed)
        while True:
            for_env, for_oracles = draws.generate_state(2)
            with _legacy_seed(int(for_oracles)):
                rows = self._play(int(for_env >> 1))
            episode = {key: np.stack(values) for key, values in rows.items()}
            if self.scene != "scene" or _cube_in_sight(episode["qpos"]):
                return {key: _stored(key, x) for key, x in episode.items()}
            draws = draws.spawn(1)[0]

    def close(self) -> None:
        """Free the renderer."""
        close_scene(self._env)

    def _play(self, seed: int) -> dict[str, list[Any]]:
        observation, info = self._env.reset(seed=seed)
        stacking = np.random.uniform(*self._facts.stacking)  # noqa: NPY002 (see _legacy_seed)
        oracle = self._aimed(observation, info)
        rows: dict[str, list[Any]] = {"observations": [], "actions": [], "terminals": []}
        for step in range(self._steps):
            chosen = np.asarray(oracle.select_action(observation, info))
            action = np.clip(chosen, -1, 1).astype(np.float32)
            rows["observations"].append(observation)
            rows["actions"].append(action)
            observation, _, _, _, info = self._env.step(action)
            rows["terminals"].append(step == self._steps - 1)
            for key, value in state_before(info).items():
                rows.setdefault(key, []).append(value)
            if oracle.done:
                oracle = self._aimed(*self._env.unwrapped.set_new_target(p_stack=stacking))
        return rows

    def _aimed(self, observation: Any, info: Any) -> Any:
        oracle = self._oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        return oracle


def _oracle(kind: str, env: Any, noise: float, scene: str) -> Any:
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    kinds = {
        "cube": CubePlanOracle,
        "button": ButtonPlanOracle,
        "drawer": DrawerPlanOracle,
        "window": WindowPlanOracle,
    }
    # Where there is nothing to grasp the hand stays closed.
    closed = {"gripper_always_closed": True} if scene.startswith("puzzle") else {}
    return kinds[kind](env=env, noise=noise, noise_smoothing=SMOOTHING, **closed)


@contextmanager
def _legacy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which the oracles draw from, and put it back afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _cube_in_sight(qpos: np.ndarray) -> bool:
    """Whether the cube never leaves the cameras' view, but for the drawer."""
    y, z = qpos[:, 15], qpos[:, 16]
    in_drawer_height = (z >= 0.06) & (z <= 0.08)
    return not ((y >= 0.29) | ((y <= -0.3) & ~in_drawer_height)).any()


def _stored(key: str, rows: np.ndarray) -> np.ndarray:
    if key == "terminals":
        return rows.astype(bool)
    if key == "button_states":
        return rows.astype(np.int64)
    return rows if rows.dtype == np.uint8 else rows.astype(np.float32)
