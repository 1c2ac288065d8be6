"""How JSON becomes a body: what is off, what is a default, and what is refused in one sentence."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from server.errors import PlanError
from server.job import Sampling
from server.judge.wire import JudgeBody
from server.prompt import ChatPrompt, TextPrompt, TokenPrompt
from server.protocol.chat import ChatBody
from server.protocol.common import MOST_ERRORS, Body, parse
from server.protocol.completions import CompletionBody
from server.protocol.edits import CompleteBody, EditBody, OpenBody
from server.protocol.fim import FimBody
from server.protocol.infill import InfillBody

MESSAGES = [{"role": "user", "content": "Hello"}]
WRONG = (
    *("n", "seed", "top_k", "top_p", "min_p", "stream", "logprobs", "max_tokens", "ignore_eos"),
    *("temperature", "presence_penalty", "frequency_penalty", "repetition_penalty"),
)
OFF = {
    "best_of": 1,
    "n": 1,
    "echo": False,
    "stop": None,
    "suffix": None,
    "logprobs": None,
    "temperature": None,
    "top_p": None,
    "top_k": -1,
    "seed": None,
    "max_tokens": None,
    "stream": None,
    "stream_options": None,
    "logit_bias": None,
    "user": None,
    "response_format": {"type": "text"},
}


def completion(**body: object) -> CompletionBody:
    made = parse(json.dumps({"prompt": "x", **body}).encode(), CompletionBody)
    made.refuse()
    return made


def chat(**body: object) -> ChatBody:
    made = parse(json.dumps({"messages": MESSAGES, **body}).encode(), ChatBody)
    made.refuse()
    return made


def test_values_that_mean_off_equal_their_absence() -> None:
    assert completion(**OFF).asked() == completion().asked() == Sampling(max_tokens=16)
    assert completion(logprobs=False, stop="", suffix="").asked() == completion().asked()
    assert completion(suffix="").prompts() == completion().prompts()


def test_every_number_reaches_the_sampling() -> None:
    given: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "n": 3,
        "seed": 11,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "repetition_penalty": 1.2,
        "ignore_eos": True,
        "max_tokens": 5,
    }
    extra = {"stop": ["a", "b"], "logit_bias": {"4": -100}, "logprobs": 0, "echo": True}
    assert completion(**given, **extra).asked() == Sampling(
        **given, stop=("a", "b"), logit_bias={4: -100.0}, logprobs=0, echo=True
    )


@pytest.mark.parametrize("more", [{}, {"add_generation_prompt": False}])
def test_a_last_message_is_continued_where_that_is_asked_for(more: dict[str, Any]) -> None:
    said = [*MESSAGES, {"role": "assistant", "content": "Verdict: "}]
    (prompt,) = chat(messages=said, continue_final_message=True, **more).prompts()
    assert isinstance(prompt, ChatPrompt)
    assert prompt.continued
    assert prompt.messages[-1].parts[0].text == "Verdict: "
    offs: list[dict[str, Any]] = [{}, {"continue_final_message": False}]
    for off in (*offs, {"add_generation_prompt": True}):
        (opened,) = chat(messages=said, **off).prompts()
        assert opened == ChatPrompt(prompt.messages)


def test_chat_counts_tokens_under_two_names_and_logprobs_in_two_fields() -> None:
    assert chat().asked() == Sampling()
    assert chat(max_tokens=3).asked().max_tokens == 3
    assert chat(max_completion_tokens=4, max_tokens=3).asked().max_tokens == 4
    assert chat(logprobs=True).asked().logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).asked().logprobs == 20
    assert chat(logprobs=False, top_logprobs=0).asked().logprobs is None


@pytest.mark.parametrize(("stop", "read"), [("a", ("a",)), ([], ()), (["a", ""], ("a",))])
def test_stop_is_a_string_or_a_list(stop: object, read: tuple[str, ...]) -> None:
    assert completion(stop=stop).asked().stop == read


def test_a_prompt_has_four_forms() -> None:
    def made(prompt: object) -> list[type]:
        return [type(each) for each in completion(prompt=prompt).prompts()]

    assert made("a") == [TextPrompt]
    assert made(["a", "b"]) == [TextPrompt, TextPrompt]
    assert made([1, 2]) == [TokenPrompt]
    assert made([[1, 2], [3]]) == [TokenPrompt, TokenPrompt]


def test_tools_and_unknown_message_fields_go_to_the_template() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    message = {"role": "user", "content": None, "name": "Ada", "refusal": None}
    (prompt,) = chat(messages=[message], tools=[tool], tool_choice="auto").prompts()
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools == (tool,)
    assert prompt.messages[0].parts == ()
    assert prompt.messages[0].extra == {"name": "Ada"}


def test_unknown_fields_are_warned_of_or_refused() -> None:
    assert completion(foo=1).warnings == ["field 'foo' is not known and was ignored"]
    with pytest.raises(PlanError, match="fields must be known to a strict server, got 'foo'"):
        parse(b'{"prompt": "x", "foo": 1}', CompletionBody, strict=True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 10**30}, "seed"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 1]}, "stop"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"repetition_penalty": 1e-38}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {str(token): 1 for token in range(4097)}}, "logit_bias"),
        ({"stages": "pine"}, "stages"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_bad_completion_is_refused_by_name(body: dict[str, object], param: str) -> None:
    with pytest.raises(PlanError, match=r"must|cannot") as caught:
        completion(**body)
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, None),
        ({"messages": [{"role": "user", "content": ["x"]}]}, None),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"continue_final_message": "yes"}, "continue_final_message"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": "x"}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ],
)
def test_a_bad_chat_is_refused_by_name(body: dict[str, object], param: str | None) -> None:
    with pytest.raises(PlanError, match=r"must|cannot") as caught:
        chat(**body)
    assert caught.value.param == (param or "messages.0.content")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'"x"',
        b"\xff\xfe{",
        b'{"prompt": "a\xff"}',
        b'{"prompt": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b"[" * 10_000,
        b'{"a":' * 10_000,
    ],
)
def test_a_body_that_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(PlanError, match="must be"):
        parse(data, CompletionBody)


def test_a_byte_order_mark_before_a_body_is_none_of_it() -> None:
    assert parse(b'\xef\xbb\xbf{"prompt": "x"}', CompletionBody) == completion()


def test_many_faults_are_told_of_briefly() -> None:
    body = {"messages": MESSAGES, **dict.fromkeys(WRONG, "x" * 5000)}
    with pytest.raises(PlanError) as caught:
        parse(json.dumps(body).encode(), ChatBody)
    assert len(caught.value.message) < 5000
    assert caught.value.message.endswith(f"(and {len(WRONG) - MOST_ERRORS} more)")


BODIES = (
    ChatBody,
    CompletionBody,
    CompleteBody,
    EditBody,
    FimBody,
    InfillBody,
    JudgeBody,
    OpenBody,
)


def lists(schema: object) -> Iterator[dict[str, Any]]:
    """Yield the lists in a schema of pydantic's."""
    if isinstance(schema, dict):
        if schema.get("type") == "list" and schema.get("items_schema", {}).get("type") != "any":
            yield schema
        schema = [each for name, each in schema.items() if name != "serialization"]
    if isinstance(schema, list):
        for each in schema:
            yield from lists(each)


@pytest.mark.parametrize("kind", BODIES)
def test_of_a_list_with_a_million_faults_one_is_looked_at(kind: type[Body]) -> None:
    """Told by its schema: a fault of each would take seconds and a gigabyte."""
    wrong = [each for each in lists(kind.__pydantic_core_schema__) if not each.get("fail_fast")]
    assert not wrong


def test_the_first_fault_of_a_long_list_is_told() -> None:
    with pytest.raises(PlanError, match=r"messages\.0\.role") as refused:
        chat(messages=[{"content": 1}] * 20_000)
    assert "messages.1." not in str(refused.value)
