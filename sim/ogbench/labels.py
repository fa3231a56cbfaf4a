"""Success of a task in states that were recorded without one: the simulator judges each row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.ogbench.tasks import SCENES, find_task, make_scene


class Labels:
    """Judges rows of OGBench's files (`qpos`, where there are buttons `button_states` too)."""

    def __init__(self, task: str = "cube-single") -> None:
        scene, number = find_task(task)
        self._env = make_scene(f"{scene}-singletask-task{number}")
        self._env.reset(seed=0)  # sets the task's goal
        buttons = ("button_states",) if "button" in SCENES[scene].oracles else ()
        # The columns of a file that are read.
        self.keys: tuple[str, ...] = ("qpos", *buttons)

    def successes(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether each row is a state in which the task is done, bool [t].

        ValueError where the rows are those of another scene.
        """
        data, env = self._env._data, self._env
        buttons = np.shape(getattr(env, "_cur_button_states", ()))
        known = {"qpos": data.qpos.shape, "button_states": buttons}
        for key in self.keys:
            if rows[key].shape[1:] != known[key]:
                raise ValueError(
                    f"{key} has rows of shape {rows[key].shape[1:]}, where those of this scene "
                    f"have {known[key]}: are these data of another one?"
                )
        done = np.zeros(len(rows["qpos"]), bool)
        for i in range(len(done)):
            data.qpos[:] = rows["qpos"][i]
            if "button_states" in self.keys:
                env._cur_button_states = rows["button_states"][i]
            done[i] = all(env._compute_successes())
        return done
