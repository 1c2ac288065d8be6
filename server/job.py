"""What travels through the pipeline: a frozen `Job` down, a `Reply` of chunks back up.

A job may have several prompts: choice `prompt * n + j` is the j-th answer to
prompt number `prompt`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from portia.verdict import Verdict, Vote
from server.chunk import Chunk
from server.errors import EngineError
from server.judge.ballot import Ballot, Call, Case
from server.prompt import Prompt

COLDEST = 1e-5  # temperature: logits divided by less may be no numbers (as in vLLM)

Cut = Literal["whole", "set", "source-target"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the defaults are OpenAI's, `None` means "not asked for".

    max_tokens   new tokens per choice; None = up to the context's end
    min_tokens   no end of the answer before so many, except by a stop string
    temperature  0 = greedy, and so is less than `COLDEST`
    logprobs     how many alternatives to report per token (0 = the chosen one alone); None = none
    echo         report the prompt too (its text, and its logprobs where `logprobs` is set)
    labels       strings to score at the first new token: the judge's labels
    grammar      what the answer must follow, as llguidance writes it
                 (`LLMatcher.grammar_from_json_schema(schema)`); None = anything
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    echo: bool = False
    ignore_eos: bool = False
    labels: tuple[str, ...] = ()
    grammar: str | None = None

    @property
    def greedy(self) -> bool:
        """Return whether the likeliest token is taken."""
        return self.temperature < COLDEST


@dataclass(frozen=True, slots=True)
class ReadingSpec:
    """A reading as data: what an engine builds it from, and part of every key of a cache.

    numbers  by name; pairs, so that equal specs have equal hashes
    cut      into what a prompt is cut for it: nothing; prefix, documents, suffix; source and target
    """

    name: str
    numbers: tuple[tuple[str, float], ...] = ()
    cut: Cut = "whole"


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine sees of a job.

    prompts        answered each on its own
    reading        how each prompt is read; None = as the model does it by itself
    deterministic  compute it in shapes that do not depend on what else runs: the same bits under
                   any load, at the cost of sharing no forward with other requests
    """

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    reading: ReadingSpec | None = None
    deterministic: bool = False
    id: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One request on its way to an engine.

    prompts, reading, deterministic  as in `Work`
    case                             what a judge works on, until its ballot is rendered into
                                     `prompts`
    kept                             whether its text is one that stays, and is edited
    """

    model: str
    sampling: Sampling
    prompts: tuple[Prompt, ...] = ()
    reading: ReadingSpec | None = None
    case: Case | None = None
    deterministic: bool = False
    id: str = ""
    kept: bool = False

    def but(self, **changes: Any) -> Job:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @property
    def work(self) -> Work:
        """Return what an engine sees of it."""
        return Work(self.prompts, self.sampling, self.reading, self.deterministic, self.id)

    @property
    def ballot(self) -> Ballot | None:
        """Return what a judge is asked, or None where it is no judge's job."""
        return None if self.case is None else self.case.ballot


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes back: a stream of chunks, or a judge's calls; and a note from each stage.

    calls       all of them
    votes       those that decide, candidates by their indices
    order_free  True = no order can change one of the votes
    rung        name of the rung on which the orders agreed, or None
    verdict     where it is more than the votes say by themselves, else None
    probes      calls that were made about other texts than the candidates
    """

    chunks: AsyncIterator[Chunk] | None = None
    calls: tuple[Call, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    votes: tuple[Vote, ...] = ()
    order_free: bool = False
    rung: str | None = None
    verdict: Verdict | None = None
    probes: tuple[Call, ...] = ()

    @property
    def text(self) -> AsyncIterator[Chunk]:
        """Return the stream of chunks (EngineError where the stages answered otherwise)."""
        if self.chunks is None:
            raise EngineError("stages must answer with text, got a reply without; this is a fault")
        return self.chunks
