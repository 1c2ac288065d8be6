"""`GET /v1/models` of a real model: who reads, and why others do not."""

from __future__ import annotations

import httpx
import pytest
from asking import MakeEngine
from torch import Tensor

from kvedit.executors.cpu.executor import CpuExecutor
from server.app import create_app
from server.engines.hf import HfEngine
from server.settings import Settings


async def executor(engine: HfEngine) -> dict[str, object]:
    """Return what the only model's card says of its executor."""
    app = create_app(Settings(), engine)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        [card] = (await http.get("/v1/models")).json()["data"]
    said: dict[str, object] = card["executor"]
    return said


async def test_who_reads_is_shown(make_engine: MakeEngine) -> None:
    assert await executor(make_engine()) == {"name": "cpu", "refusals": {}}


@pytest.mark.parametrize("fault", ["raises", "is off"])
async def test_who_is_broken_does_not_read_and_the_reason_is_shown(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    known = CpuExecutor.read

    def broken(self: CpuExecutor, *asked: object) -> Tensor:
        if fault == "raises":
            raise RuntimeError("planted")
        read: Tensor = known(self, *asked)  # type: ignore[arg-type]
        return read * 1.001

    monkeypatch.setattr(CpuExecutor, "read", broken)
    said = await executor(make_engine())
    assert said["name"] == "torch"
    [(name, reason)] = dict(said["refusals"]).items()  # type: ignore[call-overload]
    assert name == "cpu"
    assert ("planted" if fault == "raises" else "off") in reason
