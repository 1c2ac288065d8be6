"""The models of a folder: which they are, so that nobody takes one for another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from server.errors import PlanError

CHUNK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Model:
    """One model: a GGUF file, or a folder with safetensors.

    digest  sha256 of the file, or of all files of weights, by name, one after the other
    """

    path: Path
    digest: str

    @property
    def name(self) -> str:
        """Return the name of the file or folder."""
        return self.path.name


def models(folder: Path) -> list[Model]:
    """Return the models of a folder, by name; or the folder itself, or a file (PlanError)."""
    if folder.suffix == ".gguf" or (folder / "config.json").is_file():
        found = [folder]
    else:
        found = [*folder.glob("*.gguf"), *(each.parent for each in folder.glob("*/config.json"))]
    if not found or not folder.exists():
        raise PlanError(f"models must be a folder of models, got none in {folder}; name another")
    return [Model(path, _digest(path)) for path in sorted(found)]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with file.open("rb") as data:
            while chunk := data.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
