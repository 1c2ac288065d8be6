"""What `--model` names: a folder, a GGUF file, or a model on the hub; nothing is looked up yet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from server.errors import PlanError

HUB = "hf://"
GGUF = ".gguf"
NAME = r"[\w-][\w.-]*"
# org/name, org/name/file.gguf, each perhaps with @revision, which may be `refs/pr/1`
ON_HUB = re.compile(
    rf"(?P<repository>{NAME}/{NAME})(/(?P<file>[\w./ -]+\.gguf))?(@(?P<revision>[\w./-]+))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a model is, as the operator wrote it.

    path        of the folder or the GGUF file; None = it is on the hub
    repository  `org/name`
    revision    branch, tag or commit; None = the hub's default
    file        GGUF file of the repository; None = its safetensors
    """

    path: Path | None = None
    repository: str = ""
    revision: str | None = None
    file: str | None = None

    @property
    def name(self) -> str:
        """Return what clients call the model, where the operator names it nothing else."""
        path = Path(self.file) if self.file is not None else self.path
        if path is None:
            return self.repository
        return path.stem if path.suffix == GGUF else path.resolve().name

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        file = "" if self.file is None else f"/{self.file}"
        return f"{self.repository}{file}" + ("" if self.revision is None else f"@{self.revision}")


def refer(model: str) -> Reference:
    """Return what a text names; what is on the disk wins over a hub name of the same spelling.

    raises  PlanError  hf:// without a name of the hub
    """
    if model.startswith(HUB):
        found = _on_hub(model.removeprefix(HUB))
        if found is None:
            raise PlanError(
                f"model must be named {HUB}org/name or {HUB}org/name@revision, got {model}; "
                "correct it"
            )
        return found
    path = Path(model).expanduser()
    on_disk = path.exists() or model.endswith(GGUF)
    return (None if on_disk else _on_hub(model)) or Reference(path)


def _on_hub(name: str) -> Reference | None:
    """Return what a name of the hub says, or None if it is none."""
    match = ON_HUB.fullmatch(name)
    if match is None:
        return None
    return Reference(None, match["repository"], match["revision"], match["file"])
