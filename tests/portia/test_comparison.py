"""Which judge to use: judges whose worth is known, told apart or not."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from portia.comparison import UNIT, Comparison, Judge, compare


def simulated(seed: int, items: int, shares: dict[str, float]) -> list[Judge]:
    """Draw judges that are right in these shares, on items that are hard or easy for all of them.

    Each costs as many tokens as its place says, the last the most.
    """
    random = Random(seed)
    luck = [random.random() for _ in range(items)]

    def score(share: float, common: float) -> int:
        own = common if random.random() < 0.7 else random.random()
        return UNIT if own < share else 0

    return [
        Judge(name, [score(share, each) for each in luck], 100.0 * (place + 1))
        for place, (name, share) in enumerate(shares.items())
    ]


def compared(judges: list[Judge], draws: int = 500) -> Comparison:
    found = compare(judges, draws)
    assert found is not None
    return found


def test_a_clear_best_is_told_from_the_others() -> None:
    found = compared(simulated(0, 600, {"cheap": 0.5, "middle": 0.6, "dear": 0.8}))
    assert (found.best, found.use, found.apart, found.needed) == ("dear", "dear", True, None)
    assert "Every other is less accurate by more than chance: use dear." in found.advice()
    assert [each.other for each in found.others] == ["middle", "cheap"]


def test_of_equals_the_cheapest_is_named_and_the_sample_is_called_too_small() -> None:
    found = compared(simulated(3, 200, {"bad": 0.4, "cheap": 0.7, "dear": 0.71, "dearer": 0.7}))
    assert found.use == "cheap" and not found.apart
    said = found.advice()
    assert "too small to tell" in said
    assert "bad" not in said


def test_what_is_needed_is_about_enough() -> None:
    """On as many items as are said to be needed, the difference shows about every second time."""
    shares = {"one": 0.6, "other": 0.7}
    first = compared(simulated(1, 60, shares))
    assert first.needed is not None and first.needed > 60
    told = sum(compared(simulated(seed, 250, shares), 200).apart for seed in range(40))
    counts = [compared(simulated(seed, 60, shares), 200).needed for seed in range(40)]
    typical = sorted(count for count in counts if count is not None)[len(counts) // 3]
    assert 40 < typical < 500
    assert told > 20


def test_the_interval_of_a_paired_difference_covers_the_truth() -> None:
    """Judges of .65 and .55: of many data sets about 95 % of the intervals hold .10."""
    held = 0
    for seed in range(200):
        judges = simulated(seed, 120, {"one": 0.65, "other": 0.55})
        found = compared(judges, draws=400)
        low, high = found.others[0].difference.bootstrap or (1.0, 1.0)
        sign = -1 if found.best == "other" else 1
        held += low <= sign * 0.10 <= high
    assert held in range(180, 200)


def test_pairs_are_resampled_together() -> None:
    """Judges that say the same of every item differ by nothing, however few the items."""
    [one] = simulated(0, 40, {"one": 0.5})
    found = compared([one, Judge("twin", one.scores, 900.0)])
    assert found.others[0].difference.bootstrap == (0.0, 0.0)
    assert (found.best, found.use, found.needed) == ("one", "one", None)


def test_few_items_tell_nothing() -> None:
    found = compared(simulated(0, 20, {"one": 0.1, "other": 0.9}))
    assert found.small
    assert "too few to tell anything: judge at least 30" in found.advice()


def test_only_what_all_judged_counts_and_an_order_is_never_the_one_to_use() -> None:
    judges = [
        Judge("a", [4, 0, None, 4] * 20, 100),
        Judge("b", [4, 4, 4, 0] * 20, 200),
        Judge("order 1", [4, 4, 4, 4] * 20, 50, eligible=False),
    ]
    found = compared(judges)
    assert found.items == 60
    assert found.best == found.use == "a"  # as right as b, and cheaper
    assert found.others[0].other == "order 1"
    assert found.others[0].difference.value == -1 / 3


def test_one_judge_is_compared_with_nothing() -> None:
    [one] = simulated(0, 40, {"one": 0.5})
    assert compare([one]) is None
    assert compare([one, Judge("order 1", one.scores, 1, eligible=False)]) is None
    assert compare([Judge("a", [], 1), Judge("b", [], 1)]) is None


scores = st.lists(st.tuples(*[st.integers(0, UNIT)] * 3), min_size=1, max_size=20)


@given(scores, st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_no_bit(rows: list[tuple[int, ...]], random: Random) -> None:
    shuffled = random.sample(rows, len(rows))
    one, two = [
        compare(
            [
                Judge(name, column, 1.0)
                for name, column in zip("abc", zip(*each, strict=True), strict=True)
            ],
            20,
        )
        for each in (rows, shuffled)
    ]
    assert one == two
