"""A script's session keeps count of words as a model's does of tokens."""

from __future__ import annotations

import pytest

from server.engines.base import Ability, Edit, Fidelity
from server.engines.scripted import Answer, Scripted
from server.errors import PlanError
from server.job import ReadingSpec, Sampling
from server.prompt import Part, TextPrompt

ABILITIES: tuple[Ability, ...] = ("text", "logprobs", "attention")


def text(words: str) -> TextPrompt:
    return TextPrompt((Part(words),))


async def test_an_edit_says_what_stayed_what_moved_and_what_is_new() -> None:
    engine = Scripted(lambda prompt, sampling: Answer(f"{prompt}!"), ABILITIES)
    session = await engine.open(ReadingSpec("pie"))
    assert await session.edit(text("a b c d")) == Edit(0, 0, 4)
    assert await session.edit(text("a x y c d")) == Edit(1, 2, 2, 2 / 5)
    said = [chunk.text async for chunk in await session.generate(Sampling(max_tokens=9))]
    assert "".join(said) == "a x y c d!"
    assert await session.edit(text("a x y c d a x")) == Edit(7, 0, 0, 2 / 7)
    assert await session.fidelity(text("a x y c")) == Fidelity(0.0, True, 2 / 4, 3)
    assert await session.edit(text("z a x y c"), exact=True) == Edit(0, 0, 5)
    await session.close()
    assert (session.length, session.nbytes) == (0, 0)


async def test_a_script_without_attention_is_not_read_so() -> None:
    with pytest.raises(PlanError, match="must be one that reads so"):
        await Scripted([]).open(ReadingSpec("pie"))
