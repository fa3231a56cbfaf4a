"""Joins files of demonstrations into one, log by log: masks kept, sources told apart."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsft_robot.files import atomic_file
from qsft_robot.logs.checks import (
    check_demo,
    demo_group,
    demo_names,
    env_args_of,
    is_text_dataset,
    masks_of,
    open_demonstrations,
)
from qsft_robot.logs.copying import check_attributes, copy_log
from qsft_robot.logs.ends import is_untold, marks_of, read_steps, untold_note
from qsft_robot.logs.hdf5_members import arrays, attribute
from qsft_robot.logs.hdf5_rows import kind_of
from qsft_robot.logs.image_convention import OPENGL, image_convention, upside_down_note
from qsft_robot.logs.images import images_in
from qsft_robot.logs.words import DATA_WORDS, ENV_WORDS, language_of
from qsft_robot.logs.writer import write_error
from qsft_robot.printed_text import printable
from qsft_robot.versions import VERSIONS, compare_files, joined_versions, recorded_versions

# The mask of a source file's logs: this and the file's stem.
SOURCE_MASK = "from_"
# Entries of env_args that change what an action does or what is seen. What else stands there
# (`type`, `env_version`, `language`, the name of a policy) describes how the logs came about.
_SAME = ("env_name", "env_kwargs", "control_hz")
# Attributes of data that are made anew.
_OWN = ("env_args", "total")


@dataclass(frozen=True)
class _Source:
    """One file, looked through but not read."""

    path: Path
    names: list[str]
    masks: dict[str, list[str]]
    env_args: dict[str, Any]
    # observation key -> (its kind of numbers, shape of one row), as every log of the file has it
    keys: dict[str, tuple[str, tuple[int, ...]]]
    # attributes of data, but for env_args and total
    attributes: dict[str, Any]
    # Numbers of one action; 0 where actions are text commands.
    action_dim: int
    # Logs of which nobody told whether they succeeded.
    untold: int
    # Whether the file says that its images stand on their heads.
    upside_down: bool


def merge_files(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    env_args_from: str | Path | None = None,
    common_keys: bool = False,
    source_masks: bool = True,
    strict_versions: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> Path:
    """Join robomimic-schema files into `out`, which appears whole or not at all; return it.

    Logs keep their content and attributes and are numbered anew, demo_0 onwards, in the order of
    `paths`. Masks of one name are joined; with `source_masks` each file's logs also get the mask
    from_<stem> (from_<stem>_2 where that is taken). `env_args_from`: the one of `paths` whose
    env_args are kept where environment or rate differ. `common_keys`: keep the observation keys
    that every log has, instead of refusing files that differ. Where their simulators had other
    versions a warning says so, or ValueError (`strict_versions`). `tell(done, of)` is called after
    each log. `out` may be one of `paths`. Memory: a buffer, whatever the size of a log.
    FileNotFoundError and ValueError name file, log and entry; OSError when the disk is full.
    """
    files, out = [Path(path) for path in paths], Path(out)
    if not files:
        raise ValueError(f"{out}: no files to merge; name at least one.")
    resolved = [path.resolve() for path in files]
    for i, path in enumerate(files):
        if resolved[i] in resolved[:i]:
            raise ValueError(f"{path}: named twice, so its logs would count twice.")
    sources = [_look_through(path, common_keys) for path in files]
    env_args = _agreed_env_args(sources, None if env_args_from is None else Path(env_args_from))
    versions = {str(source.path): recorded_versions(source.env_args) for source in sources}
    compare_files(versions, strict_versions)
    if joined := joined_versions(versions.values()):
        env_args = {**env_args, VERSIONS: joined}
    keys = _agreed_keys(sources, common_keys)
    if untold := sum(source.untold for source in sources):
        of = sum(len(source.names) for source in sources)
        warnings.warn(f"{out}: {untold_note(untold, of)}", stacklevel=2)
    if note := _image_note(sources, out, keys):
        warnings.warn(note, stacklevel=2)
    try:
        with atomic_file(out) as temporary, h5py.File(temporary, "w") as merged:
            _copy_all(sources, merged, keys, env_args, source_masks, tell)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as problem:
        raise write_error(out, problem) from problem
    return out


def _look_through(path: Path, common_keys: bool) -> _Source:
    """Structure of a file; ValueError when a log breaks the schema or differs from the others."""
    with open_demonstrations(path) as file:
        names = demo_names(file)
        untold = 0
        keys: dict[str, tuple[str, tuple[int, ...]]] | None = None
        action_dim = 0
        for name in names:
            demo = demo_group(file, name)
            check_demo(demo)
            marks_of(demo)
            read_steps(demo, "rewards")
            untold += is_untold(demo)
            here = {key: _kind(x) for key, x in arrays(demo, "obs").items()}
            if keys is None:
                keys, action_dim = here, _action_dim(demo)
            # Readers take the keys of the first log, and refuse a log that lacks one of them.
            for key in () if common_keys else keys:
                if key not in here:
                    raise ValueError(
                        f"{path}: data/{name} has no obs/{key}, which {names[0]} has. Keep the "
                        "keys that every log has with --common-keys, or mend the log."
                    )
            # What only some logs of a file have is nothing that the file has.
            keys = {key: kind for key, kind in keys.items() if here.get(key) == kind}
            if _action_dim(demo) != action_dim:
                raise ValueError(
                    f"{path}: data/{name}/actions have {_action_dim(demo)} dimensions (text "
                    f"commands 0), those of {names[0]} {action_dim}."
                )
        for holder in (file, file["data"]):
            check_attributes(holder)
        told = {n: attribute(file["data"], n) for n in file["data"].attrs if n not in _OWN}
        masks, env_args = masks_of(file), env_args_of(file)
        turned = upside_down_note(image_convention(file, env_args)) is not None
        return _Source(path, names, masks, env_args, keys or {}, told, action_dim, untold, turned)


def _action_dim(demo: h5py.Group) -> int:
    return 0 if is_text_dataset(demo["actions"]) else demo["actions"].shape[1]


def _kind(dataset: h5py.Dataset) -> tuple[str, tuple[int, ...]]:
    images = images_in(dataset)  # copied as they are: every layout is read as these
    if images is not None:
        return "images", images.shape[1:]
    if is_text_dataset(dataset):
        return "text", dataset.shape[1:]
    if kind_of(dataset) != "number":
        return kind_of(dataset), dataset.shape[1:]
    kind = "uint8" if dataset.dtype == np.uint8 else "numbers"
    shape = dataset.shape[1:]
    return kind, shape or (1,)


def _agreed_env_args(sources: Sequence[_Source], chosen: Path | None) -> dict[str, Any]:
    """The env_args to keep; ValueError with the entries that differ, unless a file was chosen."""
    if chosen is not None:
        for source in sources:
            if source.path.resolve() == chosen.resolve():
                return source.env_args
        raise ValueError(
            f"{chosen}: its env_args were asked for, but it is none of the files: "
            f"{', '.join(str(source.path) for source in sources)}."
        )
    first = sources[0]
    for other in sources[1:]:
        differing = environment_differences(first.env_args, other.env_args)
        if differing:
            raise ValueError(
                f"{first.path} and {other.path} come from environments that differ: "
                f"{'; '.join(differing)}. If their logs belong together all the same, say whose "
                "env_args to keep (--env-args-from FILE)."
            )
    return first.env_args


def environment_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In words, what keeps logs with these env_args from being joined; [] where nothing does."""
    return _differences(_compared(a), _compared(b))


