"""A trial on scripted judges: every item once, whatever fails in between."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engines.scripted import Answer, Script, Scripted, content_judge, slot_lover
from server.errors import EngineError, PlanError
from server.job import Sampling
from server.judge.calibration import Calibration
from trials.datasets import TIE, Item
from trials.methods import METHODS
from trials.records import Records
from trials.trial import (
    PATIENCE,
    TAUGHT,
    TAUGHT_TIES,
    Judge,
    check,
    in_both_orders,
    teach,
    teach_ties,
    trial,
)


def items(count: int) -> list[Item]:
    return [Item(str(n), f"Q{n}?", (f"a{n}", f"bb{n}"), ("x", "y"), n % 2) for n in range(count)]


def judge(script: Script, method: str = "swap", **fields: Any) -> Judge:
    engine = Scripted(script, ("text", "logprobs", "attention"))
    return Judge(engine, "m", METHODS[method], fields)


async def run(
    asked: list[Item], made: Judge, path: Path | None, **options: Any
) -> tuple[list[EngineError | None], Records]:
    records = Records(path, made.run(asked[0]))
    try:
        options = {"at_once": 3, **options}
        return [error async for error in trial(asked, made, records, **options)], records
    finally:
        records.close()


class Faulty:
    """A judge of the longer answer that fails when it is told to."""

    def __init__(self, faults: list[bool]) -> None:
        self.faults = iter(faults)
        self.asked: Counter[str] = Counter()

    def __call__(self, prompt: str, sampling: Sampling) -> Answer:
        if next(self.faults, False):
            raise EngineError("engine must run, got a fault; try again")
        self.asked[prompt] += 1
        return content_judge(lambda text, slot: float(len(text)))(prompt, sampling)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.booleans(), max_size=40), at_once=st.integers(1, 4), limit=st.integers(1, 9)
)
async def test_runs_that_fail_complete_every_item_once(
    tmp_path: Path, faults: list[bool], at_once: int, limit: int
) -> None:
    path = tmp_path / "out.jsonl"
    path.unlink(missing_ok=True)
    made = judge(Faulty(faults), "none")
    asked = items(9)
    await _some(asked[:limit], made, path, at_once)
    for _ in range(60):
        if await _some(asked, made, path, at_once):
            break
    records = Records(path, made.run(asked[0]))
    records.close()
    assert records.done.keys() == {item.key for item in asked}
    assert len(path.read_bytes().splitlines()) == 9
    assert set(made.engine._script.asked.values()) == {1}  # type: ignore[attr-defined]


async def _some(asked: list[Item], made: Judge, path: Path, at_once: int) -> bool:
    """Run until the end or until the engine has failed too often; say whether all is done."""
    try:
        errors, _ = await run(asked, made, path, at_once=at_once)
    except EngineError:
        return False
    return not any(errors)


async def test_an_engine_that_only_fails_ends_the_trial() -> None:
    made = judge(Faulty([True] * 100), "none")
    records = Records(None, {})
    seen = []
    with pytest.raises(EngineError, match="engine must run"):
        async for error in trial(items(50), made, records, at_once=1):
            seen.append(error)  # noqa: PERF401
    records.close()
    assert len(seen) == PATIENCE - 1
    assert not records.done


async def test_what_can_never_be_judged_is_recorded_with_its_error() -> None:
    def script(prompt: str, sampling: Sampling) -> Answer:
        if "Q1?" in prompt:
            raise PlanError("prompt must fit, got too much; shorten it")
        return slot_lover()(prompt, sampling)

    asked = items(3)
    errors, records = await run(asked, judge(script), None)
    assert errors == [None] * 3
    found = {record["id"]: record for record in records.done.values()}
    assert found["1"]["error"]["message"].startswith("prompt must fit")
    assert found["0"]["status"] == "order_conflict"
    assert [found[name]["label"] for name in "012"] == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("method", "by_itself"), [("none", False), ("pine", False), ("swap", True)]
)
async def test_both_orders_are_asked_where_the_method_does_not(
    method: str, by_itself: bool
) -> None:
    _, records = await run(items(2), judge(slot_lover(), method), None, both_orders=True)
    for record in records.done.values():
        assert in_both_orders(record) == by_itself
        assert ("exchanged" in record) != by_itself
        if method == "none":
            assert [call["indices"] for call in record["exchanged"]["calls"]] == [[0, 1]]
            assert record["exchanged"]["calls"][0]["order"] == ["y", "x"]
    _, once = await run(items(2), judge(slot_lover(), method), None)
    assert not any("exchanged" in record for record in once.done.values())


async def test_more_than_two_candidates_are_asked_once() -> None:
    asked = [Item("0", "Q?", ("a", "b", "c"), ("x", "y", "z"), TIE)]
    _, records = await run(asked, judge(slot_lover(), "none"), None, both_orders=True)
    [record] = records.done.values()
    assert "exchanged" not in record
    assert record["label"] == "tie"


def test_what_cannot_be_asked_is_refused_before_anything_runs() -> None:
    made = judge(slot_lover())
    with pytest.raises(PlanError, match="data must have an item"):
        check([], made)
    broken = [*items(2), Item("bad", "Q?", tuple("abc" * 10), tuple(str(n) for n in range(30)))]
    with pytest.raises(PlanError, match="item 'bad': candidates must be a list of 2 to"):
        check(broken, made)
    with pytest.raises(PlanError, match="item '0': max_calls must be at least 2"):
        check(items(1), judge(slot_lover(), max_calls=1))


async def test_calibrate_is_taught_by_the_first_pairs() -> None:
    store, asked = Calibration(None), items(TAUGHT + 5)
    made = replace(judge(slot_lover(lead=2.0), "calibrate"), calibration=store)
    with pytest.raises(PlanError, match="item '0': stage 'calibrate' must know the slot bias"):
        check(asked, made)
    await teach(asked, made)
    check(asked, made)
    [bias] = store.all().values()
    store.close()
    assert bias.count == TAUGHT
    assert bias.mean == pytest.approx(2.0)


def test_the_settings_of_a_run_are_all_but_the_data() -> None:
    made = judge(slot_lover(), seed=3)
    one, two = (made.run(item) for item in items(2))
    assert one == two
    assert one["stages"] == [{"stage": "swap"}]
    assert one["seed"] == 3
    assert judge(slot_lover(), "none", seed=3).run(items(1)[0]) != one


async def test_ties_are_taught_by_identical_answers_once() -> None:
    store = Calibration(None)
    made = replace(
        judge(content_judge(lambda text, slot: 0.0), "swap", ties="allow"), calibration=store
    )
    assert await teach_ties(items(50), made) == TAUGHT_TIES
    [known] = store.all("tie_odds").values()
    assert known.count == TAUGHT_TIES
    assert await teach_ties(items(50), made) == 0  # known by now
    record = await made.ask(items(1)[0])
    assert record["evenhand"]["notes"]["ties"][0]["count"] == TAUGHT_TIES


async def test_a_set_is_taught_as_it_is_read() -> None:
    store = Calibration(None)
    made = replace(judge(slot_lover(), "swap+pine", ties="allow"), calibration=store)
    assert await teach_ties(items(3), made) == 6
    assert [about.reading for about in store.all("tie_odds")] == ["set"]


@pytest.mark.parametrize(
    "fields", [{"ties": "forbid"}, {"ties": "allow", "tie_margin": 0.5}, {"form": "score"}]
)
async def test_where_t_is_no_answer_nothing_is_taught(fields: dict[str, Any]) -> None:
    made = replace(judge(slot_lover(), "swap", **fields), calibration=Calibration(None))
    assert await teach_ties(items(3), made) == 0
    assert await teach_ties(items(3), judge(slot_lover(), "swap", ties="allow")) == 0  # no store
