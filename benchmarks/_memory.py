"""What the kernel says of a process's memory (Linux only)."""

from __future__ import annotations

from pathlib import Path


def resident(field: str) -> int:
    """Return a field of the kernel's account of this process, bytes: VmRSS now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status must have {field}, got none; run on Linux")
