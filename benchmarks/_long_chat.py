"""A chat that goes on for many windows: what replies are worth, however what was said is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from random import Random

import torch

from benchmarks._figures import UNIT, ratio, table, told
from benchmarks._harness import Row
from benchmarks._loaded import Model
from benchmarks._long_ways import CHUNK, Way, losses
from kvedit.plain import PlainReading
from kvedit.reading import Reading

MARK, ANSWER = "\u241f", "\u241e"  # stand for a question and an answer in a template
MOST = 64  # tokens of a reply
REPEATS, LONGEST = 3, 16  # a reply loops if it ends with a run of so many tokens, so often
BLOCK = 256  # tokens whose pairs are counted together
QUESTIONS = (
    "What should I cook tonight if I only have rice, eggs and two tomatoes?",
    "Can you explain to me why leaves turn red in autumn?",
    "How do I remove a coffee stain from a white shirt?",
    "Tell me a short story about a lighthouse keeper and a storm.",
    "Why did you choose that?",
    "What is the difference between a lake and a pond?",
    "Give me three ideas for a rainy afternoon with two small children.",
    "Which of them costs the least?",
    "How does a bicycle stay upright while it rolls?",
    "Please write a polite message to a neighbour who plays loud music.",
    "Make it shorter, please.",
    "What do I have to think of before I adopt an old dog?",
    "Explain how a loan with a fixed rate works.",
    "I forgot what we talked about first. Can you remind me?",
    "What are good plants for a dark room?",
    "How long can cooked pasta be kept in the fridge?",
    "Tell me something surprising about whales.",
    "Is that true everywhere in the world?",
    "How can I learn ten new words of a language every day?",
    "Describe a small town at the sea in winter.",
    "What would you pack for three days in the mountains?",
    "Why does bread rise?",
    "My train leaves at six and the way takes forty minutes. When should I go?",
    "And if it rains?",
    "Name a good present for a grandfather who likes to fish.",
    "What is a leap year for?",
    "How do I tell my boss that I need a day off?",
    "Please continue the story with the lighthouse keeper.",
    "What makes a good question in an interview?",
    "How does soap get rid of fat?",
    "Suggest a name for a bakery next to a school.",
    "Can you say that in other words?",
    "What should a beginner know about chess?",
    "Why is the sky dark at night although there are so many stars?",
    "How do I keep a wooden table from getting scratches?",
    "Give me one more example.",
    "What can I do when I cannot sleep?",
    "How is paper made from trees?",
    "Write two lines of thanks for a birthday cake.",
    "What was the most useful thing you told me today?",
)


@dataclass(frozen=True)
class Frame:
    """What a template puts around questions and answers: tokens before, between and behind."""

    opening: tuple[int, ...]
    between: tuple[int, ...]
    closing: tuple[int, ...]

    @classmethod
    def of(cls, model: Model) -> Frame:
        """Return a model's own."""
        if not getattr(model.tokenizer, "chat_template", None):
            raise SystemExit("chat must be measured on a model that has a chat template, got none")
        first = [{"role": "user", "content": MARK}]
        more = [*first, {"role": "assistant", "content": ANSWER}, *first]
        alone, both = (
            model.tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True)
            for each in (first, more)
        )
        opening, closing = alone.split(MARK)
        between = both.split(ANSWER)[1].split(MARK)[0]
        return cls(*map(model.ids, (opening, between, closing)))


