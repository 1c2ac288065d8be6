"""An engine without a model: answers come from a function, a list, or a taste for a slot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, fsum, log

from server.chunk import Chunk, FinishReason, Scored, Usage
from server.concurrency import closed
from server.engines.base import Ability, Edit, Fidelity, ModelInfo, Session
from server.errors import EngineError, PlanError
from server.job import ReadingSpec, Sampling, Work
from server.prompt import ChatAbility, ChatPrompt, FillPrompt, Part, Prompt, TextPrompt

ANSWER = re.compile(
    r"^(?:Answer ([A-Z\d])|([A-Z][a-z]+) answer)(?:, part \d+)?: "
    r"(?:<(text-[0-9a-f]+)>((?s:.*?))</\3>|(.*))$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the script says to one prompt.

    labels  natural-log probability per label, for a prompt that is a ballot
    """

    text: str
    labels: Mapping[str, float] | None = None


Script = Callable[[str, Sampling], Answer]


class Scripted:
    """Streams a script's answers word by word, giving way to others before each word.

    script     called with a prompt's text and the sampling; or a list of answers, one by one
    abilities  what the engine says it offers; without logprobs it reports none
    """

    def __init__(
        self,
        script: Script | Sequence[Answer],
        abilities: Sequence[Ability] = ("text", "logprobs"),
        refusals: Mapping[str, str] | None = None,
    ) -> None:
        self._script = script if callable(script) else one_by_one(script)
        self.offers = frozenset(abilities)
        facts = ("scripted", "scripted", 1 << 20, self.offers, refusals or {})
        takes: frozenset[ChatAbility] = frozenset({"system", "continued"})
        self.info = ModelInfo(*facts, weights="scripted", chat=takes, template="plain")
        self.alive = True
        self.running = 0
        self.works: list[Work] = []

    def refusal(self, reading: ReadingSpec) -> str | None:
        """Return why it cannot read so, if it does not say that it can."""
        if "attention" in self.offers:
            return None
        return self.info.refusals.get("attention", "a script reads nothing")

    async def check(self, work: Work) -> None:
        """Refuse nothing: a script answers everything."""

    async def open(self, reading: ReadingSpec | None = None) -> Session:
        """Return an empty sequence (PlanError if it does not say that it reads so)."""
        reason = None if reading is None else self.refusal(reading)
        if reason is not None:
            raise PlanError(f"engine must be one that reads so, got a script: {reason}")
        return ScriptedSession(self, reading)

    async def generate(self, work: Work) -> AsyncIterator[Chunk]:
        """Return the stream of all choices, one chunk a word (EngineError once closed)."""
        if not self.alive:
            raise EngineError("engine must be open, got work after it was closed; start another")
        self.works.append(work)
        return self._stream(work)

    async def close(self) -> None:
        """Take no more work."""
        self.alive = False

    async def _stream(self, work: Work) -> AsyncIterator[Chunk]:
        self.running += 1
        try:
            for index in range(len(work.prompts) * work.sampling.n):
                prompt = written(work.prompts[index // work.sampling.n])
                for chunk in self._chunks(index, prompt, work.sampling):
                    await asyncio.sleep(0)
                    yield chunk
        finally:
            self.running -= 1

    def _chunks(self, index: int, prompt: str, sampling: Sampling) -> list[Chunk]:
        """Return one choice: a token is a word with the space before it."""
        answer = self._script(prompt, sampling)
        words = re.findall(r"\s*\S+|\s+$", answer.text)[: sampling.max_tokens]
        cut = len("".join(words)) < len(answer.text)
        scored = "logprobs" in self.offers
        asked = scored and sampling.labels and answer.labels is not None
        labels = {name: (answer.labels or {})[name] for name in sampling.labels} if asked else None
        logprob = 0.0 if scored and sampling.logprobs is not None else None
        chunks = [
            Chunk(
                index,
                word,
                (Scored(number, word, logprob, word.encode()),),
                labels=None if number else labels,
            )
            for number, word in enumerate(words)
        ]
        usage = Usage(len(prompt.split()), len(words))
        reason: FinishReason = "length" if cut else "stop"
        end = Chunk(index, labels=None if words else labels, usage=usage, finish_reason=reason)
        return [*chunks, end]


class ScriptedSession:
    """A text that stays before a script (see `server.engines.base.Session`); a token is a word.

    A script reads the whole text for each answer, so an edited one is exact; what a model would
    call stale, the words that moved, is counted all the same.
    """

    def __init__(self, engine: Scripted, reading: ReadingSpec | None) -> None:
        self._engine = engine
        self._reading = reading
        self._prompt: Prompt = TextPrompt(())
        self._words: list[str] = []
        self._stale = 0
        self._edits = 0

    @property
    def length(self) -> int:
        """Return how many words it has."""
        return len(self._words)

    @property
    def nbytes(self) -> int:
        """Return the bytes of its words."""
        return sum(len(word.encode()) for word in self._words)

    @property
    def stale_fraction(self) -> float:
        """Return the share of its words that moved; a script is never idle."""
        return self._stale / max(len(self._words), 1)

    async def feed(self, prompt: Prompt) -> int:
        """Add a prompt at the end."""
        before = len(self._words)
        whole = f"{' '.join(self._words)} {written(prompt)}" if before else written(prompt)
        self._prompt, self._words = TextPrompt((Part(whole),)), whole.split()
        return len(self._words) - before

    async def reusable(self, prompt: Prompt) -> int:
        """Return how many of its words a prompt begins with."""
        return _alike(self._words, written(prompt).split())

    async def edit(self, prompt: Prompt, *, exact: bool = False) -> Edit:
        """Become another prompt; the words before and behind the change stay."""
        old, new = self._words, written(prompt).split()
        reused = _alike(old, new)
        moved = 0 if exact else _alike(old[reused:][::-1], new[reused:][::-1])
        self._prompt, self._words = prompt, new
        self._stale = 0 if exact else max(moved, min(self._stale, len(new)))
        self._edits = 0 if exact else self._edits + bool(old and old != new)
        stale = self._stale / max(len(new), 1)
        return Edit(reused, moved, len(new) - reused - moved, stale)

    async def fidelity(self, prompt: Prompt) -> Fidelity:
        """Edit it; a script says the same to it as to a new text."""
        edit = await self.edit(prompt)
        return Fidelity(0.0, True, edit.stale_fraction, self._edits)

    async def generate(self, sampling: Sampling) -> AsyncIterator[Chunk]:
        """Answer after what it has; the answer's words then belong to it."""
        work = Work((self._prompt,), sampling, self._reading)
        return self._answer(await self._engine.generate(work))

    async def close(self) -> None:
        """Forget the text."""
        self._prompt, self._words = TextPrompt(()), []

    async def _answer(self, stream: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
        try:
            async for chunk in stream:
                self._words += chunk.text.split()
                yield chunk
        finally:
            await closed(stream)


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many words both begin with."""
    pairs = zip(one, other, strict=False)
    return next(
        (at for at, (left, right) in enumerate(pairs) if left != right), min(map(len, (one, other)))
    )


def written(prompt: Prompt) -> str:
    """Return a prompt's text: messages one after the other, or token ids as numbers."""
    if isinstance(prompt, ChatPrompt):
        return "\n".join("".join(part.text for part in each.parts) for each in prompt.messages)
    if isinstance(prompt, TextPrompt):
        return "".join(part.text for part in prompt.parts)
    if isinstance(prompt, FillPrompt):
        return prompt.prefix + prompt.begun
    return " ".join(str(token) for token in prompt.ids)


def one_by_one(answers: Sequence[Answer]) -> Script:
    """Return a script that says each answer once (EngineError after the last)."""
    left = iter(answers)

    def script(prompt: str, sampling: Sampling) -> Answer:
        try:
            return next(left)
        except StopIteration:
            raise EngineError(
                f"script must have an answer left, got none after {len(answers)}; write more"
            ) from None

    return script


def slot_lover(slot: int = 0, lead: float = 2.0) -> Script:
    """Return a judge that always takes one slot, whose logit is `lead` nats above the others'."""
    return content_judge(lambda text, shown: lead if shown == slot else 0.0)


def content_judge(logit: Callable[[str, int], float], tie: float = -9.0) -> Script:
    """Return a judge whose logits depend on an answer's text and its slot, in every form.

    logit  called with an answer's text and its slot
    tie    logit of the tie label, where the prompt has one
    """

    def script(prompt: str, sampling: Sampling) -> Answer:
        logits = {
            letter: logit(text, slot) for slot, (letter, text) in enumerate(answers(prompt).items())
        }
        # behind it there may be what the answer begins with
        task = next((line for line in reversed(prompt.splitlines()) if "answer" in line), "")
        if "a score from" in task:
            found = Answer(" ".join(str(_points(each)) for each in logits.values()))
        elif "is much better" in task:
            lead = fsum((1, -1)[slot] * each for slot, each in enumerate(logits.values()))
            steps = (2, 1, 0, -1, -2) if "both are" in task else (2, 1, -1, -2)
            points = {str(place): -abs(lead - step) for place, step in enumerate(steps, 1)}
            found = chosen(points)
        else:
            found = chosen({**logits, "T": tie} if "for a tie" in task or not logits else logits)
        if "Verdict:" in task:
            return Answer(f"They differ.\nVerdict: [[{found.text}]]")
        return found

    return script


def answers(prompt: str) -> dict[str, str]:
    """Return the answers that a judge's prompt shows, by their labels in the order of the slots.

    Parts are joined; of a text of several lines without tags around it, the first is taken.
    """
    found: dict[str, str] = {}
    for letter, ordinal, tag, fenced, line in ANSWER.findall(prompt):
        label = letter or ordinal.lower()
        found[label] = found.get(label, "") + (fenced if tag else line)
    return found


def _points(logit: float) -> int:
    return min(10, max(1, round(5.5 + logit)))


def chosen(logits: Mapping[str, float]) -> Answer:
    """Return the answer of a judge with these logits per label."""
    total = log(fsum(map(exp, logits.values())))
    return Answer(
        max(logits, key=lambda label: logits[label]),
        {label: logit - total for label, logit in logits.items()},
    )
