"""The stock path against transformers' own generate: the same tokens, the same bits."""

import asyncio
import copy
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from asking import Ask, MakeModel, tokens, usage
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BatchEncoding,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from kvedit.hf import open_door
from pocket import WEIGHTS
from server.chunk import Chunk
from server.engines.hf import HfEngine
from server.engines.hf.forward import Prefill, StockForward
from server.job import Sampling, Work
from server.prompt import ChatPrompt, Message, Part, TextPrompt, TokenPrompt

PROMPTS = ["The quick", "yes or no? A B C", "é", "lazy dog. " * 12]


def generated(
    model: PreTrainedModel, ids: Sequence[int], **arguments: Any
) -> tuple[list[int], tuple[Tensor, ...]]:
    """Return the tokens that generate writes, and the logits of each."""
    prompt = torch.tensor([list(ids)])
    output = cast(Any, model).generate(  # whose declared `self` no model fits
        prompt, attention_mask=torch.ones_like(prompt), pad_token_id=1, output_logits=True,
        return_dict_in_generate=True, **arguments,
    )  # fmt: skip
    return output.sequences[0, len(ids) :].tolist(), output.logits


def generate(model: PreTrainedModel, ids: Sequence[int], **arguments: Any) -> list[int]:
    return generated(model, ids, **arguments)[0]


@pytest.mark.parametrize("text", PROMPTS)
def test_greedy_tokens_are_those_of_generate(
    ask: Ask, stock: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    expected = generate(stock, tokenizer.encode(text), max_new_tokens=40, do_sample=False)
    assert tokens(ask(text, max_tokens=40)) == expected


def test_chat_is_rendered_by_the_template_and_read_whole(
    ask: Ask, stock: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A or B?"}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert isinstance(encoded, BatchEncoding)
    ids = encoded["input_ids"]
    expected = generate(stock, ids, max_new_tokens=20, do_sample=False)
    prompt = ChatPrompt(tuple(Message(m["role"], (Part(m["content"]),)) for m in messages))
    chunks = ask(prompt, max_tokens=20)
    assert tokens(chunks) == expected
    assert usage(chunks).prompt_tokens == len(ids)


def test_documents_without_a_reading_are_plain_text(ask: Ask, docs: tuple[Part, ...]) -> None:
    text = "".join(part.text for part in docs) + "Who is red?"
    parts = (*docs, Part("Who is red?"))
    assert tokens(ask(TextPrompt(parts))) == tokens(ask(text))


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 9},
        {"top_p": 0.8},
        {"min_p": 0.1, "temperature": 1.3},
        {"repetition_penalty": 1.4, "top_k": 30, "top_p": 0.9},
    ],
)
def test_sampled_tokens_are_those_of_generate(
    ask: Ask, stock: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, numbers: dict[str, Any]
) -> None:
    torch.manual_seed(3)
    settings = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, **numbers}
    ids = tokenizer.encode("The quick")
    expected = generate(stock, ids, max_new_tokens=30, do_sample=True, **settings)
    got = tokens(ask("The quick", max_tokens=30, seed=3, **{"temperature": 1.0, **numbers}))
    assert got == expected


def test_repetition_penalty_is_generates_in_greedy_too(
    ask: Ask, stock: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer.encode("The quick")
    expected = generate(stock, ids, max_new_tokens=30, do_sample=False, repetition_penalty=1.5)
    plain = generate(stock, ids, max_new_tokens=30, do_sample=False)
    assert tokens(ask("The quick", max_tokens=30, repetition_penalty=1.5)) == expected != plain


def test_logits_are_generates_to_the_last_bit(
    engine: HfEngine, stock: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer.encode("lazy dog. " * 12)
    _, logits = generated(stock, ids, eos_token_id=None, max_new_tokens=40, do_sample=False)
    forward = StockForward(open_door(engine.model), Prefill(engine.model, 1))
    with torch.inference_mode():
        row = forward.read(torch.tensor([ids]), 1)[:, -1]
        for expected in logits:
            assert torch.equal(row, expected)
            row = forward.read(row.argmax(-1, keepdim=True), 1)[:, -1]


def test_reported_logprobs_come_from_those_bits(
    ask: Ask, stock: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer.encode("The quick")
    _, rows = generated(stock, ids, max_new_tokens=5, do_sample=False)
    scored = [
        token for chunk in ask("The quick", max_tokens=5, logprobs=400) for token in chunk.tokens
    ]
    assert len(scored) == 5
    for token, logits in zip(scored, rows, strict=True):
        expected = logits.float().log_softmax(-1)[0].tolist()
        assert {other.id: other.logprob for other in token.top} == dict(enumerate(expected))


def test_choices_share_the_prefill_and_not_the_bits(ask: Ask) -> None:
    numbers: dict[str, Any] = {"temperature": 1.0, "logprobs": 0, "deterministic": True}
    together = ask("The quick", n=3, seed=21, **numbers)
    runs = [ask("The quick", seed=21 + choice, **numbers) for choice in range(3)]
    for choice, alone in enumerate(runs):
        mine = [token for chunk in together if chunk.index == choice for token in chunk.tokens]
        assert mine == [token for chunk in alone for token in chunk.tokens]


@pytest.mark.skipif(not (WEIGHTS / "model.safetensors").exists(), reason="no trained weights here")
def test_the_embedded_model_equals_generate() -> None:
    stock = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    engine = HfEngine.load(WEIGHTS, name="pocket")
    ids = tuple(range(20, 60))
    work = Work((TokenPrompt(ids),), Sampling(max_tokens=64, temperature=0, ignore_eos=True))

    async def run() -> list[int]:
        chunks = [chunk async for chunk in await engine.generate(work)]
        await engine.close()
        return tokens(chunks)

    stock.generation_config.eos_token_id = None
    assert asyncio.run(run()) == generate(stock, ids, max_new_tokens=64, do_sample=False)


@pytest.mark.parametrize("source", ["generation_config", "config", "tokenizer"])
def test_an_answer_ends_wherever_its_end_is_named(
    ask: Ask, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, source: str
) -> None:
    said = tokens(ask("The quick", max_tokens=20, ignore_eos=True))
    place = next(place for place in range(3, 20) if said[place] not in said[:place])
    model, words = make_model(), copy.deepcopy(tokenizer)
    model.generation_config.eos_token_id = model.config.eos_token_id = words.eos_token = None
    if source == "tokenizer":
        words.eos_token = words.convert_ids_to_tokens(said[place])
    else:
        getattr(model, source).eos_token_id = [1, said[place]]
    engine = HfEngine(model, words, name="tiny")
    asked = Work((TextPrompt((Part("The quick"),)),), Sampling(max_tokens=20, temperature=0))

    async def run() -> list[Chunk]:
        chunks = [chunk async for chunk in await engine.generate(asked)]
        await engine.close()
        return chunks

    chunks = asyncio.run(run())
    assert tokens(chunks) == said[: place + 1]
    assert chunks[-1].finish_reason == "stop"
