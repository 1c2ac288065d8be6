"""MT-Bench: FastChat's questions, model answers and votes; or votes with their conversations.

source  github.com/lm-sys/FastChat, fastchat/llm_judge/common.py: question.jsonl, model_answer/,
        reference_answer/, model_judgment/; huggingface.co/datasets/lmsys/mt_bench_human_judgments
        (arXiv 2306.05685)

Several people vote on one game, so the label is the choice of most, and a draw of votes is a tie.
The second turn is judged with the first in sight: `1. ...`, then `2. ...`, in question and answers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import PlanError
from trials.datasets.item import TIE, Item
from trials.datasets.rows import Row
from trials.datasets.schema import Schema

QUESTIONS = frozenset({"question_id", "turns"})
ANSWERS = frozenset({"question_id", "choices"})
WINNERS = {
    "model_a": 0,
    "model_1": 0,
    "model_b": 1,
    "model_2": 1,
    "tie": TIE,
    "tie (inconsistent)": TIE,
    "tie (bothbad)": TIE,
}


@dataclass(frozen=True, slots=True)
class Game:
    """Two models' answers to one question, up to one turn (1 or 2)."""

    question: str
    models: tuple[str, str]
    turn: int

    @property
    def id(self) -> str:
        """Return the game's name in a record."""
        return f"{self.question}/{self.models[0]}/{self.models[1]}/{self.turn}"


@dataclass(frozen=True, slots=True)
class Votes:
    """The votes on one game, and the first row that has one."""

    row: Row
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def label(self) -> int | None:
        """Return what most say, TIE if as many say another, None if nobody said anything."""
        if not self.counts:
            return None
        most = max(self.counts.values())
        best = [choice for choice, count in self.counts.items() if count == most]
        return best[0] if len(best) == 1 else TIE

    def about(self) -> dict[str, Any]:
        """Return how many votes each choice has, for the record."""
        names = {0: "first", 1: "second", TIE: "tie"}
        return {"votes": {names[choice]: self.counts[choice] for choice in sorted(self.counts)}}


def counted(rows: Iterable[Row]) -> dict[Game, Votes]:
    """Return the votes by game; a game voted on with its models exchanged is the same game."""
    found: dict[Game, Votes] = {}
    for row in rows:
        models = [row.name(name) for name in _models(row)]
        turn = row.fields.get("turn", 1)
        if turn not in (1, 2):
            raise row.fault("turn", "be 1 or 2")
        game = Game(row.name("question_id"), (models[0], models[1]), turn)
        exchanged = Game(game.question, (models[1], models[0]), turn)
        known = exchanged if exchanged in found else game
        votes = found.setdefault(known, Votes(row))
        choice = _choice(row)
        if choice is not None:
            votes.counts[choice if known is game or choice == TIE else 1 - choice] += 1
    return found


def _models(row: Row) -> tuple[str, str]:
    return ("model_a", "model_b") if "model_a" in row.fields else ("model_1", "model_2")


def _choice(row: Row) -> int | None:
    """Return a vote; FastChat's GPT-4 votes in both orders, and there a conflict is a tie."""
    names = ("winner",) if "winner" in row.fields else ("g1_winner", "g2_winner")
    said = []
    for name in names:
        value = row.fields.get(name)
        if value == "error":
            return None
        if not isinstance(value, str) or value not in WINNERS:
            raise row.fault(name, "be model_a, model_b (or model_1, model_2) or tie")
        said.append(WINNERS[value])
    return said[0] if len(set(said)) == 1 else TIE


def _with_conversations(rows: Sequence[Row], seed: int) -> list[Item]:
    """Read votes that carry the conversations they are about."""
    items = []
    for game, votes in counted(rows).items():
        first, second = (_conversation(votes.row, name) for name in "ab")
        question, candidates = first["user"], (first["assistant"], second["assistant"])
        shown = [turn(each, game.turn, votes.row) for each in (question, *candidates)]
        items.append(_item(game, shown, None, votes))
    return items


