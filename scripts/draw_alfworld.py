"""Draw a contact sheet of ALFWorld: the expert's steps in a game of each task type, in pictures."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qsft_robot.parts.simulators import build_env, build_expert

# Commands that change what there is to see; walks and doors between them are left out first.
TELLING = ("take", "move", "heat", "cool", "clean", "use")
CAPTION, TITLE, GAP = 26, 15, 4  # pixels

Frame = tuple[str, np.ndarray]


def play(env: Any, seed: int, task_type: str) -> tuple[str, list[Frame]]:
    """The goal, and the command and image of each step of one episode that succeeds."""
    for attempt in range(seed, seed + 50):
        observation, info = env.reset(seed=attempt, options={"task_type": task_type})
        frames = [("", observation["view_image"])]
        expert = build_expert(env, None, 0.0, np.random.default_rng(attempt))
        done = False
        while not done:
            command = expert.act()
            observation, _, terminated, truncated, info = env.step(command)
            frames.append((command, observation["view_image"]))
            done = terminated or truncated
        if info["success"]:
            return info["instruction"], frames
    raise RuntimeError(f"the expert solved no game of {task_type} in 50 tries")


def choose(frames: list[Frame], count: int) -> list[Frame]:
    """The start, and the last `count` - 1 steps that tell most, in their order."""
    telling = [i for i, (command, _) in enumerate(frames) if command.startswith(TELLING)]
    before = {i - 1 for i in telling if i > 1}  # where it stood for them
    opened = [i for i, (command, _) in enumerate(frames) if command.startswith("open")]
    ranked = [*telling[::-1], *sorted(before, reverse=True), *opened[::-1]]
    kept = list(dict.fromkeys(i for i in ranked if i > 0))[: count - 1]
    rest = [i for i in range(len(frames) - 1, 0, -1) if i not in kept]
    kept += rest[: count - 1 - len(kept)]
    return [frames[i] for i in sorted({0, *kept})]


def sheet(rows: list[tuple[str, list[Frame]]], count: int) -> Image.Image:
    """One row of captioned images for each goal."""
    side = rows[0][1][0][1].shape[0]
    height = TITLE + side + CAPTION + GAP
    paper = Image.new("RGB", (count * (side + GAP), len(rows) * height), "white")
    pen = ImageDraw.Draw(paper)
    font = ImageFont.load_default(11)
    for row, (goal, frames) in enumerate(rows):
        top = row * height
        pen.text((2, top), goal, "black", font)
        for column, (command, image) in enumerate(frames):
            left = column * (side + GAP)
            paper.paste(Image.fromarray(image), (left, top + TITLE))
            words = "\n".join(textwrap.wrap(command or "(start)", 24)[:2])
            pen.multiline_text((left + 2, top + TITLE + side), words, "black", font, spacing=1)
    return paper


def main() -> None:
    """Write the sheet; print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/alfworld_views.png"))
    parser.add_argument("--split", default="valid_unseen", help="train, valid_seen, valid_unseen")
    parser.add_argument("--task-types", nargs="+", help="some of the six; all of them if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=7, help="images of an episode")
    parser.add_argument("--size", type=int, default=128, help="side of an image, pixels")
    options = parser.parse_args()
    kwargs = {"split": options.split, "image_size": options.size}
    env = build_env({"env_name": "alfworld", "env_kwargs": kwargs})
    rows = []
    known = env.env_args["env_kwargs"]["task_types"]
    for task_type in options.task_types or known:
        goal, frames = play(env, options.seed, task_type)
        rows.append((f"{task_type}: {goal}", choose(frames, options.columns)))
    env.close()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, options.columns).save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
