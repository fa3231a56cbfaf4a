"""Members, attributes and rows of an HDF5 file, each opened with one clear error where it can't be.

h5py answers a file that is odd with whatever its layers raise (KeyError for a link that leads
nowhere, TypeError for a type that numpy lacks, OSError without a name), and waits forever for a
pipe. Here all of them become a ValueError that names file and place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from qsft_robot.logs.other_files import check_array, check_link

Member: TypeAlias = h5py.Group | h5py.Dataset
# Links that lead to links, and groups inside of groups.
_DEEPEST = 32
# Arrays of one log: more are a file made to keep readers busy.
_MOST = 10_000


class KeptGroup(h5py.Group):
    """A group of a file that nobody writes to: what was opened, checked or read of it is kept.

    Checks and readers ask for the same members and attributes again and again, and in a file of
    many short logs each question costs more than the numbers that it is about.
    """

    def __init__(
        self,
        group: h5py.Group,
        where: str | None = None,
        above: KeptGroup | None = None,
        keeps_members: bool = True,
    ) -> None:
        """`where`: its place, where that is known. `keeps_members` is off for a group of so many
        that all of them would fill the memory."""
        super().__init__(group.id)
        self.place = place(group) if where is None else where
        self.keeps_members = keeps_members
        self.members: dict[str, Member | None] = {}
        self.arrays: dict[str, dict[str, h5py.Dataset]] = {}
        self.attributes: dict[str, Any] = {}
        # Arrays that were read whole, by their path; the length of a log that was checked.
        self.rows: dict[str, np.ndarray] = {}
        self.length: int | None = None
        self._above = above

    @property
    def parent(self) -> h5py.Group:
        """The group that it was opened from, else HDF5's answer."""
        return super().parent if self._above is None else self._above

    @cached_property
    def attribute_names(self) -> frozenset[str]:
        """Names of all attributes."""
        return frozenset(self.attrs)

    def __getitem__(self, name: Any) -> Any:
        kept = self.members.get(name) if isinstance(name, str) else None
        return super().__getitem__(name) if kept is None else kept

    def __contains__(self, name: Any) -> bool:
        known = name in self.rows or self.members.get(name) is not None
        return known or super().__contains__(name)

    def has_link(self, name: str) -> bool:
        """Whether an entry of this name is there, wherever it leads."""
        return self.members.get(name) is not None or self.id.links.exists(self._e(name))

    def opened(self, name: str) -> Member | None:
        """As `member`, for one name."""
        if name in self.members:
            return self.members[name]
        links, encoded, found = self.id.links, self._e(name), None
        if links.exists(encoded):
            plain = links.get_info(encoded).type == h5py.h5l.TYPE_HARD
            found = self._hard_linked(name) if plain else _linked(self, name, 0)
        if self.keeps_members:
            self.members[name] = found
        return found

    def _hard_linked(self, name: str) -> Member | None:
        """What h5py's own indexing gives, without its questions to the file about each of them."""
        try:
            found = h5py.h5o.open(self.id, self._e(name))
            item = h5py.Dataset(found, readonly=True) if _is_array(found) else found
        except Exception as error:  # KeyError, OSError, RuntimeError: it differs by damage
            raise _not_opened(self, name, "can't be opened", error) from error
        if isinstance(item, h5py.Dataset):
            check_array(item)
            return item
        if not isinstance(found, h5py.h5g.GroupID):
            return None
        return KeptGroup(h5py.Group(found), inside(self, name), self)


def _is_array(found: object) -> bool:
    return isinstance(found, h5py.h5d.DatasetID)


def place(item: Member) -> str:
    """File and path of a member, for messages."""
    if isinstance(item, KeptGroup):
        return item.place
    return f"{item.file.filename}: {(item.name or '/')[1:]}"


def inside(group: Member, name: str) -> str:
    """File and path of a member of `group` that may not be there."""
    if isinstance(group, KeptGroup):
        return f"{group.place}{'' if group.place.endswith(': ') else '/'}{name}"
    return f"{place(group)}/{name}" if group.name not in ("/", None) else f"{place(group)}{name}"


@contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Turn what h5py raises inside of the block into a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        raised_by = "" if trace is None else trace.tb_frame.f_code.co_filename
        if "h5py" not in raised_by.replace("\\", "/").split("/"):
            raise
        raise ValueError(
            f"{path}: HDF5 can't read it ({reason_of(error)}): damaged, cut short or of a kind "
            "that is not read. Copy it again or collect it again."
        ) from error


def reason_of(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).strip("'\"").split()) or type(error).__name__


def member(group: h5py.Group, name: str, depth: int = 0) -> Member | None:
    """The group or dataset at `name` (a/b/c, too); None where there is none.

    ValueError on a link that leads nowhere, in a circle, or to what is no file.
    """
    found: Member | None = group
    for part in filter(None, name.split("/")):
        if not isinstance(found, h5py.Group):
            return None
        kept = depth == 0 and isinstance(found, KeptGroup)
        found = found.opened(part) if kept else _linked(found, part, depth)
    return found


