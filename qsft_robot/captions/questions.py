"""Questions and answers about tabletop scenes, true by construction from the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsft_robot.captions.scenes import CaptionScene

COLOURS = ("red", "green", "yellow", "blue", "white")
SEEN = 0.5  # share of a thing's sample points that a camera must see before it is spoken of
APART = 0.07  # of the image's width, that make one thing left of another
DEPTH_APART = 0.05  # metres along the camera's axis that make one thing stand behind another
STANDING = 0.05  # metres over the table: at most, for what is told to stand behind another
NEAR, FAR = 0.14, 0.25  # metres between centres: at most, at least
ABOVE, BESIDE = 0.03, 0.03  # metres: at least so high over a thing, at most so far beside it
OPEN, CLOSED = 0.09, 0.01  # metres of a drawer's opening: at least, at most

# Relation -> how it is said between two names.
PHRASES = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "front": ("in front of", "nearer than"),
    "behind": ("behind", "farther than"),
    "near": ("near", "next to", "close to"),
    "far": ("far from",),
    "inside": ("in", "inside"),
    "above": ("above", "over"),
}


@dataclass(frozen=True)
class Relation:
    """A true statement about two things, from one camera's point of view."""

    subject: str
    word: str  # a key of PHRASES
    other: str


@dataclass(frozen=True)
class Turn:
    """A question and its true answer."""

    kind: str
    prompt: str
    answer: str


def seen(truth: Any, camera: str) -> list[str]:
    """The names of the things that a camera sees well enough to speak of, from left to right."""
    found = truth.sightings[camera]
    names = [name for name, sighting in found.items() if sighting.share >= SEEN]
    return sorted(names, key=lambda name: found[name].column)


def relations(truth: Any, camera: str) -> list[Relation]:
    """Every relation between two things that a camera sees; left, right, front and behind are
    those of its image, near and far those of the table."""
    names = seen(truth, camera)
    places = truth.sightings[camera]
    low = {name for name in names if truth.positions[name][2] < STANDING}
    found = []
    for one in names:
        for other in names:
            if one == other:
                continue
            if truth.inside.get(one) == other:
                found.append(Relation(one, "inside", other))
                continue
            if truth.inside.get(other) == one:
                continue
            across = places[one].column - places[other].column
            if abs(across) >= APART:
                found.append(Relation(one, "left" if across < 0 else "right", other))
            nearer = places[other].depth - places[one].depth
            # Higher in the picture is farther away only for what is as low as the other.
            if abs(nearer) >= DEPTH_APART and {one, other} <= low:
                found.append(Relation(one, "front" if nearer > 0 else "behind", other))
            found += _distances(truth, one, other)
    return found


def _distances(truth: Any, one: str, other: str) -> Iterator[Relation]:
    off = truth.positions[one] - truth.positions[other]
    distance = float(np.linalg.norm(off))
    if distance <= NEAR and "gripper" not in (one, other):
        yield Relation(one, "near", other)
    if distance >= FAR:
        yield Relation(one, "far", other)
    beside = float(np.hypot(off[0], off[1]))
    if one == "gripper" and other != truth.held and beside <= BESIDE and off[2] >= ABOVE:
        yield Relation(one, "above", other)


def place_words(truth: Any, camera: str, name: str) -> str:
    """A thing and where its centre is in an image: hundredths from the left, then from the top.
    The numbers follow the name at once, so that telling them takes one look at the image."""
    sighting = truth.sightings[camera][name]
    return f"{name} {int(100 * sighting.column)} {int(100 * sighting.row)}"


def say(relation: Relation, rng: np.random.Generator) -> str:
    """A relation as a sentence, in one of its phrasings."""
    return f"the {relation.subject} is {_pick(rng, PHRASES[relation.word])} the {relation.other}."


def _pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


# What follows are the kinds of turns: a question and its answer, or None where the scene has none.


