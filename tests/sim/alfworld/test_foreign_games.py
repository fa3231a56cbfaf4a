"""A game file from somebody else: its grammar is read, and never evaluated as Python."""

from __future__ import annotations

import json
import shutil

import pytest

from sim.alfworld.env import AlfworldEnv

pytestmark = pytest.mark.usefixtures("alfworld_data")


@pytest.fixture
def game(alfworld_games, tmp_path):
    """An environment of one copied game, and a function that changes its grammar."""
    shutil.copytree(alfworld_games / "generated", tmp_path / "games")
    env = AlfworldEnv("train", data=str(tmp_path / "games"), cameras=())
    file = env.games[0].file

    def change(edit):
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "grammar": edit(content["grammar"])}))

    yield env, change
    env.close()


def test_python_in_a_grammar_is_not_run(game, tmp_path):
    env, change = game
    mark = tmp_path / "mark"
    attack = "{__import__('os').system('touch " + str(mark) + "')}"
    change(lambda grammar: grammar.replace("-= Welcome", attack + "-= Welcome"))
    with pytest.raises(ValueError, match="no word for an entity"):
        env.reset(seed=0)
    assert not mark.exists()


@pytest.mark.parametrize("field", ["{r.__class__.__mro__}", "{r:>1000000000}", "{r!r}", "{0}"])
def test_a_commands_fields_are_names_alone(field):
    engine = pytest.importorskip("sim.alfworld.engine")
    with pytest.raises(ValueError, match=r"the command .* its fields are written \{name\}"):
        engine.filled_command(f"go to {field}", {"r": "desk 1"})
    assert engine.filled_command("go to {r}", {"r": "desk 1"}) == "go to desk 1"
