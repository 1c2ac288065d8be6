"""The sets of a prompt: found where they stand, once."""

from __future__ import annotations

from server.prompt import ChatPrompt, Message, Part, TextPrompt, TokenPrompt


def test_consecutive_parts_of_one_group_are_one_set() -> None:
    prompt = TextPrompt(
        (Part("a"), Part("1", "x"), Part("2", "x"), Part("3", "y"), Part("b"), Part("4", "x"))
    )
    assert [[part.text for part in each.documents] for each in prompt.sets] == [
        ["1", "2"],
        ["3"],
        ["4"],
    ]
    assert TokenPrompt((1, 2)).sets == ()
    assert TextPrompt((Part("plain"),)).sets == ()


def test_groups_of_two_messages_are_two_sets() -> None:
    message = Message("user", (Part("1", "x"),))
    assert len(ChatPrompt((message, message)).sets) == 2


def test_a_set_is_found_once() -> None:
    prompt = TextPrompt((Part("a"), Part("1", "x")))
    assert prompt.sets is prompt.sets


def test_a_part_stands_in_the_place_of_a_whole_set() -> None:
    parts = (Part("a"), Part("1", "x"), Part("2", "x"), Part("3", "y"), Part("b"))
    text = TextPrompt(parts, "after")
    first, second = text.sets
    mark = Part("here")
    assert text.instead(first, mark) == TextPrompt((parts[0], mark, *parts[3:]), "after")
    assert text.instead(second, mark) == TextPrompt((*parts[:3], mark, parts[4]), "after")
    chat = ChatPrompt((Message("system", parts[:1]), Message("user", parts[:3])))
    [only] = chat.sets
    assert chat.instead(only, mark).messages == (
        Message("system", parts[:1]),
        Message("user", (parts[0], mark)),
    )
