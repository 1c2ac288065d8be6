"""Where documents stand in a prompt, and how their text is written."""

import json

import pytest

from server.errors import PlanError
from server.prompt import ChatPrompt, Message, Part, TextPrompt, TokenPrompt
from server.protocol.chat import ChatBody
from server.protocol.common import parse
from server.protocol.completions import CompletionBody
from server.protocol.documents import check_count, inserted, joined


def prompts(**body: object) -> tuple[object, ...]:
    return CompletionBody.model_validate(body).prompts()


def last_parts(**body: object) -> tuple[Part, ...]:
    (prompt,) = ChatBody.model_validate(body).prompts()
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages[-1].parts


def test_a_document_is_its_title_and_text_and_a_blank_line() -> None:
    given = [{"title": "Rome", "text": "a city"}, "plain"]
    assert prompts(prompt="Which?", documents=given) == (
        TextPrompt(
            (
                Part("Rome\na city\n\n", "documents"),
                Part("plain\n\n", "documents"),
                Part("Which?"),
            )
        ),
    )


def test_documents_stand_where_the_prompt_says() -> None:
    (prompt,) = prompts(prompt="Read: {documents}Now answer.", documents=["one"])
    assert prompt == TextPrompt((Part("Read: "), Part("one\n\n", "documents"), Part("Now answer.")))


def test_the_place_is_plain_text_without_documents() -> None:
    assert prompts(prompt="Read: {documents}") == (TextPrompt((Part("Read: {documents}"),)),)


def test_every_prompt_of_a_batch_gets_the_documents() -> None:
    batch = prompts(prompt=["a", "b"], documents=["one"])
    document = Part("one\n\n", "documents")
    assert batch == (TextPrompt((document, Part("a"))), TextPrompt((document, Part("b"))))


def test_chat_puts_documents_into_the_last_user_message_alone() -> None:
    messages = [
        {"role": "user", "content": "first {documents}"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
    ]
    (prompt,) = ChatBody.model_validate({"messages": messages, "documents": ["d"]}).prompts()
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[0].parts == (Part("first {documents}"),)
    assert prompt.messages[2].parts == (Part("d\n\n", "documents"), Part("A\nB"))


def test_content_parts_are_joined_with_line_ends_and_documents_keep_theirs() -> None:
    content = [
        {"type": "text", "text": "Read"},
        {"type": "text", "text": "these"},
        {"type": "text", "text": "x", "group": "any name"},
        {"type": "text", "text": "y", "group": "any name"},
        {"type": "text", "text": "Which?"},
    ]
    assert last_parts(messages=[{"role": "user", "content": content}]) == (
        Part("Read\nthese\n"),
        Part("x\n", "any name"),
        Part("y\n", "any name"),
        Part("Which?"),
    )


def test_a_last_document_ends_with_a_line_end_as_the_others_do() -> None:
    assert joined([Part("a", "g"), Part("b", "g")]) == (Part("a\n", "g"), Part("b\n", "g"))


def test_documents_stand_before_the_last_text_after_other_groups() -> None:
    parts = (Part("x\n", "g"), Part("Which?"))
    document = Part("d", "documents")
    assert inserted(parts, [document]) == (Part("x\n", "g"), document, Part("Which?"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": [1, 2], "documents": ["x"]}, "prompt must be text where documents is given"),
        ({"prompt": [[1], [2]], "suffix": "x"}, "prompt must be text where suffix is given"),
        ({"prompt": "{documents}{documents}", "documents": ["x"]}, "must be written once"),
    ],
)
def test_documents_without_one_place_are_refused(body: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        prompts(**body)


def test_documents_without_a_user_message_are_refused() -> None:
    with pytest.raises(PlanError, match="documents must have a user message"):
        last_parts(messages=[{"role": "system", "content": "x"}], documents=["x"])


@pytest.mark.parametrize("document", ["", {"text": ""}, {"title": "x"}, 5, {"text": "x", "no": 1}])
def test_a_document_without_text_is_refused(document: object) -> None:
    body = json.dumps({"prompt": "x", "documents": [document]}).encode()
    with pytest.raises(PlanError, match="document"):
        parse(body, CompletionBody)


def test_grouped_parts_count_as_documents() -> None:
    many = Message("user", tuple(Part(str(place), "g") for place in range(6)))
    check_count([ChatPrompt((many,)), TokenPrompt((1,))], 0, limit=6)
    with pytest.raises(PlanError, match="at most 5, got 6"):
        check_count([ChatPrompt((many,))], 0, limit=5)
