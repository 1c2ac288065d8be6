"""Alignment: lossless, mirrored, and equal to exhaustive search."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from portia.align import MOST_UNITS, align, by_length, by_meaning, merge_shortest
from portia.split import units

MT_BENCH = Path(__file__).parents[3] / "shared/data/LLMBar/Processed/MT-Bench/dataset.json"

words = st.sampled_from(["red", "blue", "Red", "cat", "好", "dog", "!"])  # "!" is no token
unit_lists = st.lists(
    st.lists(words, min_size=1, max_size=3).map(lambda drawn: " ".join([*drawn, ". "])),
    min_size=3,
    max_size=6,
)
few = st.sampled_from(["Red. ", "Blue cat. ", "Red dog! ", "Dog. ", "Cat? "])  # so that sums tie
answers = st.lists(few, max_size=8).map("".join)
ways = st.sampled_from(["length", "meaning"])


def all_cuts(pieces: Sequence[str], parts: int) -> Iterator[list[list[str]]]:
    for inner in itertools.combinations(range(1, len(pieces)), parts - 1):
        cuts = [0, *inner, len(pieces)]
        yield [list(pieces[begin:end]) for begin, end in itertools.pairwise(cuts)]


def similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the spec's figure; in these tests a token is a lower-case word or an ideograph."""
    signs = str.maketrans(dict.fromkeys("!?.", " "))
    sets = [set("".join(side).lower().translate(signs).split()) for side in (one, other)]
    return len(sets[0] & sets[1]) / max(1, *map(len, sets))


@given(unit_lists, unit_lists, st.integers(1, 4))
def test_the_programme_equals_exhaustive_search(
    first: list[str], second: list[str], parts: int
) -> None:
    parts = min(parts, len(first), len(second))
    scores = {
        (tuple(map("".join, x)), tuple(map("".join, y))): sum(map(similarity, x, y))
        for x in all_cuts(first, parts)
        for y in all_cuts(second, parts)
    }
    found = by_meaning(first, second, parts)
    assert scores[found] == pytest.approx(max(scores.values()), abs=1e-12)
    assert [len(side) for side in found] == [parts, parts]


@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 6))
def test_length_takes_the_nearest_ends(pieces: list[str], parts: int) -> None:
    parts = min(parts, len(pieces))
    found = by_length(pieces, parts)
    assert found in [tuple(map("".join, cut)) for cut in all_cuts(pieces, parts)]
    if parts == 2:
        total = len("".join(pieces))
        distances = [abs(2 * len("".join(cut[0])) - total) for cut in all_cuts(pieces, 2)]
        assert abs(2 * len(found[0]) - total) == min(distances)


def test_length_is_measured_in_characters_and_every_part_has_a_unit() -> None:
    assert by_length(["aaaa", "b", "c", "dd"], 2) == ("aaaa", "bcdd")
    assert by_length(["a", "b", "c", "dddd"], 2) == ("abc", "dddd")
    assert by_length(["a" * 90, "b", "c"], 3) == ("a" * 90, "b", "c")
    assert by_length(["a", "b", "c" * 90], 3) == ("a", "b", "c" * 90)
    assert by_length(["a", "bb", "c"], 2) == ("a", "bbc")  # the earlier of two equally near


@given(answers, answers, st.integers(1, 5), ways)
@example("Red dog! Blue cat. Red dog!", "Cat? Dog. Cat? ", 2, "meaning")  # two cuts are as good
def test_exchanging_the_answers_exchanges_the_cuts(
    first: str, second: str, parts: int, how: Literal["length", "meaning"]
) -> None:
    one, other = align(first, second, parts, how)
    assert align(second, first, parts, how) == (other, one)
    assert ("".join(one), "".join(other)) == (first, second)
    fewest = min(len(units(first)), len(units(second)))
    assert len(one) == len(other) == max(1, min(parts, fewest))


@given(answers, st.integers(1, 5), ways)
def test_equal_answers_are_cut_equally(
    answer: str, parts: int, how: Literal["length", "meaning"]
) -> None:
    one, other = align(answer, answer, parts, how)
    assert one == other