def _linked(group: h5py.Group, part: str, depth: int) -> Member | None:
    link = group.get(part, getlink=True)
    if link is None:
        return None
    if isinstance(link, h5py.ExternalLink):
        target = f"{link.path} of the file {link.filename}"
        check_link(inside(group, part), group.file.filename, link.filename)
    elif isinstance(link, h5py.SoftLink):
        target = str(link.path)
        if depth >= _DEEPEST:
            raise ValueError(f"{inside(group, part)}: its links lead in a circle ({target}).")
        # Walked by hand: a link on the way may lead to what must not be opened.
        start = group.file if target.startswith("/") else group
        if member(start, target, depth + 1) is None:
            raise ValueError(f"{inside(group, part)}: a link to {target}, where nothing is. {MEND}")
    else:
        target = ""
    try:
        found = group[part]
    except Exception as error:  # KeyError, OSError, RuntimeError: it differs by link and damage
        said = f"a link to {target}, which can't be opened" if target else "can't be opened"
        raise _not_opened(group, part, said, error) from error
    if isinstance(found, h5py.Dataset):
        check_array(found)
    return found if isinstance(found, Member) else None


def _not_opened(group: h5py.Group, part: str, said: str, error: Exception) -> ValueError:
    return ValueError(f"{inside(group, part)}: {said} ({reason_of(error)}). {MEND}")


MEND = "Take the entry out of the file, or bring what it names to where it is looked for."


def has(group: h5py.Group, name: str) -> bool:
    """Whether there is an entry of this name, one that leads nowhere included."""
    if isinstance(group, KeptGroup):
        return group.has_link(name)
    return group.get(name, getlink=True) is not None


def members(group: h5py.Group) -> dict[str, Member]:
    """Groups and datasets of a group by name; ValueError as `member`."""
    try:
        names = list(group)
    except Exception as error:
        raise ValueError(f"{place(group)}: can't be listed ({reason_of(error)}).") from error
    opened = group.opened if isinstance(group, KeptGroup) else partial(_linked, group, depth=0)
    found = {name: opened(name) for name in names}
    return {name: item for name, item in found.items() if item is not None}


def arrays(demo: h5py.Group, name: str) -> dict[str, h5py.Dataset]:
    """Datasets of the group `name` of a log and of the groups in it, by their path in it:
    {"proprio": ..., "images/left": ...}; {} where there is no such group.

    ValueError as `member`, on a group that holds itself, and on a dataset in the group's place.
    """
    if isinstance(demo, KeptGroup) and name in demo.arrays:
        return demo.arrays[name]
    group = member(demo, name)
    found: dict[str, h5py.Dataset] = {}
    if group is not None and not isinstance(group, h5py.Group):
        raise ValueError(f"{inside(demo, name)}: a dataset, where a group of arrays is expected.")
    if group is not None:
        _gather(group, "", found, ())
    if isinstance(demo, KeptGroup):
        demo.arrays[name] = found
    return found


def _gather(
    group: h5py.Group, prefix: str, found: dict[str, h5py.Dataset], above: tuple[object, ...]
) -> None:
    itself = (group.file.filename, h5py.h5o.get_info(group.id).addr)
    if itself in above or len(above) > _DEEPEST:
        raise ValueError(f"{place(group)}: a group that holds itself, or groups without end.")
    for name, item in members(group).items():
        if isinstance(item, h5py.Group):
            _gather(item, f"{prefix}{name}/", found, (*above, itself))
        else:
            found[prefix + name] = item
        if len(found) > _MOST:
            raise ValueError(f"{place(group)}: more than {_MOST} arrays in one log.")


def attribute_names(item: Member) -> frozenset[str]:
    """Names of all attributes."""
    return item.attribute_names if isinstance(item, KeptGroup) else frozenset(item.attrs)


def attribute(item: Member, name: str, default: Any = None) -> Any:
    """One attribute: str, number, bool, or numpy array of numbers or str; `default` where there is
    none or it is empty. ValueError where it can't be read."""
    if not isinstance(item, KeptGroup):
        return _read_attribute(item, name, default) if name in item.attrs else default
    if name in item.attribute_names and name not in item.attributes:
        item.attributes[name] = _read_attribute(item, name, None)
    value = item.attributes.get(name)
    return default if value is None else value


def _read_attribute(item: Member, name: str, default: Any) -> Any:
    try:
        value = item.attrs[name]
    except Exception as error:  # a type that numpy lacks, text that is no UTF-8, damage
        where = f"{place(item)}: attribute {name}"
        raise ValueError(f"{where}: can't be read ({reason_of(error)}).") from error
    if isinstance(value, h5py.Empty):
        return default
    if isinstance(value, bytes | np.bytes_):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
        return value.decode(errors="replace") if isinstance(value, bytes) else value
    return value