def _point(truth: Any, rng: np.random.Generator, camera: str) -> Turn | None:
    # The gripper stands at one place of the wrist's image for ever.
    names = [name for name in seen(truth, camera) if (camera, name) != ("wrist", "gripper")]
    if not names:
        return None
    name = _pick(rng, names)
    view = "" if camera == "front" else "in the wrist view, "
    prompt = _pick(rng, (f"point to the {name}.", f"where in the picture is the {name}?"))
    return Turn(f"point {camera}", view + prompt, f"{place_words(truth, camera, name)}.")


def _point_front(truth: Any, rng: np.random.Generator) -> Turn | None:
    return _point(truth, rng, "front")


def _point_wrist(truth: Any, rng: np.random.Generator) -> Turn | None:
    return _point(truth, rng, "wrist")


def _list(truth: Any, rng: np.random.Generator) -> Turn | None:
    camera = "front" if rng.integers(2) else "wrist"
    names = [name for name in seen(truth, camera) if (camera, name) != ("wrist", "gripper")]
    if not names:
        return None
    places = [place_words(truth, camera, str(name)) for name in rng.permutation(names)]
    view = "" if camera == "front" else "in the wrist view, "
    return Turn("list", f"{view}list what you see.", f"{', '.join(places)}.")


def _wrist_sees(truth: Any, rng: np.random.Generator) -> Turn | None:
    names = [name for name in truth.positions if name != "gripper"]
    name = _pick(rng, names)
    sighting = truth.sightings["wrist"].get(name)
    if sighting is not None and 0 < sighting.share < SEEN:
        return None
    answer = "yes." if sighting is not None and sighting.share >= SEEN else "no."
    return Turn("wrist sees", f"does the wrist camera see the {name}?", answer)


def _side(truth: Any, rng: np.random.Generator) -> Turn | None:
    found = [r for r in relations(truth, "front") if r.word in ("left", "right")]
    if not found:
        return None
    relation = _pick(rng, found)
    prompt = f"is the {relation.subject} left or right of the {relation.other}?"
    return Turn("side", prompt, f"{relation.word}.")


def _where(truth: Any, rng: np.random.Generator) -> Turn | None:
    found = relations(truth, "front")
    if not found:
        return None
    relation = _pick(rng, found)
    answer = f"{_pick(rng, PHRASES[relation.word])} the {relation.other}."
    return Turn("where", f"where is the {relation.subject}?", answer)


def _describe(truth: Any, rng: np.random.Generator) -> Turn | None:
    found = relations(truth, "front")
    if len(found) < 2:
        return None
    chosen = rng.choice(len(found), 2, replace=False)
    prompt = _pick(rng, ("describe the picture.", "what do you see?", "caption:"))
    return Turn("describe", prompt, " ".join(say(found[i], rng) for i in chosen))


def _order(truth: Any, rng: np.random.Generator) -> Turn | None:
    names = [name for name in seen(truth, "front") if name != "gripper"]
    columns = [truth.sightings["front"][name].column for name in names]
    if len(names) < 2 or min(np.diff(columns)) < APART / 2:
        return None
    return Turn("order", "name what stands there from left to right.", f"{', '.join(names)}.")


def _colour(truth: Any, rng: np.random.Generator) -> Turn | None:
    names = [name for name in seen(truth, "front") if name.split()[0] in COLOURS]
    if len(names) < 2:
        return None
    left = bool(rng.integers(2))
    columns = [truth.sightings["front"][name].column for name in names]
    gap = columns[1] - columns[0] if left else columns[-1] - columns[-2]
    if gap < APART:
        return None
    name = names[0] if left else names[-1]
    prompt = f"what colour is the thing farthest to the {'left' if left else 'right'}?"
    return Turn("colour", prompt, f"{name.split()[0]}.")


def _present(truth: Any, rng: np.random.Generator) -> Turn | None:
    name = _pick(rng, ("blue bowl", "white tray", "drawer handle", "red cube", "green cube"))
    if name in truth.positions and name not in seen(truth, "front"):
        return None
    answer = "yes." if name in truth.positions else "no."
    return Turn("present", f"is there a {name}?", answer)


