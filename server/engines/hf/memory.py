"""Whether a model fits, before anything of it is read."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from server.engines.hf.broken import broken

GIB, MIB = 2**30, 2**20
CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def check_fits(needed: int, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a model whose weights do not fit into the memory of a device.

    needed  bytes of the weights in the dtype that they get
    """
    free = free_memory(device)
    if free is None or needed <= free:
        return
    name = str(dtype).removeprefix("torch.")
    half = "a half type (--dtype bfloat16), " if dtype == torch.float32 else ""
    raise broken(
        f"model must fit into memory, needs about {_told(needed)} as {name}",
        f"{_told(free)} free on {device.type}",
        f"give {half}a smaller model, or --device-map auto, which spreads it over all devices and "
        "the disk",
    )


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where it does not say."""
    if device.type == "cpu":
        return min(int(psutil.virtual_memory().available), _allowed())
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return None


def _told(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / MIB:.1f} MiB"


def _allowed(groups: Path = CGROUPS, own: Path = OWN) -> int:
    """Return what the control groups that hold this process leave of their limits, bytes.

    Version 2, and version 1 where that holds the memory; what caches files is free to take.
    """
    least = 2**63 - 1
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return least
    for _, controllers, path in lines:
        if controllers == "":
            root, limit, used, cached = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit = groups / "memory", "memory.limit_in_bytes"
            used, cached = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        place = root / path.strip("/")
        for group in (place, *place.parents):
            if not group.is_relative_to(root):
                break
            least = min(least, _left(group, limit, used, cached))
    return least


def _left(group: Path, limit: str, used: str, cached: str) -> int:
    """Return what one control group leaves of its limit; a great number where it has none."""
    try:
        most = int((group / limit).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, most - int((group / used).read_text()) + int(stat.get(cached, 0)))
    except (OSError, ValueError):  # not there, or "max"
        return 2**63 - 1
