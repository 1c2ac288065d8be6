"""What is found where: on a scripted reader that reads the first document alone."""

from __future__ import annotations

from pathlib import Path

from server.engines.scripted import Answer, Scripted
from server.job import Sampling
from trials.evidence.places import against_plain, measured, plain_mean
from trials.evidence.questions import Question
from trials.evidence.remembered import Remembered

QUESTION = "Which?\n\n{documents}\nSay it."


def reads_the_first(prompt: str, sampling: Sampling) -> Answer:
    return Answer(prompt.split("\n\n")[1].split(":")[0])


def questions(count: int) -> list[Question]:
    return [
        Question(f"q{n}", f"gold{n}: it\n", ("x: no\n", "y: no\n"), (f"gold{n}",), QUESTION, 4)
        for n in range(count)
    ]


async def test_a_reader_of_the_first_is_right_there_alone(tmp_path: Path) -> None:
    engine = Remembered(Scripted(reads_the_first), tmp_path / "answers.jsonl")
    ways = {way.name: way for way in await measured(questions(6), engine)}
    await engine.close()
    assert ways["plain, first"].accuracy.value == 1
    assert ways["plain, middle"].accuracy.value == ways["plain, last"].accuracy.value == 0
    plain = plain_mean(list(ways.values()))
    assert plain.value == 1 / 3
    assert plain.bootstrap == (1 / 3, 1 / 3)
    assert ways["pine"].reason is not None and "attention" in ways["pine"].reason


async def test_a_set_is_held_against_the_mean_of_places(tmp_path: Path) -> None:
    script = Scripted(reads_the_first, ("text", "logprobs", "attention"))
    engine = Remembered(script, tmp_path / "answers.jsonl")
    ways = await measured(questions(6), engine)
    await engine.close()
    pine = next(way for way in ways if way.name == "pine")  # a script is shown the gold one first
    assert pine.accuracy.value == 1
    assert against_plain(pine, ways).value == 2 / 3
