"""What is written to another server: all that was asked for, and no more."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher

from server.engines.remote.body import Dialect, response_format
from server.errors import PlanError
from server.job import Sampling
from server.prompt import ChatPrompt, File, FillPrompt, Message, Part, TextPrompt, TokenPrompt
from server.protocol.answer_format import grammar

DIALECT = Dialect("theirs", alternatives=20)
CHAT = ChatPrompt(
    (
        Message("system", (Part("Be "), Part("brief.")), {"name": "it"}),
        Message("user", (Part("a", "documents"), Part("b", "documents"), Part("?"))),
    )
)
NAMED: dict[
    str, dict[str, Any]
] = {  # fields of Sampling that have another name or shape on the wire
    "labels": {"logprobs": True, "top_logprobs": 20},
    "grammar": {"response_format": {"type": "json_object"}},
    "logit_bias": {"logit_bias": {"7": -1.5}},
    "stop": {"stop": ["x", "y"]},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
}
CHANGED: dict[str, Any] = {
    "max_tokens": 0,
    "min_tokens": 2,
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 4,
    "min_p": 0.1,
    "n": 2,
    "stop": ("x", "y"),
    "seed": 0,
    "presence_penalty": 1.0,
    "frequency_penalty": -1.0,
    "repetition_penalty": 1.1,
    "logit_bias": {7: -1.5},
    "logprobs": 3,
    "echo": True,
    "ignore_eos": True,
    "labels": ("A",),
    "grammar": grammar({"type": "json_object"}),
}


def test_a_chat() -> None:
    ask = DIALECT.ask(CHAT, Sampling())
    assert ask.path == "/chat/completions"
    assert ask.stream
    assert ask.body == {
        "model": "theirs",
        "messages": [
            {"role": "system", "content": "Be brief.", "name": "it"},
            {"role": "user", "content": "ab?"},
        ],
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_text_ids_and_what_is_to_be_filled_in() -> None:
    text = DIALECT.ask(TextPrompt((Part("a"), Part("b")), "c"), Sampling(logprobs=0))
    assert (text.path, text.body["prompt"], text.body["suffix"]) == ("/completions", "ab", "c")
    assert text.body["logprobs"] == 0
    assert DIALECT.ask(TokenPrompt((1, 2)), Sampling()).body["prompt"] == [1, 2]


def test_an_editors_text_goes_with_its_files_before_it() -> None:
    prompt = FillPrompt("b\n", "d", "c", (File("x.py", "X = 1"),), "y.py")
    body = DIALECT.ask(prompt, Sampling()).body
    assert (body["prompt"], body["suffix"]) == ("# x.py\nX = 1\n# y.py\nb\nc", "d")
    assert "suffix" not in DIALECT.ask(FillPrompt("a", ""), Sampling()).body
    for ordered in (replace(prompt, order="spm"), TextPrompt((Part("a"),), "b", "spm")):
        with pytest.raises(PlanError, match="fim must be left to a remote model"):
            DIALECT.ask(ordered, Sampling())


@given(st.sets(st.sampled_from([field.name for field in fields(Sampling)])))
def test_whatever_is_asked_for_is_in_the_body_and_nothing_else(asked: set[str]) -> None:
    sampling = Sampling(**{name: CHANGED[name] for name in asked})
    body = dict(DIALECT.ask(CHAT, sampling).body)
    wanted: dict[str, Any] = {"temperature": 1.0}
    for name in sorted(asked, reverse=True):  # labels after logprobs would ask for fewer
        wanted |= NAMED.get(name, {name: CHANGED[name]})
    if "labels" in asked:
        wanted |= NAMED["labels"]
    rest = {"model", "messages", "stream", "stream_options"}
    assert {name: value for name, value in body.items() if name not in rest} == wanted
    assert ("stream" in body) == (not asked & {"labels", "echo"})
    json.dumps(body)


def test_every_field_of_sampling_is_thought_of() -> None:
    assert CHANGED.keys() == {field.name for field in fields(Sampling)}


def test_a_server_may_call_the_limit_by_its_newer_name() -> None:
    body = Dialect("theirs", 0, "max_completion_tokens").ask(CHAT, Sampling(max_tokens=3)).body
    assert body["max_completion_tokens"] == 3
    assert "max_tokens" not in body


def test_only_a_server_like_this_one_is_asked_to_be_deterministic() -> None:
    for ours in (True, False):
        dialect = Dialect("theirs", ours=ours)
        asked = dialect.ask(CHAT, Sampling(), deterministic=True).body
        assert ("deterministic" in asked) == ours
        assert "deterministic" not in dialect.ask(CHAT, Sampling()).body


SCHEMAS = st.recursive(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "null"])}),
    lambda inner: st.builds(
        lambda names: {"type": "object", "properties": names, "required": sorted(names)},
        st.dictionaries(st.text(max_size=8), inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


@given(SCHEMAS)
def test_a_schema_arrives_as_it_was_sent(schema: dict[str, Any]) -> None:
    sent = {"type": "json_schema", "json_schema": {"name": "mine", "schema": schema}}
    found = response_format(str(grammar(sent)))
    assert found["json_schema"] == {"name": "answer", "schema": schema, "strict": True}


@pytest.mark.parametrize(
    "other",
    [LLMatcher.grammar_from_regex("a|b"), LLMatcher.grammar_from_lark("start: 'a'"), "{", "[]"],
)
def test_another_grammar_is_refused(other: str) -> None:
    with pytest.raises(PlanError, match="must be a JSON schema for a remote model") as caught:
        DIALECT.ask(CHAT, Sampling(grammar=other))
    assert caught.value.param == "response_format"


def test_tools_are_refused() -> None:
    with pytest.raises(PlanError, match="tools cannot go to a remote model"):
        DIALECT.ask(ChatPrompt(CHAT.messages, ({"type": "function"},)), Sampling())


def test_a_last_message_is_continued_where_the_server_is_known_to_do_so() -> None:
    begun = replace(CHAT, continued=True)
    with pytest.raises(PlanError, match="known to take it, which are vLLM and Evenhand, got anoth"):
        DIALECT.ask(begun, Sampling())
    body = replace(DIALECT, continues=True).ask(begun, Sampling()).body
    asked = {"continue_final_message": True, "add_generation_prompt": False}
    assert body == {**DIALECT.ask(CHAT, Sampling()).body, **asked}
