"""On which devices a model computes, and in which type."""

from __future__ import annotations

import json
import logging
import platform
import re
from dataclasses import dataclass

import torch

from server.errors import PlanError

LOG = logging.getLogger(__name__)
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
SHARE = re.compile(r"(?P<device>\w+)=(?P<memory>\d+(\.\d+)?\s*([KMGT]i?B)?)", re.IGNORECASE)

DeviceMap = str | dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Placement:
    """What the operator wants: devices and a type.

    device      torch's, or auto
    dtype       a torch dtype's name, or auto
    device_map  how transformers spreads the layers, instead of a device
    max_memory  what the map may fill, by device
    """

    device: str = "auto"
    dtype: str = "auto"
    device_map: DeviceMap | None = None
    max_memory: dict[int | str, str] | None = None

    @classmethod
    def read(
        cls, device: str, dtype: str, device_map: str | None, max_memory: str | None
    ) -> Placement:
        """Return what options mean (PlanError where they contradict each other)."""
        if device_map is not None and device != "auto":
            raise PlanError(
                f"--device-map cannot be given with a device, got {device}; leave one out, or "
                f'write --device-map \'{{"": "{device}"}}\''
            )
        if max_memory is not None and device_map is None:
            raise PlanError(
                f"--max-memory cannot be given without a device map, got {max_memory}; "
                "add --device-map auto"
            )
        shares = None if max_memory is None else _shares(max_memory)
        return cls(device, dtype, None if device_map is None else _map(device_map), shares)

    def chosen_device(self) -> torch.device:
        """Return the device of a model that is not spread (PlanError if it is not there)."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise PlanError(
                f"--device must be one that torch has here, got {self.device}; "
                "leave it out, or write cpu"
            ) from None
        if device.type == "meta":
            raise PlanError("--device must be one that computes, got meta; write cpu")
        return device

    def chosen_dtype(self, stored: torch.dtype | None, device: torch.device) -> torch.dtype:
        """Return the type to compute in, and say it where it is not the stored one.

        stored  of the checkpoint; None = its weights are quantised
        """
        if self.dtype != "auto":
            wanted: torch.dtype = getattr(torch, self.dtype)
            return wanted
        half = torch.float32 if device.type == "cpu" else torch.bfloat16
        dtype = half if stored is None else stored
        if not dtype.is_floating_point or dtype.itemsize > 4 or dtype.itemsize < 2:
            dtype = half
        if device.type == "cpu" and dtype.itemsize < 4 and not computes(dtype):
            LOG.warning(
                "%s weights become float32: this CPU does not compute in %s (--dtype sets another)",
                *[str(dtype).removeprefix("torch.")] * 2,
            )
            return torch.float32
        return dtype


def computes(dtype: torch.dtype) -> bool:
    """Return whether this machine's CPU has instructions for a half type."""
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        has = capabilities()
        keys = ("bf16", "sve_bf16") if name == "bf16" else ("fp16_arith",)
        return any(has.get(key, False) for key in (*keys, f"avx512_{name}", f"amx_{name}"))
    if platform.machine() not in {"x86_64", "AMD64"}:
        return False
    tests = (f"_is_avx512_{name}_supported", f"_is_amx_{name}_supported")
    return any(getattr(torch.cpu, test, bool)() for test in tests)


def _map(text: str) -> DeviceMap:
    """Read `--device-map`."""
    if text in STRATEGIES:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if (
        not isinstance(found, dict)
        or not found
        or not all(
            isinstance(place, int | str) and not isinstance(place, bool) for place in found.values()
        )
    ):
        raise PlanError(
            f"--device-map must be {', '.join(STRATEGIES)} or a JSON object from module to device, "
            f"got {text[:100]}; correct it"
        )
    return found


def _shares(text: str) -> dict[int | str, str]:
    """Read `--max-memory`."""
    found: dict[int | str, str] = {}
    for part in text.split(","):
        match = SHARE.fullmatch(part.strip())
        if match is None:
            raise PlanError(
                f"--max-memory must be like 0=10GiB,cpu=30GiB, got {text[:100]}; correct it"
            )
        device, memory = match["device"], match["memory"]
        found[int(device) if device.isdigit() else device] = memory
    return found
