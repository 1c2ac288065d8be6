"""Measure the pocket model: `python -m pocket.evaluate` prints the tables of MODEL_CARD.md.

reading  accuracy by the place of the gold document, plain and with PINE
judging  accuracy, choice of the first slot and flips under a swap, plain and with PINE
skills   what needs no documents: sums, "unknown", a missing word

Every question is asked with its gold document at each place, and every contest in both orders, so
that places differ in nothing but the place.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from kvedit.hf import open_door
from kvedit.segments import Segments
from pine.reading import PineReading
from pocket import WEIGHTS, data

SIZES = (5, 10, 20)  # documents
PLACES = (("first", 0.0), ("1/4", 0.25), ("middle", 0.5), ("3/4", 0.75), ("last", 1.0))
LONGEST_ANSWER = 12  # tokens
ROWS = 32  # prompts of equal length that run together
OPEN, CLOSE = "<|bos|><|user|>\n", "<|end|>\n<|assistant|>\n"

Report = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A prompt in the parts that PINE needs; joined, it is the chat template's text."""

    prefix: str
    documents: tuple[str, ...]
    suffix: str

    @property
    def text(self) -> str:
        """Return the whole prompt."""
        return self.prefix + "".join(self.documents) + self.suffix


@dataclass(frozen=True)
class Reply:
    """A greedy answer.

    text    without the end token
    logits  [vocab] of its first token
    """

    text: str
    logits: Tensor


Answerer = Callable[[Sequence[Prompt]], list[Reply]]


