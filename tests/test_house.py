"""The rules of the house that a program can see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("qsft_robot", "vlm", "tokenizers_action", "sim")


def own_files() -> list[Path]:
    """Every file of the project itself: what git tracks, or all but the ignored folders."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = [name for name in listing.stdout.decode().split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    ignored = {".venv", ".git", "runs", "__pycache__", "dist", "build"}
    files = (path for path in ROOT.rglob("*") if path.is_file())
    return [path for path in files if not ignored & set(path.relative_to(ROOT).parts)]


FILES = own_files()
SOURCES = [path for path in FILES if path.suffix == ".py"]
SHIPPED = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]


def text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def test_no_source_file_passes_400_lines() -> None:
    long = {p.name: n for p in SOURCES if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_every_shipped_file_opens_with_a_docstring() -> None:
    bare = [
        path.relative_to(ROOT).as_posix()
        for path in SHIPPED
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not bare


def test_init_files_only_re_export() -> None:
    allowed = (ast.ImportFrom, ast.Expr)
    bad = [
        path.relative_to(ROOT).as_posix()
        for path in SHIPPED
        if path.name == "__init__.py"
        and not all(isinstance(node, allowed) for node in ast.parse(path.read_text()).body)
    ]
    assert not bad


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_reads_or_writes_pickle(path: Path) -> None:
    # A test may ask whether an object survives the way into a spawned process.
    is_test = path.relative_to(ROOT).parts[0] == "tests"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom) and not is_test:
            names = [alias.name for alias in node.names]
            names.append(getattr(node, "module", None) or "")
            picklers = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
            assert not picklers & {name.split(".")[0] for name in names}, node.lineno
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        flags = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        assert flags.get("allow_pickle") is not True, f"{call} in line {node.lineno}"
        if call == "torch.load":
            assert flags.get("weights_only") is True, f"line {node.lineno}"


def test_no_file_records_where_packages_come_from() -> None:
    # Put together here, so that this file does not find itself.
    marks = ["--" + "index-url", "--extra-" + "index-url", "--find-" + "links", "--ha" + "sh="]
    marks += ["pypi" + ".org", "python" + "hosted", "download.py" + "torch"]
    found = {
        (path.relative_to(ROOT).as_posix(), mark)
        for path in FILES
        for mark in marks
        if mark in (text_of(path) or "")
    }
    assert not found
    assert not [path for path in FILES if path.name in {"uv.lock", "pylock.toml"}]


def test_no_file_names_a_folder_of_the_machine_it_was_made_on() -> None:
    marks = ["/ro" + "ot/", "/ho" + "me/", "/wo" + "rk/", "/tmp" + "/"]
    found = {
        (path.relative_to(ROOT).as_posix(), mark)
        for path in FILES
        for mark in marks
        if mark in (text_of(path) or "")
    }
    assert not found


def locked() -> dict[str, str]:
    files = sorted(ROOT.glob("requirements*.lock"))
    assert len(files) == 3
    lines = [line for file in files for line in file.read_text().splitlines()]
    lines = [line for line in lines if not line.startswith("#")]
    pattern = r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)( ; python_version (<|>=) \"3\.\d+\")?"
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {match[1].lower().replace("_", "-"): match[2] for match in matches if match}


def test_the_lock_holds_exact_versions_and_nothing_else() -> None:
    versions = locked()
    # These two fail to import when they don't come as the pair that was built together.
    assert (versions["torch"], versions["torchvision"]) == ("2.11.0", "0.26.0")
    # robosuite 1.5.2 fails on later MuJoCo with an AssertionError in get_joint_qpos_addr.
    assert tuple(int(part) for part in versions["mujoco"].split(".")[:2]) < (3, 10)


def test_every_declared_dependency_is_locked() -> None:
    metadata = (ROOT / "pyproject.toml").read_text()
    declared = set(re.findall(r'^    "([A-Za-z0-9._-]+)(?:\[.*\])?[<>=]', metadata, re.MULTILINE))
    assert declared
    assert {name.lower().replace("_", "-") for name in declared} <= set(locked())


def test_ci_runs_make_test() -> None:
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111
    assert "make test" in run.read_text()


def test_the_page_of_settings_says_what_the_parsers_say(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == import_module("write_settings").page(), "run scripts/write_settings.py"
    # What a reader would look for, by hand: a choice, a switch and a name that Markdown would eat.
    assert "| `--qsft.backup` | value, soft, max | `value` |" in written
    assert "| `--model.frozen-features` |  | `on` |" in written
    assert "| `RUN` | PATH | required |" in written
    assert "<tag>" not in written
