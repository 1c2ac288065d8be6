"""What a user asks of a real model, over HTTP: sensible answers, and the laws to the last bit."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from judges import invariant
from real_server import Served

CAPITAL = "What is the capital of France? Answer in one short sentence."
RIVER = "Which river flows through London? Answer in one short sentence."
PINE = [{"stage": "pine"}]
ASKED = "Answer from these facts, in one sentence: where does Akira work?"
DOCUMENTS = (
    "Akira works in a bakery in Lisbon.",
    "Nils works at the harbour of Oslo.",
    "Mira teaches music at a school in Rome.",
)
CANDIDATES = {"right": "The capital of France is Paris.", "wrong": "The capital of France is Oslo."}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def judged(served: Served, order: tuple[str, ...], stages: list[Any]) -> dict[str, Any]:
    """Return a judge's reply to the candidates in some order."""
    candidates = [{"id": name, "text": CANDIDATES[name]} for name in order]
    question = "What is the capital of France?"
    return served.post("judge", question=question, candidates=candidates, stages=stages)


def permutations(things: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return all orders of some things."""
    return list(itertools.permutations(things))


def scores(choice: dict[str, Any]) -> list[float]:
    """Return the log-probabilities of an answer's tokens."""
    return [each["logprob"] for each in choice["logprobs"]["content"]]


def test_a_chat_is_sensible_and_ends_by_itself(served: Served) -> None:
    choice = served.chat(CAPITAL, max_tokens=96)
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_a_stream_says_what_a_whole_answer_does(served: Served) -> None:
    whole = served.chat(CAPITAL, max_tokens=24)["message"]["content"]
    with served.stream(CAPITAL, max_tokens=24) as choices:
        pieces = [choice["delta"].get("content") or "" for choice in choices]
    assert "".join(pieces) == whole
    assert sum(map(bool, pieces)) > 3


def test_exchanged_candidates_mirror_the_verdict_of_pine(served: Served) -> None:
    if served.unreadable:
        pytest.skip(served.unreadable)
    mirrored(served, PINE, calls=1)


def test_exchanged_candidates_mirror_the_verdict_of_swap(served: Served) -> None:
    mirrored(served, [{"stage": "swap"}], calls=2)


def mirrored(served: Served, stages: list[Any], calls: int) -> None:
    names = {name: name for name in CANDIDATES}
    one, other = (judged(served, order, stages) for order in permutations(tuple(CANDIDATES)))
    assert invariant(one, names) == invariant(other, names)
    assert one["status"] != "unparsed"
    assert len(one["calls"]) == calls


def test_documents_give_the_same_bits_in_every_order(served: Served) -> None:
    if served.unreadable:
        pytest.skip(served.unreadable)
    orders = permutations(DOCUMENTS)
    read = [asked(served, order, PINE) for order in orders]
    assert len({tuple(scores(choice)) for choice in read}) == 1
    plain = [scores(asked(served, order, [])) for order in (orders[0], orders[-1])]
    assert plain[0] != plain[1]  # else nothing was shown


def test_the_answer_is_found_among_documents(served: Served) -> None:
    if served.unreadable:
        pytest.skip(served.unreadable)
    read, plain = (said(asked(served, DOCUMENTS, stages)) for stages in (PINE, []))
    if "bakery" not in read + plain:
        pytest.skip("it does not find it plainly either: the model is too small")
    assert "bakery" in read


def asked(served: Served, order: tuple[str, ...], stages: list[Any]) -> dict[str, Any]:
    return served.chat(ASKED, documents=order, stages=stages, logprobs=True, max_tokens=16)


def said(choice: dict[str, Any]) -> str:
    return str(choice["message"]["content"])


def test_an_answer_keeps_to_a_schema(served: Served) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    question = "Ada is 36 years old. Give her name and her age as JSON."
    choice = served.chat(question, response_format=wanted, max_tokens=96)
    person = json.loads(choice["message"]["content"])
    assert choice["finish_reason"] == "stop"
    assert set(person) == {"name", "age"}
    assert isinstance(person["name"], str) and len(person["name"]) <= 20
    assert type(person["age"]) is int and 0 <= person["age"] <= 150


def test_the_middle_is_filled_in(served: Served) -> None:
    body = {
        "prompt": "def add(first, second):\n    return ",
        "suffix": "\n\n\nprint(add(2, 3))\n",
        "max_tokens": 12,
        "temperature": 0,
    }
    if not served.fills_in:
        refused = served.client.post("/v1/completions", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "suffix"
        pytest.skip("its vocabulary has no tokens for that")
    [choice] = served.post("completions", **body)["choices"]
    assert "first + second" in choice["text"]


def test_two_at_once_get_what_each_gets_alone(served: Served) -> None:
    body = {"max_tokens": 16, "logprobs": True, "deterministic": True}
    alone = [served.chat(question, **body) for question in (CAPITAL, RIVER)]
    with served.stream(CAPITAL, **body) as one, served.stream(RIVER, **body) as other:
        streams = [[next(one), next(one)], [next(other), next(other)]]  # both are at work
        for begun, rest in zip(streams, (one, other), strict=True):
            begun += rest
    for choice, stream in zip(alone, streams, strict=True):
        scored = [each for each in stream if each.get("logprobs")]
        assert [score for each in scored for score in scores(each)] == scores(choice)
        text = "".join(each["delta"].get("content") or "" for each in stream)
        assert text == choice["message"]["content"]
    assert alone[0] != alone[1]
