"""The page of settings is what the parsers of today say, flag by flag."""

from __future__ import annotations

import sys
from importlib import import_module


def test_the_page_of_settings_is_current(repository, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(repository / "scripts"), *sys.path])
    written = (repository / "docs" / "settings.md").read_text()
    assert written == import_module("write_settings").page(), "run scripts/write_settings.py"
    # What a reader would look for, by hand: a choice, a switch and a name that Markdown would eat.
    assert "| `--qsft.backup` | value, soft, max | `value` |" in written
    assert "| `--model.frozen-features` |  | `on` |" in written
    assert "| `RUN` | PATH | required |" in written
    assert "<tag>" not in written.replace("`<tag>`", "")
