"""What cannot run is refused before it takes a place, and is not tokenised again when it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asking import MakeEngine
from fastapi import FastAPI
from specs import PINE
from transformers import BatchEncoding, PreTrainedTokenizerFast

from server.app import create_app
from server.engines.hf import HfEngine
from server.errors import EngineError, PlanError
from server.job import Sampling, Work
from server.prompt import Part, TextPrompt
from server.settings import Settings

CONTEXT = 1024  # more than the model was made for, so that a judge's prompt fits
DOCUMENTS = {"documents": ["The fox is red.", "No."], "stages": [{"stage": "pine"}]}
CANDIDATES = {"question": "Who?", "candidates": ["the fox", "a dog, lazy"]}


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 1, **fields}


FITTING: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", chat("fox")),
    "documents": ("/v1/chat/completions", chat("fox", **DOCUMENTS)),
    "completion": ("/v1/completions", {"prompt": "fox", "max_tokens": 1}),
    "judge": ("/v1/judge", {**CANDIDATES, "stages": [{"stage": "pine"}]}),
    "judge, swapped": ("/v1/judge", {**CANDIDATES, "stages": [{"stage": "swap"}]}),
}
LONG = "fox " * CONTEXT
IMPOSSIBLE: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", chat(LONG)),
    "documents": ("/v1/chat/completions", chat(LONG, **DOCUMENTS)),
    "new tokens": ("/v1/chat/completions", chat("fox", max_tokens=CONTEXT)),
    "completion": ("/v1/completions", {"prompt": ["fox", LONG]}),
    "judge": ("/v1/judge", {**CANDIDATES, "question": LONG}),
    "judge, swapped": (
        "/v1/judge",
        {**CANDIDATES, "question": LONG, "stages": [{"stage": "swap"}]},
    ),
}


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        yield http


@asynccontextmanager
async def full(engine: HfEngine) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a server whose only place is taken."""
    app = create_app(Settings(queue_limit=1), engine)
    async with client_of(app) as http:
        with app.state.admission.take():
            yield http


@asynccontextmanager
async def free(engine: HfEngine) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a server with places."""
    async with client_of(create_app(Settings(), engine)) as http:
        yield http


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_what_overflows_the_context_takes_no_place(
    make_engine: MakeEngine, name: str
) -> None:
    path, body = IMPOSSIBLE[name]
    async with full(make_engine(max_model_len=CONTEXT)) as http:
        reply = await http.post(path, json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("name", FITTING)
async def test_what_fits_is_told_to_come_back(make_engine: MakeEngine, name: str) -> None:
    path, body = FITTING[name]
    async with full(make_engine(max_model_len=CONTEXT)) as http:
        reply = await http.post(path, json=body)
    assert reply.status_code == 429, reply.text


@pytest.mark.parametrize("stages", [None, [{"stage": "swap"}]])
async def test_a_label_that_is_no_token_takes_no_place(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, stages: list[dict[str, Any]] | None
) -> None:
    engine = make_engine(max_model_len=CONTEXT)
    vocabulary = engine._preparation.vocabulary
    others = {text: ids for text, ids in vocabulary.spellings.items() if text != "T"}
    monkeypatch.setattr(vocabulary, "spellings", others)
    async with full(engine) as http:
        reply = await http.post("/v1/judge", json={**CANDIDATES, "stages": stages, "ties": "allow"})
    assert reply.status_code == 400
    assert "label must be one token of the model, got 'T'" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"labels": ("Abracadabra",)}, "label must be one token"),
        ({"max_tokens": CONTEXT}, "maximum context length is"),
        ({"temperature": -1.0}, "must be at least 0"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias must name token ids"),
        ({"echo": True, "logprobs": 1}, "needs the plain path"),
    ],
)
async def test_check_refuses_what_generate_would(
    make_engine: MakeEngine, numbers: dict[str, Any], said: str
) -> None:
    engine = make_engine()
    prompt = TextPrompt((Part("the fox", group="d"), Part("Who?")))
    work = Work((prompt,), Sampling(**{"max_tokens": 1, **numbers}), PINE)
    for refuse in (engine.check, engine.generate):
        with pytest.raises(PlanError, match=said):
            await refuse(work)


async def test_an_engine_that_has_stopped_says_so_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    await engine.close()
    with pytest.raises(EngineError, match="must be running"):
        await engine.check(Work((TextPrompt((Part("fox"),)),), Sampling()))


DELIMITED = "Read <a fox><a dog>"
PINE_DELIMITED = {"stages": [{"stage": "pine", "delimiters": ["<", ">"]}]}
ONE_PROMPT = {name: asked for name, asked in FITTING.items() if name != "judge, swapped"}


@pytest.fixture
def tokenised(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each text is tokenised."""
    counts: Counter[str] = Counter()
    known = type(tokenizer).__call__

    def counted(self: PreTrainedTokenizerFast, texts: list[str], **options: Any) -> BatchEncoding:
        counts.update(texts)
        found: BatchEncoding = known(self, texts, **options)
        return found

    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    return counts


@pytest.mark.parametrize(
    ("path", "body"),
    [*ONE_PROMPT.values(), ("/v1/chat/completions", chat(DELIMITED, **PINE_DELIMITED))],
    ids=[*ONE_PROMPT, "delimiters"],
)
async def test_who_was_checked_is_not_tokenised_again(
    make_engine: MakeEngine, tokenised: Counter[str], path: str, body: dict[str, Any]
) -> None:
    engine = make_engine(max_model_len=CONTEXT)
    async with free(engine) as http:
        assert (await http.post(path, json=body)).status_code == 200  # the template's commands
        tokenised.clear()
        async with full(engine) as elsewhere:
            await elsewhere.post(path, json=body)
        checked = Counter(tokenised)
        assert (await http.post(path, json=body)).status_code == 200
        assert tokenised == checked  # an equal prompt, checked by who was told to come back
        tokenised.clear()
        assert (await http.post(path, json=body)).status_code == 200
        assert tokenised == checked


async def test_each_order_is_tokenised_once(
    make_engine: MakeEngine, tokenised: Counter[str]
) -> None:
    path, body = FITTING["judge, swapped"]
    async with free(make_engine(max_model_len=CONTEXT)) as http:
        assert (await http.post(path, json=body)).status_code == 200
    prompts = {text: count for text, count in tokenised.items() if "the fox" in text[20:]}
    assert list(prompts.values()) == [1, 1]
