"""Answers that follow a grammar, whatever the model would rather say."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from asking import Ask
from llguidance import LLMatcher
from specs import PINE
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from server.chunk import Chunk
from server.engines.hf import HfEngine
from server.errors import PlanError
from server.prompt import Part, TextPrompt
from server.text.grammar import Grammars

SCHEMA = {
    "type": "object",
    "properties": {"winner": {"enum": ["A", "B"]}, "sure": {"type": "boolean"}},
    "required": ["winner", "sure"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
GRAMMAR = LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA))


def text(chunks: Iterable[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


@pytest.mark.parametrize("numbers", [{}, {"temperature": 1.5, "seed": 1, "top_k": 50}])
def test_the_answer_is_what_the_schema_allows(ask: Ask, numbers: dict[str, Any]) -> None:
    chunks = ask("The quick", grammar=GRAMMAR, max_tokens=60, n=2, **numbers)
    for index in range(2):
        answer = json.loads(text(chunks, index))
        assert set(answer) == {"winner", "sure"}
        assert answer["winner"] in ("A", "B")
    assert {chunk.finish_reason for chunk in chunks} == {None, "stop"}


def test_without_the_grammar_the_model_says_something_else(ask: Ask) -> None:
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(text(ask("The quick", max_tokens=60)))


def test_a_reading_follows_it_too(ask: Ask, docs: tuple[Part, ...]) -> None:
    chunks = ask(TextPrompt(docs), reading=PINE, grammar=GRAMMAR, max_tokens=60)
    assert json.loads(text(chunks))["winner"] in ("A", "B")


def test_logprobs_stay_those_of_the_raw_logits(ask: Ask) -> None:
    free = ask("The quick", logprobs=3, max_tokens=1)[0].tokens[0]
    held = ask("The quick", logprobs=3, max_tokens=1, grammar=GRAMMAR)[0].tokens[0]
    assert held.top == free.top
    assert held.id != free.id


def test_a_broken_grammar_is_refused(ask: Ask) -> None:
    with pytest.raises(PlanError, match="grammar must"):
        ask("The quick", grammar="start: nothing")


def test_an_engine_says_whether_it_can(
    engine: HfEngine, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert "grammar" in engine.offers
    assert Grammars(tokenizer, 330, frozenset()).offered
    assert not Grammars(ByT5Tokenizer(), 330, frozenset()).offered  # a slow one
