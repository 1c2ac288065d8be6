"""A model whose layers see a window: read plainly everywhere, refused where the whole is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
import torch
from asking import tokens
from models import SHAPE, sharpen
from specs import PINE
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from kvedit.hf import open_door
from server.app import create_app
from server.chunk import Chunk
from server.engines.hf import HfEngine
from server.engines.hf.forward import Prefill, StockForward
from server.errors import PlanError
from server.job import Sampling, Work
from server.prompt import Part, TextPrompt, TokenPrompt
from server.settings import Settings

WINDOW = 16
REASON = f"layers [0, 1] see only the last {WINDOW} tokens"
GREEDY = Sampling(max_tokens=30, temperature=0, ignore_eos=True)
PROMPTS = [TokenPrompt(tuple(range(20, 20 + length))) for length in (3, WINDOW, 60)]
DOCUMENTS = {"prompt": "Who?", "documents": ["fox", "dog"], "max_tokens": 1}


def narrow(vocab_size: int) -> MistralForCausalLM:
    config = MistralConfig(**{**SHAPE, "vocab_size": vocab_size}, sliding_window=WINDOW)
    return sharpen(MistralForCausalLM(config), 3)


@pytest.fixture
async def engine(tokenizer: PreTrainedTokenizerFast) -> AsyncIterator[HfEngine]:
    made = HfEngine(narrow(len(tokenizer)), tokenizer, name="narrow")
    yield made
    await made.close()


@pytest.fixture
async def http(engine: HfEngine) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(), engine)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def drain(stream: AsyncIterable[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]


def generated(model: MistralForCausalLM, prompt: TokenPrompt) -> list[int]:
    """Return what generate writes."""
    ids = torch.tensor([prompt.ids])
    written: Tensor = cast(Any, model).generate(  # whose declared `self` no model fits
        ids, attention_mask=torch.ones_like(ids), pad_token_id=1, do_sample=False,
        max_new_tokens=GREEDY.max_tokens, eos_token_id=None,
    )  # fmt: skip
    return written[0, len(prompt.ids) :].tolist()


async def test_plain_requests_are_answered_as_by_generate_alone_and_under_load(
    engine: HfEngine, tokenizer: PreTrainedTokenizerFast
) -> None:
    stock = narrow(len(tokenizer))
    expected = [generated(stock, prompt) for prompt in PROMPTS]
    works = [Work((prompt,), GREEDY) for prompt in PROMPTS]
    assert [tokens(await drain(await engine.generate(work))) for work in works] == expected
    widths: list[int] = []
    engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    sure = replace(works[2], deterministic=True)
    streams = [await engine.generate(work) for work in (*works, sure)]
    assert [tokens(chunks) for chunks in await asyncio.gather(*map(drain, streams))] == [
        *expected,
        expected[2],
    ]
    assert widths.count(3) > 20  # three sequences in one forward, far beyond the window


@pytest.mark.parametrize("length", [5, WINDOW - 1, WINDOW, 60])
def test_a_stock_cache_goes_on_as_a_plain_reading(
    tokenizer: PreTrainedTokenizerFast, length: int
) -> None:
    """Its sliding layers hold the last tokens alone; the reading takes up where they are."""
    door, stock = open_door(narrow(len(tokenizer))), narrow(len(tokenizer))
    assert [layer.window for layer in door.layers] == [WINDOW, WINDOW]
    ids = torch.tensor([list(range(20, 20 + length + 40))])
    forward = StockForward(door, Prefill(door.model, 1))
    with torch.inference_mode():
        expected = stock(input_ids=ids).logits
        seen = [forward.read(ids[:, :length], 1), forward.read(ids[:, length : length + 1], 1)]
        reading = forward.reading()
        for index in range(length + 1, ids.shape[1]):
            logits, failed = door.together([ids[:, index : index + 1]], [reading])
            assert not failed
            seen.append(logits[0, None])
    found = torch.cat(seen, 1)
    assert torch.allclose(found, expected[:, length - 1 :], atol=1e-4)


async def test_it_offers_attention_and_says_what_it_cannot(http: httpx.AsyncClient) -> None:
    [card] = (await http.get("/v1/models")).json()["data"]
    assert "attention" in card["abilities"]
    assert card["refusals"] == dict.fromkeys(("group-positions", "parallel", "pie", "pine"), REASON)
    assert card["executor"] == {"name": "cpu", "refusals": {}}


async def test_pine_is_refused_when_the_plan_is_made(
    http: httpx.AsyncClient, engine: HfEngine
) -> None:
    stage = {"stage": "pine"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {**DOCUMENTS, "stages": [stage]}),
        ("/v1/completions", {**DOCUMENTS, "model": "pocket+pine"}),
        ("/v1/judge", {"question": "Q?", "candidates": ["a", "b"], "stages": [stage]}),
    ]
    for path, body in bodies:
        reply = await http.post(path, json=body)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert error["message"] == (
            "stage 'pine' must have a model that can be read so, got one that cannot "
            f"({REASON}); leave the stage out or serve another model"
        )
        assert error["param"] == "stages"
    assert (await http.post("/v1/completions", json=DOCUMENTS)).status_code == 200
    work = Work((TextPrompt((Part("fox", group="d"),)),), GREEDY, PINE)
    for refuse in (engine.check(work), engine.generate(work), engine.open(PINE)):
        with pytest.raises(PlanError, match="can be read so, got"):
            await refuse


async def test_a_judge_without_stages_decides_of_all_orders(http: httpx.AsyncClient) -> None:
    body = {"question": "Q?", "candidates": ["a fox", "a dog"]}
    reply = (await http.post("/v1/judge", json=body)).json()
    assert reply["evenhand"]["stages"] == [{"stage": "average"}]
    assert len(reply["calls"]) == 2


async def test_a_session_goes_on_beyond_the_window(engine: HfEngine) -> None:
    more = TokenPrompt(tuple(range(90, 90 + WINDOW + 4)))
    session = await engine.open()
    await session.feed(PROMPTS[2])
    begun = tokens(await drain(await session.generate(GREEDY)))
    await session.feed(more)
    ended = tokens(await drain(await session.generate(GREEDY)))
    whole = TokenPrompt((*PROMPTS[2].ids, *begun, *more.ids))
    assert tokens(await drain(await engine.generate(Work((whole,), GREEDY)))) == ended
