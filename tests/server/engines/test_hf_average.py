"""Documents read in several orders as one answer: the mean of what each order says alone."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import pytest
import torch
from asking import Ask, MakeEngine, tokens, usage
from llguidance import LLMatcher
from models import in_dtype, tiny_llama
from specs import AVERAGE, PINE
from torch import Tensor
from transformers import LlamaForCausalLM

from kvedit.average import AverageReading
from kvedit.hf import open_door
from kvedit.orders import orders
from kvedit.segments import Segments
from server.chunk import Chunk, Scored
from server.engines.hf import HfEngine
from server.engines.hf.forward import AverageForward
from server.errors import PlanError
from server.job import ReadingSpec, Sampling, Work
from server.prompt import ChatPrompt, Message, Part, TextPrompt, TokenPrompt
from server.stages.average import Average

QUESTION = Part("Who is red?")
GREEDY = Sampling(max_tokens=8, temperature=0, ignore_eos=True, logprobs=3)
NEAR = 5e-5
Mean = Literal["log", "probability"]
SETS = (("The fox is red.\n", "The dog is lazy.\n", "A and B.\n", "No.\n"), ("One fox.\n",))


def asked(documents: Sequence[str]) -> TextPrompt:
    return TextPrompt((Part("Read: "), *(Part(text, group="d") for text in documents), QUESTION))


async def drain(stream: AsyncIterable[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]


def scored(chunks: Sequence[Chunk], index: int = 0) -> list[Scored]:
    return [token for chunk in chunks if chunk.index == index for token in chunk.tokens]


@torch.inference_mode()
def mean_of(
    engine: HfEngine, model: LlamaForCausalLM, prompt: TextPrompt, spec: ReadingSpec
) -> Callable[[list[int]], Tensor]:
    """Return what says, behind some tokens of an answer, which the next one is.

    returns  natural-log probabilities, [vocab] float64: of one run of transformers for each order
    """
    segments = engine._preparation.encode(prompt, spec).segments
    numbers = dict(spec.numbers)
    assert segments is not None
    chosen = orders(len(segments.documents), int(numbers["orders"]) or None)
    prompts = [
        (*segments.prefix, *chain(*map(segments.documents.__getitem__, order)), *segments.suffix)
        for order in chosen
    ]

    def after(answer: list[int]) -> Tensor:
        with torch.inference_mode():
            rows = [model(torch.tensor([[*ids, *answer]])).logits[0, -1] for ids in prompts]
        each = torch.stack(rows).double().log_softmax(-1)
        if numbers["probabilities"]:
            return each.logsumexp(0) - math.log(len(rows))
        return each.mean(0).log_softmax(-1)

    return after


@pytest.mark.parametrize("texts", SETS, ids=["four", "one"])
@pytest.mark.parametrize("mean", ["log", "probability"])
@pytest.mark.parametrize("count", [None, 1, 3, 8])
def test_every_token_is_of_the_mean_of_the_orders(
    ask: Ask,
    engine: HfEngine,
    stock: LlamaForCausalLM,
    texts: Sequence[str],
    mean: Mean,
    count: int | None,
) -> None:
    spec, prompt = Average(orders=count, mean=mean).reading, asked(texts)
    chunks = ask(prompt, reading=spec, max_tokens=6, logprobs=3, ignore_eos=True)
    after, answer = mean_of(engine, stock, prompt, spec), list[int]()
    assert len(scored(chunks)) == 6
    for token in scored(chunks):
        expected = after(answer)
        assert token.id == int(expected.argmax())
        for other in (token, *token.top):
            assert other.logprob == pytest.approx(float(expected[other.id]), abs=NEAR)
        answer.append(token.id)


def test_the_two_means_differ(ask: Ask) -> None:
    means: tuple[Mean, ...] = ("log", "probability")
    log, probability = (
        scored(ask(asked(SETS[0]), reading=Average(mean=mean).reading, logprobs=0, max_tokens=1))
        for mean in means
    )
    assert log[0].logprob != pytest.approx(probability[0].logprob, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_order_gives_the_same_bits(
    ask: Ask, docs: tuple[Part, ...], temperature: float
) -> None:
    found = []
    for order in itertools.permutations(docs):
        prompt = ChatPrompt((Message("user", (Part("Read: "), *order, QUESTION)),))
        chunks = ask(prompt, reading=AVERAGE, logprobs=3, labels=("A", "B"), max_tokens=4,
                     temperature=temperature, seed=9)  # fmt: skip
        shown = [
            [order[index].text for index in each]
            for each in chunks[-1].notes["average"]["orders"]
        ]  # fmt: skip
        found.append((tuple(chunks[:-1]), chunks[-1].tokens, chunks[0].labels, shown))
    assert all(each == found[0] for each in found)


def test_labels_are_of_the_mean(ask: Ask, engine: HfEngine, stock: LlamaForCausalLM) -> None:
    prompt = asked(SETS[0])
    expected = mean_of(engine, stock, prompt, AVERAGE)([])
    labels = ask(prompt, reading=AVERAGE, labels=("A", "B"), max_tokens=1)[0].labels
    assert labels is not None
    for label, logprob in labels.items():
        forms = engine._preparation.vocabulary.spellings[label]
        assert logprob == pytest.approx(float(expected[list(forms)].logsumexp(0)), abs=NEAR)


def test_each_choice_is_sampled_from_the_mean_by_its_own_seed(ask: Ask) -> None:
    prompt = asked(SETS[0])
    together = ask(prompt, reading=AVERAGE, n=2, seed=4, temperature=1.0)
    first, second = (ask(prompt, reading=AVERAGE, seed=4 + n, temperature=1.0) for n in range(2))
    assert tokens(together, 0) == tokens(first) != tokens(together, 1) == tokens(second)


def test_an_answer_keeps_to_a_grammar_and_ends_at_a_stop(ask: Ask) -> None:
    prompt = asked(SETS[0])
    schema = {"type": "object", "properties": {"a": {"enum": ["fox", "dog"]}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    chunks = ask(prompt, reading=AVERAGE, grammar=grammar, max_tokens=60)
    assert json.loads("".join(chunk.text for chunk in chunks))["a"] in ("fox", "dog")
    free = "".join(chunk.text for chunk in ask(prompt, reading=AVERAGE, max_tokens=20))
    stop = free[len(free) // 2 :][:2]
    ended = ask(prompt, reading=AVERAGE, max_tokens=20, stop=(stop,))
    assert "".join(chunk.text for chunk in ended) == free[: free.index(stop)]
    assert (ended[-1].finish_reason, ended[-1].stop_reason) == ("stop", stop)


def test_it_streams_token_by_token_and_says_what_it_read(ask: Ask, engine: HfEngine) -> None:
    prompt, spec = asked(SETS[0]), Average(orders=3).reading
    chunks = ask(prompt, reading=spec, max_tokens=6, ignore_eos=True)
    assert len(chunks) > 3
    segments = engine._preparation.encode(prompt, spec).segments
    assert segments is not None
    length, prefix = len(segments.ids), len(segments.prefix)
    assert usage(chunks).prompt_tokens == length
    assert chunks[-1].notes["average"]["tokens_read"] == prefix + 3 * (length + 5 - prefix)


def test_scoring_the_prompt_is_refused_and_echo_shows_the_canonical_order(ask: Ask) -> None:
    with pytest.raises(PlanError, match="echo with logprobs cannot go with a reading stage"):
        ask(asked(SETS[0]), reading=AVERAGE, echo=True, logprobs=1)
    texts = {
        ask(asked(order), reading=AVERAGE, echo=True, max_tokens=1)[0].prompt_text
        for order in itertools.permutations(SETS[0])
    }
    assert len(texts) == 1


def work(texts: Sequence[str], spec: ReadingSpec | None, **changes: Any) -> Work:
    return Work((asked(texts),), GREEDY, spec, **changes)


async def test_under_load_it_answers_as_alone_to_the_last_bit(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    mixed = [
        work(SETS[0], AVERAGE),
        work(SETS[0], None),
        work(SETS[0], PINE),
        work(SETS[0][::-1], AVERAGE),
        work(SETS[0], AVERAGE, deterministic=True),
        work(SETS[1], None),
        work(SETS[1], AVERAGE),
    ]
    alone = [await drain(await engine.generate(each)) for each in mixed]
    streams = [await engine.generate(each) for each in mixed]
    loaded = await asyncio.gather(*map(drain, streams))
    for each, one, other in zip(mixed, alone, loaded, strict=True):
        assert tokens(one) == tokens(other)
        if each.reading == AVERAGE:
            assert scored(one) == scored(other)
    assert scored(loaded[0]) == scored(loaded[3]) == scored(loaded[4])


async def test_all_orders_of_a_step_are_one_forward(make_engine: MakeEngine) -> None:
    engine, widths = make_engine(), list[int]()
    engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    await drain(await engine.generate(work(SETS[0], Average(orders=3).reading)))
    assert widths[1:] == [3] * 7  # eight tokens are the prompt's forward and seven more


async def test_one_that_is_left_early_disturbs_nobody(make_engine: MakeEngine) -> None:
    engine = make_engine()
    alone = await drain(await engine.generate(work(SETS[0], AVERAGE)))
    endless = replace(work(SETS[0], AVERAGE), sampling=replace(GREEDY, max_tokens=150))
    left = await engine.generate(endless)
    await anext(left)
    other = await engine.generate(work(SETS[0], AVERAGE))
    await left.aclose()
    assert scored(await drain(other)) == scored(alone)


async def test_a_second_question_on_the_same_set_starts_after_it(make_engine: MakeEngine) -> None:
    engine, fresh = make_engine(), make_engine()
    texts = [f"the fox {word} " * 8 for word in ("jumps", "sleeps", "runs")]
    first = await drain(await engine.generate(work(texts, AVERAGE)))
    again = await drain(await engine.generate(work(texts[::-1], AVERAGE)))
    other = Work((TextPrompt((*asked(texts[1:] + texts[:1]).parts[:-1], Part("Why?"))),),
                 GREEDY, AVERAGE)  # fmt: skip
    asked_again, asked_first = [await drain(await each.generate(other)) for each in (engine, fresh)]
    assert usage(first).cached_tokens == usage(asked_first).cached_tokens == 0
    assert usage(again).cached_tokens == usage(asked_again).cached_tokens > 100
    assert scored(again) == scored(first)
    assert scored(asked_again) == scored(asked_first)


async def test_a_sequence_that_stays_goes_on_in_every_order(
    make_engine: MakeEngine, stock: LlamaForCausalLM
) -> None:
    engine, more = make_engine(), TokenPrompt((70, 80, 90))
    session = await engine.open(AVERAGE)
    await session.feed(asked(SETS[0]))
    begun = await drain(await session.generate(GREEDY))
    assert scored(begun) == scored(await drain(await engine.generate(work(SETS[0], AVERAGE))))
    await session.feed(more)
    ended = scored(await drain(await session.generate(GREEDY)))
    after, answer = mean_of(engine, stock, asked(SETS[0]), AVERAGE), [*tokens(begun), *more.ids]
    for token in ended:
        expected = after(answer)
        assert token.id == int(expected.argmax())
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=NEAR)
        answer.append(token.id)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mean", ["log", "probability"])
@torch.inference_mode()
def test_the_mean_is_taken_in_float32_and_sums_to_one(mean: Mean, dtype: torch.dtype) -> None:
    """The mean of some bfloat16 numbers lies between them, which bfloat16 often cannot."""
    door = open_door(in_dtype(tiny_llama(), dtype))
    segments, probabilities = Segments((1, 2), ((9, 8), (7,), (6, 5)), (3,)), mean == "probability"
    ids = torch.tensor([segments.ids])
    reading, same = (AverageReading(segments, orders(3, 3)) for _ in range(2))
    found = AverageForward(door, reading, probabilities=probabilities).read(ids, 1)
    assert (found.shape, found.dtype) == ((1, 1, 128), torch.float32)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
    each = door.forward(*same_tokens(same, ids))[0].double().log_softmax(-1)
    expected = each.exp().mean(0).log() if probabilities else each.mean(0).log_softmax(-1)
    torch.testing.assert_close(found[0, 0].double(), expected, atol=1e-5, rtol=0)


def same_tokens(reading: AverageReading, ids: Tensor) -> tuple[Tensor, AverageReading, list[int]]:
    """Return what a forward of all orders is asked."""
    spread, ends = reading.spread(ids)
    return spread, reading, ends


async def test_more_than_one_forward_holds_is_refused_before_it_runs(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many orders of a long set would take the memory of those who ask for less."""
    monkeypatch.setattr("server.engines.hf.preparation.MOST_SPREAD", 1)
    engine = make_engine(max_model_len=120)
    for count, refused in ((2, False), (8, True)):
        asked_for = work(SETS[0], Average(orders=count).reading)
        if refused:
            said = "stage 'average' must read at most 120 tokens in all its orders, got "
            with pytest.raises(PlanError, match=said):
                await engine.check(asked_for)
            with pytest.raises(PlanError, match=said):
                await engine.generate(asked_for)
        else:
            await engine.check(asked_for)
            assert await drain(await engine.generate(asked_for))
    await engine.close()
