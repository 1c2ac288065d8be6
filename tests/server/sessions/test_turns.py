"""One sequence for each chat without end: found by what it has read, and never somebody else's."""

from __future__ import annotations

from typing import Any

import pytest

from server.engines.base import Ability
from server.engines.scripted import Answer, Scripted
from server.job import ReadingSpec, Sampling, Work
from server.prompt import ChatPrompt, FillPrompt, Message, Part, Prompt, TextPrompt
from server.sessions.implicit import Implicit

ABILITIES: tuple[Ability, ...] = ("text", "logprobs", "attention")
NUMBERS = (("first", 10), ("window", 512), ("cap", 512))
ENDLESS = ReadingSpec("lm-infinite", NUMBERS)
SAID = "yes it is"
TALK = " ".join(f"talk{number}" for number in range(20))
OTHER = " ".join(f"other{number}" for number in range(20))


def kept(**given: Any) -> Implicit:
    engine = Scripted(lambda prompt, sampling: Answer(SAID), ABILITIES)
    return Implicit(engine, **{"most": 4, "budget": 1 << 20, "idle": 60.0, **given})


def chat(*texts: str) -> ChatPrompt:
    roles = ("user", "assistant")
    pairs = enumerate(texts)
    return ChatPrompt(tuple(Message(roles[at % 2], (Part(text),)) for at, text in pairs))


def work(prompt: Prompt, reading: ReadingSpec | None = ENDLESS, **numbers: Any) -> Work:
    return Work((prompt,), Sampling(**numbers), reading)


async def ask(sequences: Implicit, asked: Work, client: str = "me") -> None:
    chunks = [chunk async for chunk in await sequences.of(client).generate(asked)]
    assert "".join(chunk.text for chunk in chunks) == SAID
    assert "edit" not in chunks[-1].notes


def lengths(sequences: Implicit) -> list[int]:
    return [each.session.length for each in sequences._pool._kept]


async def test_the_next_turn_goes_on_where_the_sequence_is() -> None:
    sequences = kept()
    turns = [TALK]
    for turn in range(5):
        await ask(sequences, work(chat(*turns)))
        assert lengths(sequences) == [20 + 3 + 8 * turn]
        turns += [SAID, "and five more words now"]
    assert len(sequences) == 1


async def test_another_talk_and_another_client_have_their_own() -> None:
    sequences = kept()
    for text, client in ((TALK, "me"), (OTHER, "me"), (TALK, "you")):
        await ask(sequences, work(chat(text)), client)
    assert lengths(sequences) == [23, 23, 23]
    await ask(sequences, work(chat(OTHER, SAID, "go on")))
    assert lengths(sequences) == [23, 28, 23]


async def test_a_prompt_that_shares_little_leaves_the_sequence_alone() -> None:
    sequences = kept()
    await ask(sequences, work(chat(TALK, SAID, OTHER)))
    await ask(sequences, work(chat(TALK, "no", OTHER)))
    assert len(sequences) == 2
    await ask(sequences, work(chat(TALK, SAID, OTHER, SAID, "go on")))
    assert sorted(lengths(sequences)) == [44, 51]


async def test_other_windows_are_other_sequences() -> None:
    sequences = kept()
    await ask(sequences, work(chat(TALK)))
    other = ReadingSpec("lm-infinite", (("first", 10), ("window", 64), ("cap", 64)))
    await ask(sequences, work(chat(TALK), other))
    slacks = [dict(each.about.reading.numbers)["slack"] for each in sequences._pool._kept]
    assert slacks == [512, 64]


async def test_files_and_chats_share_one_budget() -> None:
    sequences = kept(most=2)
    await ask(sequences, work(chat(TALK)))
    filled = Work((FillPrompt("a b", "c"),), Sampling())
    for _ in range(2):
        assert [chunk async for chunk in await sequences.of("me").generate(filled)]
    assert len(sequences) == 2
    await ask(sequences, work(chat(OTHER)))
    assert [type(each.about).__name__ for each in sequences._pool._kept] == ["File", "Turn"]


async def test_a_sequence_at_work_makes_nobody_wait() -> None:
    sequences = kept()
    await ask(sequences, work(chat(TALK)))
    stream = await sequences.of("me").generate(work(chat(TALK, SAID, "go on")))
    await anext(stream)
    await ask(sequences, work(chat(TALK, SAID, "go back")))
    assert len(sequences) == 1
    await getattr(stream, "aclose")()  # noqa: B009  an iterator need not have it
    await ask(sequences, work(chat(TALK, SAID, "go on")))
    assert lengths(sequences) == [28]


async def test_one_that_was_dropped_while_it_was_looked_for_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sequences = kept()
    await ask(sequences, work(chat(TALK)))
    [known] = sequences._pool._kept

    async def reusable(prompt: Prompt) -> int:
        await sequences._pool.drop(known)
        return 23

    monkeypatch.setattr(known.session, "reusable", reusable)
    await ask(sequences, work(chat(TALK)))
    assert (len(sequences), known.session.length) == (0, 0)


@pytest.mark.parametrize(
    "asked",
    [
        work(chat(TALK), None),
        work(chat(TALK), ReadingSpec("pine", cut="set")),
        work(chat(TALK), ReadingSpec("lm-infinite", (*NUMBERS, ("recall", 5)))),
        work(chat(TALK), n=2),
        work(chat(TALK), echo=True),
        Work((chat(TALK), chat(TALK)), Sampling(), ENDLESS),
        Work((chat(TALK),), Sampling(), ENDLESS, deterministic=True),
        work(TextPrompt((Part(TALK),), "suffix")),
    ],
)
async def test_other_work_goes_to_the_engine(asked: Work) -> None:
    sequences = kept()
    assert [chunk async for chunk in await sequences.of("me").generate(asked)]
    assert not len(sequences)
