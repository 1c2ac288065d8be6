"""A source and a target in the worker: as the plain model reads, and nothing is read again."""

import asyncio

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from server.engines.hf.engine import HfEngine
from server.engines.hf.groups import HfGroups
from server.errors import PlanError
from server.job import ReadingSpec, Sampling
from server.prompt import ChatPrompt, Message, Part
from server.text.prompts import Encoded

GREEDY = Sampling(temperature=0.0)
SPEC = ReadingSpec("group-positions", cut="source-target")
PROMPT = ChatPrompt((Message("user", (Part("Say it again: "),)),))
PIECES = ["the", " cat", " sat", " on", " the", " mat"]


async def opened(engine: HfEngine, spec: ReadingSpec = SPEC) -> HfGroups:
    return await engine.open_groups(spec, PROMPT, GREEDY)


def ids_of(groups: HfGroups) -> tuple[list[int], list[int]]:
    inner = groups._open
    return list(inner._unread), list(inner._target)


async def test_all_at_once_is_the_plain_model(engine: HfEngine, stock: LlamaForCausalLM) -> None:
    groups = await opened(engine)
    for piece in PIECES:
        await groups.read(piece)
    groups.end()
    source, target = ids_of(groups)
    said = []
    for _ in range(8):
        said.append(await groups.say())
        groups.write(said[-1])
    ids = torch.tensor([source + target])
    for _ in range(8):
        ids = torch.cat((ids, stock(ids).logits[:, -1:].argmax(-1)), 1)
    assert said == ids[0, -8:].tolist()
    await groups.close()


async def test_a_read_costs_the_source_and_one_token(engine: HfEngine) -> None:
    groups = await opened(engine)
    await groups.read(PIECES[0])
    for _ in range(20):
        groups.write(await groups.say())
    await groups.say()
    before = groups.usage
    count = await groups.read(PIECES[1])
    await groups.say()
    after = groups.usage
    assert after["source_tokens_fed"] - before["source_tokens_fed"] == count
    assert after["target_tokens_fed"] - before["target_tokens_fed"] == 1
    await groups.close()


async def test_what_is_taken_back_leaves_nothing(engine: HfEngine) -> None:
    one, other = await opened(engine), await opened(engine)
    for groups in (one, other):
        await groups.read(PIECES[0])
        groups.write(await groups.say())
    for _ in range(3):
        one.write(await one.say())
    await one.retract(3)
    for groups in (one, other):
        await groups.read(PIECES[1])
    for _ in range(4):
        token = await one.say()
        assert token == await other.say()
        one.write(token)
        other.write(token)


async def test_closed_it_does_nothing(engine: HfEngine) -> None:
    groups = await opened(engine)
    await groups.read(PIECES[0])
    await groups.say()
    assert groups.nbytes > 0
    waiting = asyncio.create_task(groups.say())
    await asyncio.sleep(0)
    await groups.close()
    with pytest.raises(PlanError, match="stream must be open"):
        await waiting
    assert groups.nbytes == 0


async def test_a_source_that_does_not_fit_is_refused(engine: HfEngine) -> None:
    groups = await opened(engine)
    with pytest.raises(PlanError, match="context"):
        await groups.read("cat " * engine.info.max_model_len)
    assert await groups.read("the") > 0
    await groups.say()


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.text(alphabet="ab,.é你'", min_size=1, max_size=5), min_size=1, max_size=9))
def test_piece_by_piece_the_ids_are_those_of_the_whole(engine: HfEngine, words: list[str]) -> None:
    async def run() -> None:
        groups = await opened(engine)
        for number, word in enumerate(words):
            await groups.read(" " * (number > 0) + word)
        whole = await opened(engine)
        await whole.read(" ".join(words))
        assert ids_of(groups) == ids_of(whole)

    asyncio.run(run())


async def test_the_answers_header_is_the_targets(engine: HfEngine) -> None:
    encoded: Encoded = engine._preparation.encode(PROMPT, SPEC)
    whole = engine._preparation.encode(PROMPT, None)
    assert encoded.ids == whole.ids
    assert encoded.segments is not None
    assert encoded.segments.suffix
