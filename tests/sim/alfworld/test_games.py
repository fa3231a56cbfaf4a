"""Generated games: what tasks there are, where things lie, and that what is on disk is sound."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from sim.alfworld import layouts as alfworld_layouts
from sim.alfworld.folders import find_games
from sim.alfworld.games import generate_games
from sim.alfworld.layouts import FLOOR_PLANS, read_layout, receptacle_type
from sim.alfworld.problem import SPLITS, TASK_TYPES, draw_problem, tasks_of_room, tasks_of_split

needs_alfworld = pytest.mark.skipif(
    find_spec("alfworld") is None, reason="ALFWorld is not installed: make alfworld"
)


@pytest.fixture(autouse=True)
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of this file sees games of the machine; the package makes a folder when imported."""
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "data"))


def drawn(index: int = 0) -> Iterator[tuple[str, str]]:
    for task_type in TASK_TYPES:
        for split in SPLITS:
            yield task_type, draw_problem(task_type, split, 3, index, 0, "x").pddl


def facts(pddl: str, predicate: str) -> list[list[str]]:
    init = pddl.partition("(:goal")[0]
    return [words.split() for words in re.findall(rf"\({predicate} ([^()]*)\)", init)]


@needs_alfworld
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_splits_share_no_task_and_unseen_rooms_are_in_no_other(task_type):
    tasks = {split: tasks_of_split(task_type, split, 0) for split in SPLITS}
    assert all(tasks.values())
    assert not set(tasks["valid_unseen"]) & (set(tasks["train"]) | set(tasks["valid_seen"]))
    assert set(tasks["valid_seen"]) <= set(tasks["train"])
    sets = {split: {t for those in tasks[split].values() for t in those} for split in SPLITS}
    assert not sets["train"] & sets["valid_seen"]
    possible = {task for room in FLOOR_PLANS for task in tasks_of_room(task_type, room)}
    assert set().union(*sets.values()) == possible


@needs_alfworld
def test_a_game_is_determined_by_its_numbers_alone():
    first = draw_problem("pick_two_obj_and_place", "train", 0, 5, 0, "x")
    tasks_of_split.cache_clear()
    assert draw_problem("pick_two_obj_and_place", "train", 0, 5, 0, "x") == first
    numbers = ((0, 5, 1), (1, 5, 0))  # another draw, another seed
    others = [draw_problem("pick_two_obj_and_place", "train", *n, "x") for n in numbers]
    assert all(other.pddl != first.pddl for other in others)


@needs_alfworld
def test_every_object_lies_in_one_receptacle_that_can_hold_it():
    for task_type, pddl in drawn():
        kind_of = dict(facts(pddl, "objectType"))
        receptacle_kind = dict(facts(pddl, "receptacleType"))
        holds = {tuple(pair) for pair in facts(pddl, "canContain")}
        lies = facts(pddl, "inReceptacle")
        assert Counter(name for name, _ in lies) == Counter(dict.fromkeys(kind_of, 1)), task_type
        lamp = "DeskLampType"
        assert all(
            (receptacle_kind[where], kind_of[name]) in holds or kind_of[name] == lamp
            for name, where in lies
        )


@needs_alfworld
def test_nothing_that_is_asked_for_is_where_it_has_to_go():
    for task_type in TASK_TYPES:
        for index in range(5):
            problem = draw_problem(task_type, "train", 1, index, 0, "x")
            kind_of = dict(facts(problem.pddl, "objectType"))
            receptacle_kind = dict(facts(problem.pddl, "receptacleType"))
            asked = f"{problem.task.object}Type"
            goal = f"{problem.task.receptacle}Type"
            lies = [r for o, r in facts(problem.pddl, "inReceptacle") if kind_of[o] == asked]
            assert len(lies) >= (2 if task_type == "pick_two_obj_and_place" else 1)
            assert goal not in {receptacle_kind[name] for name in lies}


@needs_alfworld
def test_every_floor_plan_tells_where_each_receptacle_is_reached_from():
    assert len(FLOOR_PLANS) == 120
    for number in FLOOR_PLANS:
        layout = read_layout(number)
        points = set(layout.reachable)
        for name, stand in layout.stands.items():
            assert (stand.x, stand.z) in points, name
            assert stand.facing % 90 == 0
        assert all(receptacle_type(name).isalpha() for name in layout.stands)
    with pytest.raises(ValueError, match="401-430"):
        read_layout(31)


def test_what_is_on_disk_is_alfworlds_own_form(alfworld_data):
    for split in ("train", "valid_unseen"):
        games = find_games(split)
        assert [game.task_type for game in games] == list(TASK_TYPES)
        for game in games:
            files = {path.name for path in game.folder.iterdir()}
            assert files == {"traj_data.json", "initial_state.pddl", "game.tw-pddl"}
            told = json.loads((game.folder / "traj_data.json").read_text())
            played = json.loads(game.file.read_text())
            assert told["task_type"] == game.task_type
            assert told["scene"]["floor_plan"] == f"FloorPlan{game.floor_plan}"
            assert (game.floor_plan % 100 <= 6) == (split == "valid_unseen")
            assert played["pddl_problem"] == (game.folder / "initial_state.pddl").read_text()
            assert played["solvable"] is True
            assert 0 < len(played["walkthrough"]) <= 50