def test_facing_parts_share_their_subject() -> None:
    first = "Cats purr. Cats sleep all day. Cats also like warm milk. Dogs bark. Fish swim."
    second = "Cats like milk. Cats sleep. Dogs bark. Dogs bark again. Fish swim."
    one, other = align(first, second, 3, "meaning")
    cats = "Cats purr. Cats sleep all day. Cats also like warm milk. "
    assert one == (cats, "Dogs bark. ", "Fish swim.")
    assert other == ("Cats like milk. Cats sleep. ", "Dogs bark. Dogs bark again. ", "Fish swim.")
    assert align(first, second, 3, "length") != (one, other)


def test_case_does_not_matter_and_an_ideograph_is_a_word() -> None:
    first, second = "HOT TEA. MILK.", "Hot tea hot tea. Tea hot tea hot tea hot tea! Milk."
    assert align(first, second, 2, "meaning")[1][1] == "Milk."
    first, second = "猫爱鱼。狗爱肉。", "鱼爱猫。猫猫鱼爱。肉爱狗。"
    assert align(first, second, 2, "meaning")[1] == ("鱼爱猫。猫猫鱼爱。", "肉爱狗。")
    assert align(first, second, 2, "length")[1] == ("鱼爱猫。", "猫猫鱼爱。肉爱狗。")


def test_answers_that_share_nothing_are_cut_by_length() -> None:
    first, second = "Ab cd. Ef gh. Ij kl. Mn op.", "Ba dc. Fe hg. Ji lk. Nm po."
    assert align(first, second, 2, "meaning") == align(first, second, 2, "length")


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 12))
@example([5, 1, 1, 1, 9, 3, 4, 2, 2, 8, 1, 6, 2, 7, 3, 3], 3)
def test_merging_joins_the_shortest_neighbours_first(sizes: list[int], most: int) -> None:
    pieces = ["x" * size for size in sizes]
    slow = list(pieces)
    while len(slow) > most:
        sizes = [len(slow[at]) + len(slow[at + 1]) for at in range(len(slow) - 1)]
        at = sizes.index(min(sizes))
        slow[at : at + 2] = [slow[at] + slow[at + 1]]
    assert merge_shortest(pieces, most) == tuple(slow)


@pytest.mark.parametrize("parts", [0, -1])
@pytest.mark.parametrize("how", ["length", "meaning"])
def test_no_parts_are_refused(parts: int, how: Literal["length", "meaning"]) -> None:
    with pytest.raises(ValueError, match="parts must be at least 1"):
        align("a", "b", parts, how)
    with pytest.raises(ValueError, match="parts must be at most the units, 1, got 2"):
        by_length(["a"], 2)


def test_long_answers_take_little_time_and_memory() -> None:
    first = "".join(f"He met w{n} and v{n * n} once. " for n in range(8000))
    second = "".join(f"She saw w{3 * n} and v{n} twice. " for n in range(8000))
    assert min(len(first), len(second)) > 200_000
    start = time.perf_counter()
    one, other = align(first, second, 3, "meaning")
    assert time.perf_counter() - start < 5.0
    assert ("".join(one), "".join(other)) == (first, second)
    left, right = ([f"w{n * 40 + at} " * 3 for at in range(MOST_UNITS)] for n in range(2))
    tracemalloc.start()
    by_meaning(left, right, parts=MOST_UNITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32e6


@pytest.mark.skipif(not MT_BENCH.is_file(), reason="the data is not beside the project")
def test_real_answers_are_lossless_mirrored_and_fast() -> None:
    pairs = [(row["output_1"], row["output_2"]) for row in json.loads(MT_BENCH.read_text())]
    seconds = []
    for first, second in pairs:
        start = time.perf_counter()
        one, other = align(first, second, 3, "meaning")
        seconds.append(time.perf_counter() - start)
        assert ("".join(one), "".join(other)) == (first, second)
        assert align(second, first, 3, "meaning") == (other, one)
    assert sorted(seconds)[len(seconds) * 95 // 100] < 0.1


def test_portia_needs_no_torch() -> None:
    names = sorted(path.stem for path in (Path(__file__).parents[2] / "portia").glob("*.py"))
    loads = "".join(f"import portia.{name}; " for name in names if name != "__init__")
    code = f"import sys; {loads}print(sorted(sys.modules.keys() & {{'torch', 'transformers'}}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
