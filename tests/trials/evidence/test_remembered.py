"""An engine whose answers are kept: asked once, the same for ever, whatever a crash leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from server.chunk import Chunk
from server.engines.scripted import Answer, Scripted
from server.errors import EngineError
from server.job import ReadingSpec, Sampling, Work
from server.prompt import Part, TextPrompt
from trials.evidence.remembered import Remembered

LABELS = {"A": -0.1, "B": -2.5}


def work(text: str = "Q?", **sampling: object) -> Work:
    asked = Sampling(max_tokens=4, labels=("A", "B"), **sampling)  # type: ignore[arg-type]
    return Work((TextPrompt((Part(text),)),), asked)


def engine() -> Scripted:
    return Scripted(lambda prompt, sampling: Answer(f"said of {prompt}", LABELS))


async def said(remembered: Remembered, asked: Work) -> list[Chunk]:
    return [chunk async for chunk in await remembered.generate(asked)]


def bare(chunks: list[Chunk]) -> list[Chunk]:
    return [replace(chunk, tokens=()) for chunk in chunks]


async def test_what_was_asked_is_kept_over_a_restart(tmp_path: Path) -> None:
    first, other = engine(), engine()
    one = Remembered(first, tmp_path / "answers.jsonl")
    before = await said(one, replace(work(), id="one"))
    spent = one.seconds
    await one.close()
    two = Remembered(other, tmp_path / "answers.jsonl")
    after = await said(two, replace(work(), id="two"))
    await two.close()
    assert bare(after) == bare(before)
    assert after[0].labels == LABELS
    assert len(first.works) == 1 and not other.works
    assert two.seconds == pytest.approx(spent, abs=1e-6)


@pytest.mark.parametrize(
    "different",
    [
        work("R?"),
        work(temperature=0.5),
        replace(work(), reading=ReadingSpec("pine", cut="set")),
        replace(work(), deterministic=True),
    ],
)
async def test_other_work_is_asked(tmp_path: Path, different: Work) -> None:
    asked = engine()
    remembered = Remembered(asked, tmp_path / "answers.jsonl")
    await said(remembered, work())
    await said(remembered, different)
    await remembered.close()
    assert len(asked.works) == 2


async def test_a_torn_line_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    one = Remembered(engine(), file)
    await said(one, work("first"))
    await said(one, work("second"))
    await one.close()
    file.write_bytes(file.read_bytes()[:-7])
    asked = engine()
    two = Remembered(asked, file)
    await said(two, work("first"))
    await said(two, work("second"))
    await two.close()
    assert len(asked.works) == 1
    assert len(file.read_bytes().splitlines()) == 2


async def test_scored_tokens_are_not_kept(tmp_path: Path) -> None:
    asked = engine()
    remembered = Remembered(asked, tmp_path / "answers.jsonl")
    for _ in range(2):
        await said(remembered, work(logprobs=2))
    await remembered.close()
    assert len(asked.works) == 2


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("hello\n")
    with pytest.raises(EngineError, match="earlier run"):
        Remembered(engine(), file)
    assert file.read_text() == "hello\n"
