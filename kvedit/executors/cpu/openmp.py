"""The OpenMP library that torch has loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

NAMES = ("libgomp", "libiomp5", "libomp")  # all of them know GNU's calls
MAPS = Path("/proc/self/maps")


@cache
def library() -> str | None:
    """Return the path of the library whose threads torch runs on, or None if that is not known."""
    if "OpenMP" not in torch.__config__.parallel_info() or not MAPS.exists():
        return None
    paths = {Path(line.split()[-1]) for line in MAPS.read_text().splitlines() if "/" in line}
    loaded = [path for path in sorted(paths) if path.name.startswith(NAMES)]
    own = Path(torch.__file__).parent  # where its wheels bring one; other packages may bring theirs
    mine = [path for path in loaded if own in path.parents]
    return str((mine or loaded)[0]) if loaded else None
