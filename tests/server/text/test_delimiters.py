"""Documents cut out at delimiters; a refusal names the stage that asks."""

from __future__ import annotations

import pytest

from server.errors import PlanError
from server.prompt import ChatPrompt, Message, Part, TextPrompt, TokenPrompt
from server.text.delimiters import cut

TAGS = ("<d>", "</d>")


def text(*parts: str) -> TextPrompt:
    return TextPrompt(tuple(Part(part) for part in parts))


def test_documents_between_delimiters_read_the_same_at_every_place() -> None:
    prompt = cut(text("Read: <d>one</d> <d> two\n</d>\n\nNow answer."), TAGS, "s")
    assert isinstance(prompt, TextPrompt)
    assert prompt.parts == (
        Part("Read: "),
        Part("one\n\n", "documents"),
        Part("two\n\n", "documents"),
        Part("Now answer."),
    )
    assert len(prompt.sets) == 1


def test_text_between_documents_makes_two_sets() -> None:
    assert len(cut(text("<d>one</d> and <d>two</d>"), TAGS, "s").sets) == 2


def test_one_delimiter_can_open_and_close() -> None:
    prompt = cut(text("a |one| |two| b"), ("|", "|"), "s")
    assert [part.text for part in prompt.sets[0].documents] == ["one\n\n", "two\n\n"]


def test_grouped_parts_and_instructions_are_left_alone() -> None:
    system = Message("system", (Part("Documents stand between <d> and </d>."),))
    user = Message("user", (Part("<d>one</d>"), Part("</d>", "documents")))
    prompt = cut(ChatPrompt((system, user)), TAGS, "s")
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[0] == system
    assert [part.text for part in prompt.messages[1].parts] == ["one\n\n", "</d>"]
    assert cut(TokenPrompt((1,)), TAGS, "s") == TokenPrompt((1,))


@pytest.mark.parametrize(
    "wrong", ["<d>one", "one</d>", "<d>one <d>two</d>", "<d>one</d></d>", "<d>one</d> <d>", "a<d>"]
)
def test_an_unmatched_delimiter_is_refused(wrong: str) -> None:
    with pytest.raises(PlanError, match=r"^stage 's' delimiter .* must have its counterpart"):
        cut(text(wrong), TAGS, "s")


def test_an_empty_document_is_refused() -> None:
    with pytest.raises(PlanError, match=r"^stage 's' document must have text, got an empty one"):
        cut(text("<d> \n</d>"), TAGS, "s")