def _holding(truth: Any, rng: np.random.Generator) -> Turn | None:
    prompt = _pick(rng, ("what does the gripper hold?", "what is in the gripper?"))
    return Turn("holding", prompt, f"the {truth.held}." if truth.held else "nothing.")


def _inside(truth: Any, rng: np.random.Generator) -> Turn | None:
    if truth.drawer_opening is not None:
        return None
    box = _pick(rng, ("blue bowl", "white tray"))
    names = [name for name, where in truth.inside.items() if where == box]
    answer = f"the {' and the '.join(names)}." if names else "nothing."
    return Turn("inside", f"what is in the {box}?", answer)


def _drawer(truth: Any, rng: np.random.Generator) -> Turn | None:
    opening = truth.drawer_opening
    if opening is None or CLOSED < opening < OPEN:
        return None
    prompt = _pick(rng, ("is the drawer open or closed?", "what about the drawer?"))
    return Turn("drawer", prompt, f"the drawer is {'open' if opening >= OPEN else 'closed'}.")


def _next(truth: Any, rng: np.random.Generator) -> Turn | None:
    """A question about the next move of a robot that was given an instruction."""
    name = _pick(rng, [each for each in truth.positions if each.split()[-1] in ("cube", "brick")])
    box, instruction = None, f"pick up the {name}"
    if truth.drawer_opening is not None:
        if truth.inside.get(name) == "drawer":
            instruction = f"open the drawer and pick up the {name}"
    elif rng.integers(3):
        box = _pick(rng, ("blue bowl", "white tray"))
        instruction = f"put the {name} in the {box}"
    if instruction.startswith("open") and truth.drawer_opening < OPEN:
        answer = "pull the drawer open."
    elif box is not None and truth.inside.get(name) == box:
        answer = "nothing, it is done."
    elif truth.held == name:
        answer = f"carry it to the {box}{_way(truth, box)}." if box else "lift it."
    elif truth.held:
        answer = f"let go of the {truth.held}."
    else:
        answer = f"reach for the {name}{_way(truth, name)}."
    prompt = _pick(rng, ("{}", "{}", "the robot should {}. what is next?"))
    return Turn("next", prompt.format(instruction), answer)


def _way(truth: Any, name: str) -> str:
    """Where a thing is as seen from the gripper, if that can be told."""
    for relation in relations(truth, "front"):
        of_the_gripper = (relation.subject, relation.other) == (name, "gripper")
        if of_the_gripper and relation.word in ("left", "right"):
            return f", to the {relation.word}"
    return ""


_Maker = Callable[[Any, np.random.Generator], Turn | None]
# Kind -> how often it is asked, and what makes it.
KINDS: dict[str, tuple[float, _Maker]] = {
    "list": (4.0, _list),
    "point front": (4.0, _point_front),
    "point wrist": (2.0, _point_wrist),
    "wrist sees": (1.0, _wrist_sees),
    "side": (2.0, _side),
    "where": (2.0, _where),
    "describe": (1.0, _describe),
    "order": (1.0, _order),
    "colour": (1.0, _colour),
    "present": (0.5, _present),
    "holding": (2.0, _holding),
    "inside": (1.0, _inside),
    "drawer": (1.0, _drawer),
    "next": (3.0, _next),
}


def converse(
    scene: CaptionScene, rng: np.random.Generator, count: int, kinds: Sequence[str] = tuple(KINDS)
) -> list[Turn]:
    """`count` questions with their true answers about one scene; fewer where the scene has no
    answer to some of what was drawn."""
    shares = np.array([KINDS[kind][0] for kind in kinds])
    turns = []
    for i in rng.choice(len(kinds), count, p=shares / shares.sum()):
        turn = KINDS[kinds[i]][1](scene.truth, rng)
        if turn is not None:
            turns.append(turn)
    return turns
