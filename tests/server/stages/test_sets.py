"""Sets of documents: found, and cut out at delimiters."""

from __future__ import annotations

import pytest

from server.errors import PlanError
from server.job import ChatPrompt, Message, Part, TextPrompt, TokenPrompt
from server.stages.sets import cut, sets

TAGS = ("<d>", "</d>")


def text(*parts: str) -> TextPrompt:
    return TextPrompt(tuple(Part(part) for part in parts))


def test_consecutive_parts_of_one_group_are_one_set() -> None:
    prompt = TextPrompt(
        (Part("a"), Part("1", "x"), Part("2", "x"), Part("3", "y"), Part("b"), Part("4", "x"))
    )
    assert [[part.text for part in each] for each in sets(prompt)] == [["1", "2"], ["3"], ["4"]]
    assert sets(TokenPrompt((1, 2))) == []
    assert sets(text("plain")) == []


def test_groups_of_two_messages_are_two_sets() -> None:
    message = Message("user", (Part("1", "x"),))
    assert len(sets(ChatPrompt((message, message)))) == 2


def test_documents_between_delimiters_read_the_same_at_every_place() -> None:
    prompt = cut(text("Read: <d>one</d> <d> two\n</d>\n\nNow answer."), TAGS)
    assert isinstance(prompt, TextPrompt)
    assert prompt.parts == (
        Part("Read: "),
        Part("one\n\n", "documents"),
        Part("two\n\n", "documents"),
        Part("Now answer."),
    )
    assert len(sets(prompt)) == 1


def test_text_between_documents_makes_two_sets() -> None:
    assert len(sets(cut(text("<d>one</d> and <d>two</d>"), TAGS))) == 2


def test_one_delimiter_can_open_and_close() -> None:
    prompt = cut(text("a |one| |two| b"), ("|", "|"))
    assert [part.text for part in sets(prompt)[0]] == ["one\n\n", "two\n\n"]


def test_grouped_parts_and_instructions_are_left_alone() -> None:
    system = Message("system", (Part("Documents stand between <d> and </d>."),))
    user = Message("user", (Part("<d>one</d>"), Part("</d>", "documents")))
    prompt = cut(ChatPrompt((system, user)), TAGS)
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[0] == system
    assert [part.text for part in prompt.messages[1].parts] == ["one\n\n", "</d>"]
    assert cut(TokenPrompt((1,)), TAGS) == TokenPrompt((1,))


@pytest.mark.parametrize(
    "wrong", ["<d>one", "one</d>", "<d>one <d>two</d>", "<d>one</d></d>", "<d>one</d> <d>", "a<d>"]
)
def test_an_unmatched_delimiter_is_refused(wrong: str) -> None:
    with pytest.raises(PlanError, match="must have its counterpart"):
        cut(text(wrong), TAGS)


def test_an_empty_document_is_refused() -> None:
    with pytest.raises(PlanError, match="must have text, got an empty one"):
        cut(text("<d> \n</d>"), TAGS)
