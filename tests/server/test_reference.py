"""What `--model` names, told by its spelling and by what is on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.errors import PlanError
from server.reference import Reference, refer
from server.settings import Settings


@pytest.mark.parametrize(
    ("model", "expected", "name"),
    [
        ("org/name", Reference(None, "org/name"), "org/name"),
        ("org/name@v1.2", Reference(None, "org/name", "v1.2"), "org/name"),
        ("hf://org/na-me.x@refs/pr/1", Reference(None, "org/na-me.x", "refs/pr/1"), "org/na-me.x"),
        (
            "hf://org/name/a-Q4_K_M.gguf",
            Reference(None, "org/name", None, "a-Q4_K_M.gguf"),
            "a-Q4_K_M",
        ),
        ("a/b/c", Reference(Path("a/b/c")), "c"),
        ("./org/name", Reference(Path("org/name")), "name"),
        ("name", Reference(Path("name")), "name"),
        ("org/file.gguf", Reference(Path("org/file.gguf")), "file"),
        ("/models/some.Q4_K_M.gguf", Reference(Path("/models/some.Q4_K_M.gguf")), "some.Q4_K_M"),
    ],
)
def test_spellings(model: str, expected: Reference, name: str) -> None:
    assert refer(model) == expected
    assert refer(model).name == name
    assert Settings(model=model).names == (name,)


def test_a_folder_that_is_there_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert refer("org/name") == Reference(Path("org/name"))
    assert refer("hf://org/name").repository == "org/name"


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refer("~/model").path == tmp_path / "model"


@pytest.mark.parametrize("model", ["hf://", "hf://name", "hf:///etc/x", "hf://a/../b", "hf://a/b@"])
def test_what_no_model_is_called(model: str) -> None:
    with pytest.raises(PlanError, match=r"must be named hf://org/name .*, got hf://"):
        refer(model)