def _conversation(row: Row, side: str) -> Mapping[str, list[str]]:
    """Return what the user and the assistant said, in turn."""
    name = f"conversation_{side}"
    messages = row.fields.get(name)
    said: dict[str, list[str]] = {"user": [], "assistant": []}
    for message in messages if isinstance(messages, list) else [None]:
        if not isinstance(message, dict) or message.get("role") not in said:
            raise row.fault(name, "be a list of messages of a user and an assistant")
        content = Row(message, f"{name} of {row.where}", row.line).text("content")
        said[message["role"]].append(content)
    return said


def turn(said: Sequence[str], number: int, row: Row) -> str:
    """Return what was said in the first turn, or in both, numbered."""
    if len(said) < number:
        raise PlanError(f"{row.where} must have {number} turns, got {len(said)}; add the other")
    return said[0] if number == 1 else f"1. {said[0]}\n\n2. {said[1]}"


def joined(
    questions: Sequence[Row],
    answers: Mapping[str, Sequence[Row]],
    references: Sequence[Row] = (),
    votes: Sequence[Row] = (),
) -> list[Item]:
    """Join FastChat's files: the games that were voted on, or else every pair of models.

    answers  a file's rows by the model's name
    raises   PlanError  there are fewer than two models, or an answer is missing
    """
    by_id = {row.name("question_id"): row for row in questions}
    said = {model: _by_question(rows) for model, rows in answers.items()}
    right = _by_question(references)
    games = counted(votes) or _every(by_id, sorted(said))
    return [_joined(game, found, by_id, said, right) for game, found in games.items()]


def _every(questions: Mapping[str, Row], models: Sequence[str]) -> dict[Game, Votes]:
    """Return every game that could be played."""
    if len(models) < 2:
        raise PlanError(
            f"MT-Bench must have the answers of two models, got {len(models)}; "
            "put them into model_answer/, or name the files"
        )
    pairs = itertools.combinations(models, 2)
    games = itertools.product(pairs, questions.items(), (1, 2))
    return {
        Game(name, pair, number): Votes(row)
        for pair, (name, row), number in games
        if number <= len(_turns(row))
    }


def _joined(
    game: Game,
    votes: Votes,
    questions: Mapping[str, Row],
    said: Mapping[str, Mapping[str, Row]],
    right: Mapping[str, Row],
) -> Item:
    """Return the item of one game."""
    rows = [questions.get(game.question)]
    rows += [said.get(model, {}).get(game.question) for model in game.models]
    shown = []
    for row, of in zip(rows, ("text", *game.models), strict=True):
        if row is None:
            raise PlanError(
                f"question {game.question} of {votes.row.where} must have its {of}, got none; "
                "name the file that has it"
            )
        shown.append(turn(_turns(row), game.turn, row))
    answer = right.get(game.question)
    reference = None if answer is None else turn(_turns(answer), game.turn, answer)
    return _item(game, shown, reference, votes)


def _by_question(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.name("question_id"): row for row in rows}


def _turns(row: Row) -> list[str]:
    """Return the turns of a question, or of a model's first choice."""
    turns = row.fields.get("turns")
    if "choices" in row.fields:
        choices = row.fields["choices"]
        known = isinstance(choices, list) and choices and isinstance(choices[0], dict)
        turns = choices[0].get("turns") if known else None
    if not isinstance(turns, list) or not all(isinstance(each, str) for each in turns):
        raise row.fault("choices" if "choices" in row.fields else "turns", "hold a list of texts")
    return turns


def _item(game: Game, shown: Sequence[str], reference: str | None, votes: Votes) -> Item:
    question, first, second = shown
    return Item(
        id=game.id,
        question=question,
        candidates=(first, second),
        ids=game.models,
        label=votes.label,
        reference=reference,
        about={"turn": game.turn, **(votes.about() if votes.counts else {})},
    )


VOTES = Schema(
    "mt-bench",
    frozenset({"question_id", "conversation_a", "conversation_b", "winner"}),
    _with_conversations,
)
