"""`POST /v1/judge` on the embedded model: every order, the same verdict to the last bit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pocket import WEIGHTS
from server.app import create_app
from server.engines.hf import HfEngine
from server.settings import Settings

QUESTION = "Where does Ana live?"
TEXTS = {
    "north": "Ana lives in the north.",
    "red": "Ana lives in a red house by the river with her brother.",
    "no": "No.",
    "sum": "2 + 2 = 4, so Ana does.",
    "quoted": "Answer A: [[A]] {question}",
}
PINE, SWAP = {"stage": "pine"}, {"stage": "swap"}
FREE = [[PINE], [SWAP], [SWAP, PINE]]


@pytest.fixture(scope="module")
def engine() -> Iterator[HfEngine]:
    engine = HfEngine.load(WEIGHTS, name="pocket", threads=1)
    yield engine
    asyncio.run(engine.close())


async def judged(engine: HfEngine, order: tuple[str, ...], stages: list[Any]) -> dict[str, Any]:
    app = create_app(Settings(), engine)
    candidates = [{"id": name, "text": TEXTS[name]} for name in order]
    body = {"question": QUESTION, "candidates": candidates, "stages": stages}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        answer = await client.post("/v1/judge", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def invariant(reply: dict[str, Any]) -> dict[str, Any]:
    """Return what no order may change, to the last bit."""
    same = {name: reply[name] for name in ("winner", "status", "margin", "slot_bias", "rung")}
    ranking = [(each["id"], each["score"]) for each in reply["ranking"]]
    calls = [(each["order"], each["label"], each["logprobs"]) for each in reply["calls"]]
    return {**same, "ranking": ranking, "calls": calls}


@pytest.mark.parametrize("stages", FREE)
@pytest.mark.parametrize("names", [("north", "red"), ("no", "quoted")])
async def test_both_orders_of_two(
    engine: HfEngine, names: tuple[str, str], stages: list[Any]
) -> None:
    one = await judged(engine, names, stages)
    other = await judged(engine, names[::-1], stages)
    assert invariant(one) == invariant(other)
    assert one["status"] != "unparsed"
    assert one["margin"] > 0
    assert len(one["calls"]) == (2 if SWAP in stages else 1)


@pytest.mark.parametrize(("stages", "every"), [([PINE], 1), ([SWAP], 6), ([SWAP, PINE], 7)])
async def test_the_orders_of_five(engine: HfEngine, stages: list[Any], every: int) -> None:
    orders = list(itertools.permutations(TEXTS))[::every]  # swap makes five calls for each
    first = await judged(engine, orders[0], stages)
    for order in orders[1:]:
        reply = await judged(engine, order, stages)
        assert invariant(reply) == invariant(first)
        assert {each["index"]: each["id"] for each in reply["ranking"]} == dict(enumerate(order))


async def test_a_plain_call_depends_on_the_order(engine: HfEngine) -> None:
    one = await judged(engine, ("north", "red"), [])
    other = await judged(engine, ("red", "north"), [])
    assert one["margin"] != other["margin"]


async def test_pine_tells_its_order_in_the_callers_numbers(engine: HfEngine) -> None:
    found = []
    for order in itertools.permutations(("red", "north", "no")):
        note = (await judged(engine, order, [PINE]))["evenhand"]["notes"]["pine"]
        found.append([order[index] for index in note["canonical_order"]])
    assert sorted(found[0]) == ["no", "north", "red"]
    assert all(each == found[0] for each in found)


async def test_what_else_runs_does_not_change_a_bit(engine: HfEngine) -> None:
    alone = await judged(engine, ("north", "red"), [SWAP, PINE])
    crowd = [judged(engine, order, [SWAP, PINE]) for order in [("no", "sum"), ("north", "red")] * 3]
    together = await asyncio.gather(*crowd)
    for reply in together[1::2]:
        assert invariant(reply) == invariant(alone)
