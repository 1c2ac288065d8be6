"""Which edits come next, which were there already, which do not fit; nothing by halves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import PlanError
from server.sessions.document import Document, Extent, Insert, Remove, Rewrite, Splice
from server.sessions.text import Text
from server.sessions.versions import REMEMBERED, Conflict, Revision, Versions

MOST = 1000


def typed(base: int, text: str, offset: int = 0) -> Revision:
    return Revision(base, base + 1, (Rewrite(text, Extent(offset, 0)),))


@given(st.lists(st.integers(0, 9), max_size=40))
def test_whatever_comes_the_text_is_that_of_the_versions(
    came: list[int],
) -> None:
    edits = [typed(base, str(base), base) for base in range(10)]
    versions = Versions(Document.of(""), MOST)
    for base in came:
        before = versions.version
        try:
            applied = versions.put(edits[base])
        except Conflict as conflict:
            assert (conflict.reason, base > before) == ("gap", True)
        else:
            assert applied.again == (base < before)
            assert versions.version == max(before, base + 1)
        assert str(versions.document.texts[0]) == "0123456789"[: versions.version]


def test_a_repeated_edit_is_told_what_it_was_told_before() -> None:
    versions = Versions(Document.of("a"), MOST)
    first = versions.put(typed(0, "b"))
    versions.put(typed(1, "c"))
    again = versions.put(typed(0, "b"))
    assert again == replace(first, splices=(), again=True)
    assert first.splices == (Splice(0, 0, 0, "b"),)


def test_another_edit_for_a_version_that_is_there_is_stale() -> None:
    versions = Versions(Document.of("a"), MOST)
    versions.put(typed(0, "b"))
    for other in (typed(0, "x"), Revision(0, 5, ()), Revision(None, 1, whole=Document.of("y"))):
        with pytest.raises(Conflict) as caught:
            versions.put(other)
        assert (caught.value.reason, caught.value.version) == ("stale", 1)
        assert caught.value.hash == Text.of("ba").sha256
    assert str(versions.document.texts[0]) == "ba"


def test_repetitions_are_known_for_a_while() -> None:
    versions = Versions(Document.of(""), MOST)
    for base in range(REMEMBERED + 1):
        versions.put(typed(base, "x"))
    assert versions.put(typed(1, "x")).again
    with pytest.raises(Conflict, match="must be made for version"):
        versions.put(typed(0, "x"))


def test_versions_count_up() -> None:
    versions = Versions(Document.of(""), MOST)
    with pytest.raises(PlanError, match="version must be above base_version 0, got 0"):
        versions.put(Revision(0, 0))


def test_a_text_and_a_chat_do_not_turn_into_each_other() -> None:
    chat = Document((Text.of("a"),), ("user",))
    for one, other in ((chat, Document.of("a")), (Document.of("a"), chat)):
        with pytest.raises(PlanError, match="document must stay what it is"):
            Versions(one, MOST).put(Revision(whole=other))


def test_messages_come_and_go_but_not_the_last() -> None:
    document = Document((Text.of("a"),), ("user",))
    document, where = document.changed(Insert("assistant", "b"), "utf-16")
    assert where is None
    document, _ = document.changed(Insert("system", "c", 0), "utf-16")
    assert (document.roles, [*map(str, document.texts)]) == (
        ("system", "user", "assistant"),
        ["c", "a", "b"],
    )
    for index in (1, 1):
        document, _ = document.changed(Remove(index), "utf-16")
    with pytest.raises(PlanError, match="chat must keep a message"):
        document.changed(Remove(0), "utf-16")