class Pocket:
    """The model with two ways to read a prompt."""

    def __init__(self, folder: Path = WEIGHTS) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.train(False)

    def encode(self, text: str) -> list[int]:
        """Return a text's token ids, without any that mark its start."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def reply(self, tokens: Sequence[int], logits: Tensor) -> Reply:
        """Return an answer's tokens up to the end token as text."""
        end = self.tokenizer.eos_token_id
        kept = tokens[: tokens.index(end)] if end in tokens else tokens
        return Reply(str(self.tokenizer.decode(list(kept))), logits)

    @torch.inference_mode()
    def plain(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """Answer through stock transformers; prompts of equal length share a batch, unpadded."""
        rows = [self.encode(prompt.text) for prompt in prompts]
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(index)
        batches = [
            group[start : start + ROWS]
            for group in by_length.values()
            for start in range(0, len(group), ROWS)
        ]
        replies: dict[int, Reply] = {}
        for batch in track(batches, "plain", console=Console(stderr=True), transient=True):
            tokens, logits = self._greedy(torch.tensor([rows[index] for index in batch]))
            for index, answer, first in zip(batch, tokens, logits, strict=True):
                replies[index] = self.reply(answer, first)
        return [replies[index] for index in range(len(prompts))]

    def _greedy(self, ids: Tensor) -> tuple[list[list[int]], Tensor]:
        output = self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
        first = output.logits[:, -1]
        answer = [first.argmax(-1)]
        while len(answer) < LONGEST_ANSWER:
            if all(self.tokenizer.eos_token_id in row for row in torch.stack(answer, 1).tolist()):
                break
            output = self.model(
                input_ids=answer[-1][:, None], past_key_values=output.past_key_values
            )
            answer.append(output.logits[:, -1].argmax(-1))
        return torch.stack(answer, 1).tolist(), first

    @torch.inference_mode()
    def pine(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """Answer with PINE, the documents a set."""
        door = open_door(self.model)
        replies = []
        for prompt in track(prompts, "PINE", console=Console(stderr=True), transient=True):
            documents = tuple(tuple(self.encode(document)) for document in prompt.documents)
            segments = Segments(
                tuple(self.encode(prompt.prefix)), documents, tuple(self.encode(prompt.suffix))
            ).canonical()
            reading = PineReading(segments)
            first = logits = door.forward(torch.tensor([segments.ids]), reading)[0, -1]
            answer = [int(logits.argmax())]
            while answer[-1] != self.tokenizer.eos_token_id and len(answer) < LONGEST_ANSWER:
                logits = door.forward(torch.tensor([answer[-1:]]), reading)[0, -1]
                answer.append(int(logits.argmax()))
            replies.append(self.reply(answer, first))
        return replies


def reading_prompt(documents: Sequence[str], question: str) -> Prompt:
    """Return a prompt that asks a question about documents."""
    return Prompt(OPEN, tuple(f"{text}\n\n" for text in documents), question + CLOSE)


def judging_prompt(contest: data.Contest, order: Sequence[int]) -> Prompt:
    """Render a contest with candidate `order[slot]` in each slot."""
    lines = (data.judge_line(slot, contest.candidates[index]) for slot, index in enumerate(order))
    head = OPEN + data.judge_head(contest.question, contest.reference)
    return Prompt(head, tuple(lines), data.JUDGE_ORDER + CLOSE)


def moved(problem: data.Retrieval, place: int) -> tuple[str, ...]:
    """Put the gold document at `place`; the others keep their order."""
    others = [text for index, text in enumerate(problem.documents) if index != problem.gold]
    return (*others[:place], problem.documents[problem.gold], *others[place:])


def measure_reading(answer: Answerer, size: int, count: int) -> dict[str, float]:
    """Give the accuracy for each place of the gold document."""
    random = Random(f"evaluate reading {size}")
    problems = [data.retrieval(random, size, random.randrange(size)) for _ in range(count)]
    accuracy = {}
    for name, share in PLACES:
        place = round(share * (size - 1))
        prompts = [reading_prompt(moved(each, place), each.question) for each in problems]
        replies = answer(prompts)
        right = sum(a.text == b.answer for a, b in zip(replies, problems, strict=True))
        accuracy[name] = right / count
    return accuracy


def contests(count: int, candidates: int, tie: float) -> list[data.Contest]:
    """Draw contests about facts: decided ones (tie = 0) or tied ones (tie = 1)."""
    random = Random(f"evaluate judging {candidates} {tie}")
    return [
        data.facts_contest(random, candidates, 1 / candidates, tie, data.HARD) for _ in range(count)
    ]


def chosen(reply: Reply, order: Sequence[int]) -> int | None:
    """Give the candidate that a reply names, None for a tie or anything else."""
    names = dict(zip(data.LABELS, order, strict=False))
    return names.get(reply.text)


def canonical(contest: data.Contest) -> tuple[int, ...]:
    """Order candidates by their text: the slots and labels that PINE gives, whoever comes first."""
    places = range(len(contest.candidates))
    return tuple(sorted(places, key=lambda index: contest.candidates[index]))


def measure_judging(pocket: Pocket, count: int, with_pine: bool) -> Report:
    """Judge two candidates in both orders.

    returns  accuracy        all, and with the winner in the first and in the second slot
             first slot      share of choices between the two that take the caller's first slot
             label A         share of them that take the letter A
             flips           share of contests whose chosen candidate changes when slots swap
             called a tie    share of decided contests
             slot bias       mean of (l1 + l2) / 2, l = logit A - logit B (plain: A is first)
    """
    answer = pocket.pine if with_pine else pocket.plain
    decided = contests(count, 2, tie=0.0)
    picks: list[list[int | None]] = []
    gaps: list[list[float]] = []
    letters = []
    a, b = (pocket.encode(label)[0] for label in "AB")
    for caller in ((0, 1), (1, 0)):
        orders = [canonical(each) if with_pine else caller for each in decided]
        replies = answer(
            [judging_prompt(each, order) for each, order in zip(decided, orders, strict=True)]
        )
        picks.append([chosen(r, order) for r, order in zip(replies, orders, strict=True)])
        gaps.append([float(reply.logits[a] - reply.logits[b]) for reply in replies])
        letters += [reply.text for reply in replies]
    return {"contests": count, **judging_figures(decided, picks, gaps, letters)}


def judging_figures(
    decided: Sequence[data.Contest],
    picks: Sequence[Sequence[int | None]],
    gaps: Sequence[Sequence[float]],
    letters: Sequence[str],
) -> Report:
    """Count what `measure_judging` returns from two passes, the second with slots swapped."""
    count = len(decided)
    winners = [each.winner for each in decided]
    right: list[list[bool]] = [[], []]  # with the winner in the first, in the second slot
    first_slot = []
    for caller, pass_picks in enumerate(picks):  # pass 1 shows candidate 1 first
        for pick, winner in zip(pass_picks, winners, strict=True):
            right[winner != caller].append(pick == winner)
            if pick is not None:
                first_slot.append(pick == caller)
    return {
        "accuracy": sum(map(sum, right)) / (2 * count),
        "accuracy, winner first": sum(right[0]) / count,
        "accuracy, winner second": sum(right[1]) / count,
        "first slot": sum(first_slot) / max(1, len(first_slot)),
        "label A": letters.count("A") / max(1, letters.count("A") + letters.count("B")),
        "flips": sum(one != two for one, two in zip(*picks, strict=True)) / count,
        "called a tie": letters.count(data.TIE) / (2 * count),
        "slot bias": sum(map(sum, gaps)) / (2 * count),
    }


def measure_ties(answer: Answerer, count: int) -> float:
    """Give the share of tied pairs that are called a tie."""
    replies = answer([judging_prompt(each, (0, 1)) for each in contests(count, 2, tie=1.0)])
    return sum(reply.text == data.TIE for reply in replies) / count


def measure_many(pocket: Pocket, count: int, candidates: int, with_pine: bool) -> float:
    """Give the accuracy with one right answer among several, the winner in every slot alike."""
    decided = contests(count, candidates, tie=0.0)
    shown = tuple(range(candidates))
    orders = [canonical(each) if with_pine else shown for each in decided]
    prompts = [judging_prompt(each, order) for each, order in zip(decided, orders, strict=True)]
    replies = (pocket.pine if with_pine else pocket.plain)(prompts)
    picks = (chosen(reply, order) for reply, order in zip(replies, orders, strict=True))
    return sum(pick == each.winner for pick, each in zip(picks, decided, strict=True)) / count


def measure_skills(answer: Answerer, count: int) -> dict[str, float]:
    """Give accuracies of what is not read from a gold document, plain."""
    random = Random("evaluate skills")
    tasks: dict[str, list[tuple[Prompt, str]]] = {"sum": [], "unknown": [], "missing word": []}
    for _ in range(count):
        question, value, _ = data.arithmetic(random)
        tasks["sum"].append((Prompt(OPEN, (), question + CLOSE), value))
        *others, absent = data.people(random, 11)
        attribute, _ = random.choice(absent.facts)
        question = data.ask(random, absent.name, attribute)
        documents = [data.describe(person) for person in others]
        tasks["unknown"].append((reading_prompt(documents, question), "unknown"))
        # The verb of a fact follows from what stands behind it.
        (person,) = data.people(random, 1)
        name, verb, rest = data.sentence(person.name, *person.facts[0]).split(" ", 2)
        text = f"<|bos|><|fim_prefix|>{name}<|fim_suffix|> {rest}<|fim_middle|>"
        tasks["missing word"].append((Prompt(text, (), ""), f" {verb}"))
    scores = {}
    for name, asked in tasks.items():
        replies = answer([prompt for prompt, _ in asked])
        right = sum(a.text == value for a, (_, value) in zip(replies, asked, strict=True))
        scores[name] = right / count
    return scores


def measure(pocket: Pocket, count: int) -> Report:
    """Measure everything.

    count  questions per cell of the reading table; contests are as many
    """
    skills = measure_skills(pocket.plain, count)  # before the door opens: stock in every respect
    reading: Report = {}
    judging: Report = {}
    for name, answer in (("plain", pocket.plain), ("PINE", pocket.pine)):
        reading[name] = {str(size): measure_reading(answer, size, count) for size in SIZES}
        judged = measure_judging(pocket, count, name == "PINE")
        judged["ties called a tie"] = measure_ties(answer, count)
        for several in (3, 5):
            accuracy = measure_many(pocket, count, several, name == "PINE")
            judged[f"accuracy, {several} candidates"] = accuracy
        judging[name] = judged
    return {"count": count, "reading": reading, "judging": judging, "skills": skills}


def show(report: Report, console: Console) -> None:
    """Print the report as three tables."""
    count = report["count"]
    table = Table(title=f"accuracy by place of the gold document, n = {count} per cell")
    for heading in ("documents", "way", *(name for name, _ in PLACES)):
        table.add_column(heading, justify="right")
    for size in SIZES:
        for way, sizes in report["reading"].items():
            cells = sizes[str(size)]
            table.add_row(str(size), way, *(f"{cells[name]:.1%}" for name, _ in PLACES))
    console.print(table)
    table = Table("judge", "plain", "PINE", title=f"{count} contests, each in both orders")
    for key, plain in report["judging"]["plain"].items():
        if key != "contests":
            style = "{:+.2f}" if key == "slot bias" else "{:.1%}"
            both = (style.format(value) for value in (plain, report["judging"]["PINE"][key]))
            table.add_row(key, *both)
    console.print(table)
    table = Table("skill", "accuracy", title=f"plain, n = {count}")
    for name, accuracy in report["skills"].items():
        table.add_row(name, f"{accuracy:.1%}")
    console.print(table)


def main(
    count: Annotated[int, typer.Option(help="Questions per cell.")] = 200,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    weights: Annotated[Path, typer.Option(help="Folder of the model.")] = WEIGHTS,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Measure the pocket model and print the tables of its card."""
    torch.set_num_threads(threads)
    report = measure(Pocket(weights), count)
    show(report, Console())
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