def _compared(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of env_args that have to agree, flat: {"env_kwargs.task": ...}."""
    flat: dict[str, Any] = {}
    for key in _SAME:
        value = env_args.get(key)
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": x for inner, x in value.items() if inner not in ENV_WORDS}
        elif value is not None:
            flat[key] = value
    return flat


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    absent = object()

    def word(value: Any) -> str:
        return "nothing" if value is absent else json.dumps(value)

    return [
        f"{key} is {word(a.get(key, absent))} and {word(b.get(key, absent))}"
        for key in sorted({*a, *b})
        if a.get(key, absent) != b.get(key, absent)
    ]


def _agreed_keys(sources: Sequence[_Source], common: bool) -> list[str] | None:
    """The observation keys to copy, None for all; ValueError names a file and how it differs."""
    first = sources[0]
    for other in sources[1:]:
        if other.action_dim != first.action_dim:
            raise ValueError(
                f"{other.path}: actions have {other.action_dim} dimensions (text commands 0), "
                f"those of {first.path} {first.action_dim}; logs of two robots can't be one data "
                "set."
            )
    if common:
        shared = [
            key
            for key, kind in first.keys.items()
            if all(source.keys.get(key) == kind for source in sources)
        ]
        if not shared:
            raise ValueError(
                "no observation key is common to all files: "
                + "; ".join(f"{s.path} has {', '.join(s.keys)}" for s in sources)
            )
        return shared
    for other in sources[1:]:
        wrong = [
            f"{key}: {_said(first.keys.get(key))} in {first.path}, {_said(other.keys.get(key))} in "
            f"{other.path}"
            for key in sorted({*first.keys, *other.keys})
            if first.keys.get(key) != other.keys.get(key)
        ]
        if wrong:
            raise ValueError(
                f"{other.path}: its observations differ: {'; '.join(wrong)}. Keep those that all "
                "files share with --common-keys, or convert a file."
            )
    return None


def _image_note(sources: Sequence[_Source], out: Path, keys: list[str] | None) -> str | None:
    """The note on images that stand on their heads, in all of the files or in some."""
    with_images = [
        source
        for source in sources
        if any(
            kind == "images" and (keys is None or key in keys)
            for key, (kind, _) in source.keys.items()
        )
    ]
    turned = [source for source in with_images if source.upside_down]
    upright = next((source for source in with_images if not source.upside_down), None)
    if not turned:
        return None
    if upright is None:
        return f"{out}: {upside_down_note(OPENGL)}"
    return (
        f"{turned[0].path} says that its images are upside down (image convention {OPENGL}), "
        f"{upright.path} does not: in {out} some logs would stand on their heads. Turn the rows of "
        "one file's images before merging."
    )


def _said(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if kind is None else f"{kind[0]} {list(kind[1])}"


def _copy_all(
    sources: Sequence[_Source],
    merged: h5py.File,
    keys: list[str] | None,
    env_args: Mapping[str, Any],
    source_masks: bool,
    tell: Callable[[int, int], None] | None,
) -> None:
    data = merged.create_group("data")
    masks: dict[str, list[str]] = {}
    taken = {mask for source in sources for mask in source.masks}
    for name, value in _agreed_attributes(sources).items():
        data.attrs[name] = value
    of = sum(len(source.names) for source in sources)
    total = done = 0
    for source in sources:
        with open_demonstrations(source.path) as file:
            for name, value in file.attrs.items():
                if name not in merged.attrs:
                    merged.attrs[name] = value
            renamed: dict[str, str] = {}
            for name in source.names:
                renamed[name] = f"demo_{done}"
                demo = copy_log(demo_group(file, name), data, renamed[name], keys)
                # The file's own instruction has to go with the log when another's env_args stay.
                lang = language_of(demo_group(file, name), source.env_args)
                if lang != language_of(demo, env_args):
                    demo.attrs["lang"] = lang
                total += len(demo["actions"])
                done += 1
                if tell is not None:
                    tell(done, of)
        for mask, names in source.masks.items():
            for name in names:
                if name not in renamed:
                    raise ValueError(
                        f"{source.path}: mask/{mask} names '{name}', but data has no such group."
                    )
            masks.setdefault(mask, []).extend(renamed[name] for name in names)
        if source_masks:
            stem = printable(source.path.stem)  # a name of HDF5 is UTF-8, one of a file may not be
            masks[_free_name(f"{SOURCE_MASK}{stem}", taken)] = [*renamed.values()]
    data.attrs["total"] = total
    if env_args:
        data.attrs["env_args"] = json.dumps(dict(env_args))
    for mask, names in masks.items():
        merged[f"mask/{mask}"] = np.array(names, dtype="S")


def _agreed_attributes(sources: Sequence[_Source]) -> dict[str, Any]:
    """The attributes of `data` to keep: the first file's of each name, told where another differs.
    Words that not all files share go into the logs, not to those of the other files."""
    kept: dict[str, Any] = {}
    for name in dict.fromkeys(name for source in sources for name in source.attributes):
        there = [source for source in sources if name in source.attributes]
        first = there[0].attributes[name]
        other = next((s for s in there if not np.array_equal(s.attributes[name], first)), None)
        if name in DATA_WORDS and (other is not None or len(there) < len(sources)):
            continue
        kept[name] = first
        if other is not None:
            warnings.warn(
                f"{there[0].path} and {other.path} differ in the attribute {name} of data "
                f"({str(first)[:80]} and {str(other.attributes[name])[:80]}); the first stays.",
                stacklevel=4,
            )
    return kept


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or name_2, name_3, ... where it is taken; it is taken from now on."""
    free = name
    number = 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    taken.add(free)
    return free
