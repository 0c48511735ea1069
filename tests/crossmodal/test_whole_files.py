from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from crossmodal.whole_files import write_json, write_text


def test_what_was_there_stays_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sub" / "page.html"
    write_text(path, "old")
    write = Path.write_text

    def full(self: Path, text: str, **more: str) -> int:
        write(self, text[:1], **more)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in path.parent.iterdir()] == ["page.html"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    write_json(tmp_path / "figures.json", {"loss": float("inf"), "deep": [{"x": float("nan")}, 1.5]})
    assert json.loads((tmp_path / "figures.json").read_text()) == {"loss": None, "deep": [{"x": None}, 1.5]}
