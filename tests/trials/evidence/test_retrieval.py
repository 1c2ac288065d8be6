"""Searching: rare words weigh more, long passages less, and nothing is left out."""

from __future__ import annotations

from trials.evidence.retrieval import Searchable

PASSAGES = ("the fox is red", "the dog is lazy", "the fox and the dog " * 5, "no", "the the the")


def test_the_nearest_share_the_rare_words() -> None:
    found = Searchable(PASSAGES)
    assert found.nearest("is the fox red")[0] == 0
    assert found.nearest("lazy dog")[0] == 1
    assert found.nearest("the dog")[-1] == 3  # it shares nothing, and is there all the same


def test_every_passage_is_told_once() -> None:
    assert sorted(Searchable(PASSAGES).nearest("zebra")) == list(range(5))
    assert Searchable(()).nearest("fox") == []


def test_a_word_that_is_said_again_and_again_weighs_little_more() -> None:
    found = Searchable(("fox " * 50, "an owl", "a cat and an owl"))
    assert found.nearest("fox owl cat") == [2, 0, 1]