@dataclass
class Chat:
    """A conversation so far.

    turns  tokens of each: what a template and a question say, and the reply
    """

    frame: Frame
    turns: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """Return all tokens."""
        return [token for asked, said in self.turns for token in (*asked, *said)]

    def asked(self, question: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens of the next question."""
        before = self.frame.between if self.turns else self.frame.opening
        return (*before, *question, *self.frame.closing)


def talk(
    model: Model, way: Way, windows: int, seed: int, temperature: float
) -> list[list[list[int]]]:
    """Return a conversation over so many windows, read one way: its turns, asked and said."""
    chat, window = Chat(Frame.of(model)), way.window
    questions = cycle(Random(seed).sample(QUESTIONS, len(QUESTIONS)))
    generator = torch.Generator().manual_seed(seed)
    kept = None if way.kind in ("again", "cut") else way.reading()
    while len(chat.ids) < windows * window:
        asked = chat.asked(model.ids(next(questions)))
        reading, ids = kept, list(asked)
        if reading is None:
            reading, ids = PlainReading(), _seen(chat, way, asked)
        said = _reply(model, reading, ids, temperature, generator)
        chat.turns.append((asked, said))
    return [[list(asked), list(said)] for asked, said in chat.turns]


def _seen(chat: Chat, way: Way, asked: tuple[int, ...]) -> list[int]:
    """Return what is read anew for a reply: the last tokens, or the last whole turns."""
    room = way.window - MOST
    if way.kind == "again":
        return [*chat.ids, *asked][-room:]
    turns = list(chat.turns)
    while turns:
        ids = [token for question, said in turns for token in (*question, *said)]
        if len(turns) < len(chat.turns):  # a turn behind others: open the chat with it
            ids[: len(chat.frame.between)] = chat.frame.opening
        if len(ids) + len(asked) <= room:
            return [*ids, *asked]
        turns.pop(0)
    first = len(chat.frame.between) if chat.turns else len(chat.frame.opening)
    return [*chat.frame.opening, *asked[first:]]


def _reply(
    model: Model,
    reading: Reading,
    ids: list[int],
    temperature: float,
    generator: torch.Generator,
) -> tuple[int, ...]:
    """Return what is said next; the reading has read all of it but the last token, or an end."""
    logits = torch.empty(0)
    for begin in range(0, len(ids), CHUNK):
        logits = model.door.forward(torch.tensor([ids[begin : begin + CHUNK]]), reading)
    said = list[int]()
    while True:
        scores = logits[0, -1].float()
        if temperature:
            chances = (scores / temperature).softmax(-1)
            token = int(torch.multinomial(chances, 1, generator=generator))
        else:
            token = int(scores.argmax())
        if token in model.control:
            return tuple(said)
        said.append(token)
        logits = model.door.forward(torch.tensor([[token]]), reading)
        if len(said) == MOST:
            return tuple(said)


def worth(model: Model, turns: Sequence[Sequence[Sequence[int]]], window: int) -> list[int]:
    """Return what replies behind the first window are worth.

    returns  their loss with everything in sight, thousandths of a nat; their tokens; how many of
             them loop; how many there are; pairs of tokens that are new in a block; all pairs
    """
    ids = [token for turn in turns for part in turn for token in part]
    lost = losses(model, PlainReading(), ids, None)
    at, loss, said, looped, behind = 0, 0.0, list[int](), 0, 0
    before = set[tuple[int, ...]]()
    for asked, reply in turns:
        begin = at + len(asked)
        at = begin + len(reply)
        if begin >= window and reply:
            loss += sum(lost[begin - 1 : at - 1])
            said += reply
            behind += 1
            looped += loops(reply) or tuple(reply) in before
        before.add(tuple(reply))
    blocks = [said[first : first + BLOCK] for first in range(0, len(said) - BLOCK + 1, BLOCK)]
    pairs = [list(pairwise(block)) for block in blocks]
    new, every = sum(len(set(each)) for each in pairs), sum(map(len, pairs))
    return [round(UNIT * loss), len(said), looped, behind, new, every]


def loops(reply: Sequence[int]) -> bool:
    """Return whether a reply ends with a run of tokens that comes several times.

    Of 1 5 6 5 6 5 6, the last run of 2 comes three times.
    """
    return any(
        len(reply) >= REPEATS * run and all(
            reply[-at - 1] == reply[-at - 1 - run] for at in range((REPEATS - 1) * run)
        )
        for run in range(1, LONGEST + 1)
    )  # fmt: skip


def show(title: str, found: dict[Way, list[list[int]]]) -> list[Row]:
    """Print what replies are worth, by way; return it."""
    shown, rows = [], list[Row]()
    for way, chats in found.items():
        loss = ratio([(lost, UNIT * tokens) for lost, tokens, *_ in chats])
        looped = ratio([(each[2], each[3]) for each in chats])
        new = ratio([(each[4], each[5]) for each in chats])
        replies = sum(each[3] for each in chats)
        shown.append((str(way), str(len(chats)), str(replies), told(loss), told(new), told(looped)))
        for name, figure in (("loss", loss), ("distinct-2", new), ("loops", looped)):
            if figure is not None:
                rows.append(
                    Row(title, f"{way}: {name}", figure[0], "nats" if name == "loss" else "")
                )
    columns = ("", "chats", "replies", "loss, all in sight", f"distinct-2 of {BLOCK}", "loops")
    table(f"{title}: replies behind the first window", columns, shown)
    return rows
