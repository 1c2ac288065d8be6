"""Letters: fixed by slot, or drawn for every order anew."""

from __future__ import annotations

import itertools
from functools import partial

from ballots import ballot
from hypothesis import given
from hypothesis import strategies as st

from server.judge.letters import LETTERS, NUMBERS, ORDINALS, TIE, headings, letters, noun

texts = st.lists(st.text("abcxyz", max_size=4), min_size=2, max_size=5, unique=True)


def test_fixed_letters_go_by_slot_and_skip_the_ties() -> None:
    names = letters(ballot(*map(str, range(25)), order=tuple(reversed(range(25)))))
    assert "".join(names) == "ABCDEFGHIJKLMNOPQRSUVWXYZ"


@given(texts, st.integers(0, 99), st.data())
def test_random_letters_depend_on_what_is_shown_where(
    texts: list[str], seed: int, data: st.DataObject
) -> None:
    shown = data.draw(st.permutations(texts))
    sent = data.draw(st.permutations(texts))

    def drawn(texts: list[str]) -> tuple[str, ...]:
        order = tuple(map(texts.index, shown))
        return letters(ballot(*texts, order=order, lettering="random", seed=seed))

    assert drawn(texts) == drawn(sent)
    assert len(set(drawn(texts))) == len(texts)
    assert set(drawn(texts)) <= set(LETTERS)


def test_numbers_and_ordinals_go_by_slot_and_letters_carry_the_brackets() -> None:
    texts = [*map(str, range(9))]
    made = partial(ballot, *texts, order=tuple(reversed(range(9))))
    assert "".join(letters(made(lettering="numbers"))) == "123456789"
    assert letters(made(lettering="ordinals")) == ORDINALS[:9]
    assert letters(made(lettering="brackets")) == letters(made())


def test_what_a_candidate_is_called_by_its_label() -> None:
    def named(lettering: str) -> list[str]:
        return headings(ballot(lettering=lettering))

    assert named("fixed") == named("brackets") == ["Answer A", "Answer B"]
    assert named("numbers") == ["Answer 1", "Answer 2"]
    assert named("ordinals") == ["First answer", "Second answer"]
    assert [noun(each) for each in (("A",), ("1",), ("first",))] == ["letter", "number", "ordinal"]
    assert TIE not in {*LETTERS, *NUMBERS, *ORDINALS}


def test_orders_and_seeds_draw_different_letters() -> None:
    found = {
        letters(ballot("x", "y", order=order, lettering="random", seed=seed))
        for order, seed in itertools.product([(0, 1), (1, 0)], range(50))
    }
    assert len(found) > 80
    firsts = {names[0] for names in found}
    assert len(firsts) > 20  # every letter stands in every slot
