"""Readings through the engine: order does not matter, and the model is as before."""

import asyncio
import itertools
from collections.abc import AsyncIterable
from types import FunctionType

import pytest
import torch
from asking import Ask, MakeEngine, MakeModel, Through, usage
from specs import PINE
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kvedit.plain import PlainReading
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from pine.reading import PineReading
from server.chunk import Chunk
from server.job import Sampling, Work
from server.prompt import ChatPrompt, Message, Part, TextPrompt, TokenPrompt

QUESTION = Part("Who is red?")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_order_gives_the_same_bits(
    ask: Ask, docs: tuple[Part, ...], temperature: float
) -> None:
    answers = []
    for order in itertools.permutations(docs):
        prompt = ChatPrompt((Message("user", (Part("Read: "), *order, QUESTION)),))
        chunks = ask(prompt, reading=PINE, logprobs=3, labels=("A", "B"), max_tokens=4,
                     temperature=temperature, seed=9)  # fmt: skip
        place = chunks[-1].notes["pine"]["canonical_order"]
        shown = [order[index].text for index in place]
        answers.append((tuple(chunks[:-1]), chunks[-1].tokens, chunks[0].labels, shown))
    assert all(answer == answers[0] for answer in answers)


def test_plain_answers_do_depend_on_the_order(ask: Ask, docs: tuple[Part, ...]) -> None:
    orders = {
        tuple(ask(TextPrompt((*order, QUESTION)), logprobs=1, max_tokens=1)[0].tokens)
        for order in itertools.permutations(docs)
    }
    assert len(orders) > 1


def test_the_plain_reading_writes_what_the_stock_path_writes(
    ask: Ask, tokenizer: PreTrainedTokenizerFast, through: Through
) -> None:
    document = Part("The quick brown fox", group="d")
    reading = through(lambda segments, shelf: PlainReading())
    read = ask(TextPrompt((document,)), reading=reading, max_tokens=24)
    ids = tokenizer.encode("The quick brown fox")
    plain = ask(TokenPrompt(tuple(ids)), max_tokens=24)
    assert [c.tokens for c in read] == [c.tokens for c in plain]


def test_each_choice_has_a_reading_of_its_own(
    ask: Ask, docs: tuple[Part, ...], through: Through
) -> None:
    made: list[PineReading] = []

    def build(segments: Segments | None, shelf: Shelf | None) -> PineReading:
        assert segments is not None
        reading = PineReading(segments)
        if shelf is not None:
            made.append(reading)
        return reading

    prompt = TextPrompt((*docs, QUESTION))
    together = ask(prompt, reading=through(build), n=2, seed=4, temperature=1.0)
    assert len(made) == 2
    alone = ask(prompt, reading=PINE, seed=5, temperature=1.0)
    second = [chunk.tokens for chunk in together if chunk.index == 1]
    assert second == [chunk.tokens for chunk in alone]


def test_echo_shows_the_set_in_its_canonical_order(ask: Ask, docs: tuple[Part, ...]) -> None:
    texts = {
        ask(TextPrompt((*order, QUESTION)), reading=PINE, echo=True, max_tokens=1)[0].prompt_text
        for order in itertools.permutations(docs)
    }
    assert len(texts) == 1
    assert all(part.text in text for part in docs for text in texts)


def fingerprint(model: PreTrainedModel) -> dict[str, object]:
    """Everything a module can carry, by identity, and every tensor by value."""
    seen: dict[str, object] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            seen[f"{name}.{key}"] = known(value)
        seen[f"{name} class"] = (type(module), type(module).forward)
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        seen[f"{name} tensor"] = (id(tensor), tensor.data_ptr(), tensor._version, digest(tensor))
    seen["config"] = model.config.to_dict() | {"attention": model.config._attn_implementation}
    seen["generation"] = model.generation_config.to_dict()
    return seen


def known(value: object) -> object:
    if isinstance(value, dict):  # hooks, parameters, buffers, submodules
        return [(key, id(inner)) for key, inner in value.items()]
    if isinstance(value, bool | int | float | str | FunctionType | type(None)):
        return value
    return id(value)


def digest(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def test_a_mix_of_requests_leaves_the_model_as_it_was(
    make_engine: MakeEngine, docs: tuple[Part, ...], through: Through
) -> None:
    engine = make_engine()
    model, before = engine.model, fingerprint(engine.model)
    prompt = TextPrompt((*docs, QUESTION))
    mixed = [
        Work((prompt,), Sampling(max_tokens=6, seed=1, n=2, top_k=5, repetition_penalty=1.2)),
        Work((prompt,), Sampling(max_tokens=6, temperature=0), reading=PINE),
        Work((prompt, prompt), Sampling(max_tokens=2, echo=True, logprobs=2)),
        Work((prompt,), Sampling(max_tokens=200, labels=("A",)), reading=PINE),
        Work((prompt,), Sampling(max_tokens=6), reading=through(lambda *_: PlainReading())),
    ]

    async def run() -> None:
        streams = [await engine.generate(work) for work in mixed]
        await anext(streams[3])
        await streams[3].aclose()
        await asyncio.gather(*(collect(stream) for stream in streams))

    async def collect(stream: AsyncIterable[Chunk]) -> list[Chunk]:
        return [chunk async for chunk in stream]

    asyncio.run(run())
    assert engine.model is model
    assert fingerprint(engine.model) == before


@pytest.mark.parametrize("fault", ["hook", "attribute", "parameter", "attention"])
def test_the_fingerprint_sees(make_model: MakeModel, fault: str) -> None:
    model = make_model()
    before = fingerprint(model)
    if fault == "hook":
        model.model.layers[0].register_forward_hook(lambda *_: None)
    elif fault == "attribute":
        model.model.layers[1].self_attn.reading = object()
    elif fault == "parameter":
        with torch.no_grad():
            model.model.norm.weight[0] += 1
    else:
        model.set_attn_implementation("eager")
    assert fingerprint(model) != before


def test_a_second_question_on_the_same_set_starts_after_it(ask: Ask) -> None:
    documents = [Part(f"the fox {word} " * 8, group="d") for word in ("jumps", "sleeps", "runs")]
    first = ask(TextPrompt((*documents, Part("Who?"))), reading=PINE, max_tokens=3, logprobs=2)
    again = ask(
        TextPrompt((*documents[::-1], Part("Who?"))), reading=PINE, max_tokens=3, logprobs=2
    )
    other = ask(
        TextPrompt((*documents[1:], documents[0], Part("Why?"))), reading=PINE, max_tokens=3
    )
    assert usage(first).cached_tokens == 0
    assert usage(again).cached_tokens > 100
    assert usage(other).cached_tokens == usage(again).cached_tokens
    assert [chunk.tokens for chunk in again] == [chunk.tokens for chunk in first]
