"""A corridor of rooms where commands depend on the state (a test environment for worker processes,
which import this module by its name)."""

import gymnasium
import numpy as np
from gymnasium import spaces

from qsft_robot.types import ADMISSIBLE, Episode, split_texts

ITEMS = ("coin", "cup")


# What builds it says that its module may be imported.
TRUSTED = {"imports": ["text_environments"]}


class Corridor(gymnasium.Env):
    """Rooms 1 to `rooms` in a row, a coin and a cup in two of them: take the one that the goal
    names and drop it in room 1. A room's content is told on arrival only."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self, *, rooms: int = 3, max_steps: int = 12, image: bool = False,
        render_mode: str | None = None, terminate_on_success: bool = True,
    ) -> None:  # fmt: skip
        self.rooms, self.max_steps, self.image = rooms, max_steps, image
        self.render_mode, self.terminate_on_success = render_mode, terminate_on_success
        self.control_hz = 2.0
        self.action_space = spaces.Text(40)
        entries = {"feedback": spaces.Text(200), ADMISSIBLE: spaces.Text(2000)}
        if image:
            entries["view_image"] = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.observation_space = spaces.Dict(entries)
        self.env_args = {
            "env_name": "gymnasium:text_environments:Corridor-v0", "type": 2,
            "env_kwargs": {"rooms": rooms, "max_steps": max_steps, "image": image},
        }  # fmt: skip

    def commands(self) -> list[str]:
        found = ["look", *(f"go to room {i}" for i in range(1, self.rooms + 1) if i != self.at)]
        found += [f"take {x}" for x in ITEMS if self.place[x] == self.at and self.hand is None]
        return sorted(found + ([f"drop {self.hand}"] if self.hand else []))

    def _look(self, said: str) -> dict:
        seen = {"feedback": said, ADMISSIBLE: "\n".join(self.commands())}
        if self.image:
            here = [x for x in ITEMS if self.place[x] == self.at]
            view = np.zeros((16, 16, 3), np.uint8)
            view[:, : 4 * self.at] = 60
            for x in here:
                view[8 * ITEMS.index(x) :][:8, 8:] = 255
            seen["view_image"] = view
        return seen

    def _info(self, refused: bool = False) -> dict:
        return {
            "success": self.won, "instruction": f"bring the {self.goal} to room 1",
            "task_type": f"bring_{self.goal}", "invalid_command": refused,
        }  # fmt: skip

    def _describe(self) -> str:
        here = [x for x in ITEMS if self.place[x] == self.at]
        return f"You are in room {self.at}. You see {' and '.join(here) or 'nothing'}."

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.hand, self.steps, self.won = 1, None, 0, False
        self.place = {x: int(self.np_random.integers(2, self.rooms + 1)) for x in ITEMS}
        self.goal = ITEMS[int(self.np_random.integers(len(ITEMS)))]
        return self._look(self._describe()), self._info()

    def step(self, action):
        assert isinstance(action, str)
        self.steps += 1
        refused = action not in self.commands()
        said, (verb, *words) = "Nothing happens.", (action or "nothing").split()
        if refused:
            pass
        elif verb == "go":
            self.at = int(words[-1])
            said = self._describe()
        elif verb == "take":
            self.hand, self.place[words[0]] = words[0], 0
            said = f"You take the {self.hand}."
        elif verb == "drop":
            said = f"You drop the {self.hand}."
            self.place[self.hand], self.hand = self.at, None
        else:
            said = self._describe()
        before, self.won = self.won, self.won or self.place[self.goal] == 1
        ended = self.won and self.terminate_on_success
        reward = float(self.won and not before)
        return self._look(said), reward, ended, self.steps >= self.max_steps, self._info(refused)

    def render(self):
        return np.full((96, 160, 3), 30 * self.at, np.uint8)


class Player:
    """Plays a Corridor by its state; a share of its commands is random."""

    def __init__(self, env: Corridor, randomness: float, rng: np.random.Generator) -> None:
        self.env, self.randomness, self.rng, self.done = env, randomness, rng, False
        self.unseen = list(rng.permutation(np.arange(2, env.rooms + 1)))

    def act(self) -> str:
        env = self.env
        commands = env.commands()
        if self.rng.random() < self.randomness:
            return str(self.rng.choice(commands))
        if env.at in self.unseen:
            self.unseen.remove(env.at)
        if env.hand == env.goal:
            return "drop " + env.goal if env.at == 1 else "go to room 1"
        if env.hand is not None:
            return f"drop {env.hand}"
        if f"take {env.goal}" in commands:
            return f"take {env.goal}"
        return f"go to room {self.unseen[0]}" if self.unseen else str(self.rng.choice(commands))


def play(seed: int, randomness: float = 0.3, rooms: int = 3, image: bool = True) -> Episode:
    """One log of the player, until success or the step limit."""
    env = Corridor(rooms=rooms, image=image)
    seen, info = env.reset(seed=seed)
    player = Player(env, randomness, np.random.default_rng(seed))
    rows, actions, rewards, over = {key: [x] for key, x in seen.items()}, [], [], False
    while not over:
        actions.append(player.act())
        seen, reward, ended, cut, info = env.step(actions[-1])
        rewards.append(reward)
        over = ended or cut
        for key, x in seen.items():
            rows[key].append(x)
    observations, said = split_texts(rows)
    return Episode(
        f"demo_{seed}", observations, np.array(actions, object), np.array(rewards, np.float32),
        True, False, bool(info["success"]), info["instruction"], {"seed": seed}, said,
    )  # fmt: skip


gymnasium.register("Corridor-v0", entry_point=Corridor, disable_env_checker=True)
