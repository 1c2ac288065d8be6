"""The decision: whom the verdict prefers, how probably rightly, and when nobody is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ballots import ballot
from judges import ALL, asked, judged, serving

from portia.probability import Isotonic, Temperature, kept
from portia.verdict import Vote, decide
from server.engines.scripted import Scripted, content_judge, slot_lover
from server.judge.ballot import Case
from server.judge.calibration import Calibration
from server.judge.decision import Decision, fit_key

SWAP, PINE = {"stage": "swap"}, {"stage": "pine"}
FIT = Temperature(2.0, 100, 0.9, 0.6)


def of(x: float, y: float, **options: Any) -> Decision:
    return Decision.of(
        decide([Vote((0, 1), 0 if x > y else 1, (x, y))], ["x", "y"]),
        options.get("fit"),
        options.get("least"),
    )


def test_a_margin_is_log_odds_until_it_is_calibrated() -> None:
    assert of(-1.0, -3.0).probability == pytest.approx(1 / (1 + math.exp(-2)))
    fitted = of(-1.0, -3.0, fit=FIT)
    assert fitted.probability == pytest.approx(1 / (1 + math.exp(-1)))
    wire = fitted.wire(ballot())
    assert (wire["preferred"], wire["winner"]) == ("0", "0")
    assert wire["calibrated"]["temperature"] == 2.0
    assert "abstained" not in wire
    assert of(-1.0, -3.0).wire(ballot())["calibrated"] is None


@pytest.mark.parametrize(("least", "abstained"), [(0.5, False), (0.88, False), (0.89, True)])
def test_below_the_least_probability_nobody_is_named(least: float, abstained: bool) -> None:
    made = of(-1.0, -3.0, least=least)  # .881
    wire = made.wire(ballot())
    assert wire["abstained"] == made.abstained == abstained
    assert wire["preferred"] == wire["winner"] == (None if abstained else "0")
    assert (wire["status"], wire["probability"]) == ("single", pytest.approx(0.8808, abs=1e-4))


def test_of_more_than_two_the_scores_are_log_odds_and_no_fit_of_pairs_is_used() -> None:
    votes = [Vote((0, 1, 2), 0, (-1.0, -2.0, -4.0))]
    made = Decision.of(decide(votes, ["x", "y", "z"]), FIT, None)
    assert made.fit is None
    total = sum(map(math.exp, (-1.0, -2.0, -4.0)))
    assert made.probability == pytest.approx(math.exp(-1) / total)


def test_a_choice_in_words_has_no_probability() -> None:
    verdict = decide([Vote((0, 1), 0), Vote((1, 0), 0)], ["x", "y"])
    assert Decision.of(verdict, FIT, None).wire(ballot()) == {
        "winner": "0",
        "preferred": "0",
        "probability": None,
        "calibrated": None,
        "status": "consistent",
    }
    assert Decision.of(verdict, FIT, 0.1).abstained


def test_a_fit_is_one_of_a_plan_and_all_that_a_habit_is_of() -> None:
    made = Case(ballot(), "fp")
    keys = {
        fit_key(made, [SWAP]),
        fit_key(made, [SWAP, PINE]),
        fit_key(Case(ballot(), "other"), [SWAP]),
        fit_key(Case(ballot(form="score"), "fp"), [SWAP]),
        fit_key(Case(ballot(template="rubric"), "fp"), [SWAP]),
        fit_key(Case(ballot(lettering="random"), "fp"), [SWAP]),
        fit_key(Case(ballot(ties=False), "fp"), [SWAP]),
    }
    assert len(keys) == 7
    assert fit_key(Case(ballot("other", "texts", question="W?"), "fp"), [SWAP]) in keys


async def test_a_conflict_is_decided_by_the_margin_of_both_orders() -> None:
    judge = content_judge(lambda text, slot: float(len(text)) + 4.0 * (slot == 0))
    async with serving(judge) as client:
        for texts, better in ((["a", "bb"], "1"), (["bb", "a"], "0")):
            reply = await judged(client, texts, stages=[SWAP])
            assert (reply["status"], reply["winner"]) == ("order_conflict", None)
            assert reply["preferred"] == better
            assert reply["probability"] == pytest.approx(1 / (1 + math.exp(-reply["margin"])))
    async with serving(slot_lover()) as client:
        reply = await judged(client, ["a", "bb"], stages=[SWAP], min_probability=0.5)
    assert (reply["preferred"], reply["probability"], reply["abstained"]) == (None, None, True)


async def test_without_a_margin_nobody_is_sure_enough() -> None:
    async with serving(content_judge(lambda text, slot: float(len(text))), ("text",)) as client:
        plain = await judged(client, ["a", "bb"], stages=[SWAP])
        careful = await judged(client, ["a", "bb"], stages=[SWAP], min_probability=0.6)
    assert (plain["winner"], plain["preferred"], plain["probability"]) == ("1", "1", None)
    assert "abstained" not in plain and "warnings" not in plain["evenhand"]
    assert (careful["winner"], careful["preferred"], careful["abstained"]) == (None, None, True)
    assert careful["status"] == "consistent"
    assert "min_probability needs a margin" in careful["evenhand"]["warnings"][0]


async def test_a_fit_that_is_kept_is_used_and_told() -> None:
    engine, store = (
        Scripted(content_judge(lambda text, slot: float(len(text))), ALL),
        Calibration(None),
    )
    curve = Isotonic((0.0, 5.0), (0.5, 0.9), 50, 0.9, 0.5)
    before = await asked(engine, ["a", "bbb"], store, stages=[SWAP])
    assert before["calibrated"] is None
    head = before["system_fingerprint"]
    store.keep(fit_key(Case(ballot(), head, store), [SWAP]), kept(curve))
    for texts in (["a", "bbb"], ["bbb", "a"]):
        reply = await asked(engine, texts, store, stages=[SWAP])
        assert reply["probability"] == curve(reply["margin"]) == pytest.approx(0.66)
        assert reply["calibrated"] == {
            "method": "isotonic",
            "count": 50,
            "log_loss": {"before": 0.9, "after": 0.5},
        }
    other = await asked(engine, ["a", "bbb"], store, stages=[SWAP], template="correctness")
    assert other["calibrated"] is None
