"""An engine with kernels of the machine writes what one without them writes."""

from __future__ import annotations

import asyncio

import pytest
import torch
from asking import MakeEngine, tokens

from kvedit.kernels import fit
from kvedit.kernels.choice import Choice
from kvedit.kernels.linear import Linear
from kvedit.kernels.weights import packed_order
from server.chunk import Chunk
from server.engines.hf import HfEngine
from server.job import Sampling, Work
from server.prompt import Part, TextPrompt


@pytest.fixture
def fitted(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> HfEngine:
    """Return an engine whose model is packed, small as it is."""
    if packed_order(torch.float32) is None:
        pytest.skip("oneDNN packs in another order here")
    monkeypatch.setattr(fit, "SMALL", 0)
    monkeypatch.setattr(fit, "choose", lambda weights, packing: Choice("packed", 2))
    return make_engine()


def written(engine: HfEngine, sampling: Sampling) -> list[list[int]]:
    """Return the tokens of each choice."""

    async def run() -> list[Chunk]:
        work = Work((TextPrompt((Part("The quick brown fox"),)),), sampling)
        return [chunk async for chunk in await engine.generate(work)]

    chunks = asyncio.run(run())
    return [tokens(chunks, index) for index in range(sampling.n)]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=30, temperature=0),
        Sampling(max_tokens=20, temperature=1, seed=4, n=3),
    ],
)
def test_tokens_are_those_of_the_stock_model(
    fitted: HfEngine, engine: HfEngine, sampling: Sampling
) -> None:
    assert fitted.info.kernels
    assert written(fitted, sampling) == written(engine, sampling)


def test_weights_have_the_digest_that_they_had(fitted: HfEngine, engine: HfEngine) -> None:
    assert fitted.info.weights == engine.info.weights


def test_stock_kernels_leave_the_model_alone(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "SMALL", 0)
    engine = make_engine(kernels="stock")
    assert not engine.info.kernels
    assert not any(isinstance(module, Linear) for module in engine.model.modules())