def test_an_interrupted_generation_goes_on_and_makes_the_same_games(alfworld_games, tmp_path):
    folder = tmp_path / "games"
    shutil.copytree(alfworld_games / "generated", folder)
    lost = find_games("valid_unseen", data=folder)[1]
    before = {path.name: path.read_bytes() for path in lost.folder.iterdir()}
    shutil.rmtree(lost.folder)
    told = []
    report = generate_games(
        folder, {"train": 6, "valid_unseen": 6}, workers=1, on_game=lambda *n: told.append(n)
    )
    assert (report.made, report.found, told) == (1, 11, [(12, 12)])
    assert {path.name: path.read_bytes() for path in lost.folder.iterdir()} == before
    assert not list(folder.glob(".*.tmp"))
    (lost.folder / "traj_data.json").unlink()
    lost.file.write_bytes(lost.file.read_bytes()[:1000])
    report = generate_games(folder, {"train": 6, "valid_unseen": 6}, workers=1)
    assert (report.made, report.found) == (1, 11)
    assert {path.name: path.read_bytes() for path in lost.folder.iterdir()} == before
    with pytest.raises(ValueError, match="two kinds don't mix"):
        generate_games(folder, {"train": 6}, seed=1)


@pytest.mark.parametrize(
    ("games", "options", "message"),
    [
        ({"test": 6}, {}, "train, valid_seen, valid_unseen"),
        ({"train": 0}, {}, "asks for no game"),
        ({"train": 6}, {"workers": 0}, "workers 0"),
        ({"train": 6}, {"seed": -1}, "seed -1"),
    ],
)
@needs_alfworld
def test_generation_refuses_what_makes_no_sense(games, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        generate_games(tmp_path / "new", games, **options)


@needs_alfworld
def test_generated_games_never_go_where_something_else_lies(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="something else"):
        generate_games(tmp_path, {"train": 6})
    with pytest.raises(ValueError, match="official data"):
        generate_games(tmp_path / "json_2.1.1", {"train": 6})


def test_official_data_is_used_before_generated_and_left_as_it_is(
    alfworld_games, tmp_path, monkeypatch
):
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"alfworld-download.*qsft-robot generate"):
        find_games("train")
    shutil.copytree(alfworld_games / "generated", tmp_path / "generated")
    assert find_games("train")[0].folder.is_relative_to(tmp_path / "generated")
    official = tmp_path / "json_2.1.1"
    shutil.copytree(alfworld_games / "generated" / "train", official / "train")
    before = {path: path.read_bytes() for path in official.rglob("*") if path.is_file()}
    assert find_games("train")[0].folder.is_relative_to(official)
    assert {path: path.read_bytes() for path in official.rglob("*") if path.is_file()} == before


def test_incomplete_official_data_says_what_is_missing(alfworld_games, tmp_path, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    official = tmp_path / "json_2.1.1"
    shutil.copytree(alfworld_games / "generated" / "train", official / "train")
    with pytest.raises(ValueError, match=r"no split 'valid_seen'.*alfworld-download"):
        find_games("valid_seen")
    game = find_games("train")[3]
    (game.folder / "traj_data.json").unlink()
    with pytest.raises(ValueError, match=r"no traj_data.json.*alfworld-download"):
        find_games("train")
    game.file.unlink()
    with pytest.raises(ValueError, match=r"no playable game of pick_heat.*1 folders have no game"):
        find_games("train")
    game.file.write_text('{"pddl_problem": "(define')
    (game.folder / "traj_data.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no playable game of pick_heat.*1 games are cut off"):
        find_games("train")


def test_unsolvable_sliced_and_movable_games_are_left_out(alfworld_games, tmp_path):
    shutil.copytree(alfworld_games / "generated", tmp_path / "games")
    games = find_games("train", data=tmp_path / "games")
    simple = games[0].folder
    left_out = ("pick_and_place_simple-AppleSliced", "pick_and_place_with_movable_recep-Mug")
    for name in left_out:
        shutil.copytree(simple, simple.parents[1] / f"{name}-None-Fridge-7" / "trial_1")
    marked = simple.parents[1] / "pick_and_place_simple-Mug-None-Fridge-7" / "trial_1"
    shutil.copytree(simple, marked)
    assert len(find_games("train", data=tmp_path / "games")) == 7
    game = json.loads((marked / "game.tw-pddl").read_text()) | {"solvable": False}
    (marked / "game.tw-pddl").write_text(json.dumps(game))
    assert find_games("train", data=tmp_path / "games") == games


@pytest.mark.parametrize(
    ("split", "task_types", "message"),
    [
        ("valid_unsen", TASK_TYPES, "Did you mean 'valid_unseen'"),
        ("train", ("pick_heat_then_place",), "Did you mean 'pick_heat_then_place_in_recep'"),
        ("train", (), "No ALFWorld task types"),
    ],
)
def test_unknown_splits_and_types_are_answered_with_what_there_is(split, task_types, message):
    with pytest.raises(ValueError, match=message):
        find_games(split, task_types)


def test_a_missing_package_is_answered_with_the_install_line(monkeypatch):
    monkeypatch.setattr(alfworld_layouts, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'qsft-robot\[alfworld\]'"):
        generate_games()
