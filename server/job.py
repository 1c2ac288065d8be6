"""What travels through the pipeline: a frozen `Job` down, a `Reply` of chunks back up.

Every job has a batch axis: `prompts` is a tuple, and choice `prompt * n + j` is the j-th answer to
prompt number `prompt`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from portia.verdict import Method, Verdict, Vote

if TYPE_CHECKING:
    from kvedit.reading import Reading
    from kvedit.shelf import Shelf
    from pine.segments import Segments
    from server.calibration import Calibration

FinishReason = Literal["stop", "length"]
FormName = Literal["relation", "score", "likert"]
Lettering = Literal["fixed", "random"]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of text; consecutive parts of one group are the documents of an unordered set.

    literal  text of somebody else's: control tokens in it are spelled, not obeyed
    """

    text: str
    group: str | None = None
    literal: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message: a role and its text in parts."""

    role: str
    parts: tuple[Part, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)  # name, tool_calls: for the template


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, used as they are: no special token is added."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text to continue; with `suffix`, text to fill in between (the model's own FIM tokens)."""

    parts: tuple[Part, ...]
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages for the model's chat template."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


Prompt = TokenPrompt | TextPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the defaults are OpenAI's, `None` means "not asked for".

    max_tokens   new tokens per choice; None = up to the context's end
    temperature  0 = greedy
    logprobs     how many alternatives to report per token (0 = the chosen one alone); None = none
    echo         report the prompt too (its text, and its logprobs where `logprobs` is set)
    labels       strings to score at the first new token: the judge's labels
    grammar      what the answer must follow, as llguidance writes it
                 (`LLMatcher.grammar_from_json_schema(schema)`); None = anything
    """

    max_tokens: int | None = None
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


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer before the judge; `index` is its place in the caller's list."""

    id: str
    text: str
    index: int


@dataclass(frozen=True, slots=True)
class Statement:
    """What a judge said before, of the same candidates.

    order    the candidates' places by slot, as it was shown them
    letters  by slot: under which it knew them
    """

    text: str
    order: tuple[int, ...]
    letters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a judge is asked: which of the candidates, shown in `order`, answers best.

    order           places in `candidates` by slot, slot j carries letter j; None = no stage has
                    fixed an order, the caller's is shown
    template        name of a built-in template, or an inline one with named placeholders
    as_documents    True = the candidates are an unordered set (a reading stage sees to that)
    min_label_mass  summed probability of the labels below which an answer counts as unparsed
    lettering       fixed = A, B, ... by slot; random = drawn anew for every order, from the seed
    ranking         how several calls make one ranking; None = kemeny, or borda where it is too long
    evidence        True = the model explains first and ends with its verdict
    parts           each candidate cut into as many parts, shown in turn; () = whole
    debate          statements shown besides the candidates
    """

    question: str
    candidates: tuple[Candidate, ...]
    order: tuple[int, ...] | None = None
    template: str = "plain"
    reference: str | None = None
    criteria: str | None = None
    form: FormName = "relation"
    as_documents: bool = False
    min_label_mass: float = 0.01
    lettering: Lettering = "fixed"
    seed: int = 0
    ranking: Method | None = None
    evidence: bool = False
    parts: tuple[tuple[str, ...], ...] = ()
    debate: tuple[Statement, ...] = ()

    @property
    def slots(self) -> tuple[int, ...]:
        """Return the candidates' places by slot: as a stage fixed them, else the caller's."""
        return self.order or tuple(range(len(self.candidates)))

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the candidates' texts by their places."""
        return tuple(candidate.text for candidate in self.candidates)

    def canonical(self) -> tuple[int, ...]:
        """Return the candidates' places in an order that depends on their content alone."""
        key = [(candidate.text, candidate.id) for candidate in self.candidates]
        return tuple(sorted(range(len(key)), key=key.__getitem__))


@dataclass(frozen=True, slots=True)
class Job:
    """One request on its way to an engine.

    prompts        the batch
    reader         makes the reading for one prompt from its segments and the engine's shelf of
                   shared cache; None = the stock path
    ballot         set for a judge's job until it is rendered into `prompts`
    deterministic  compute it in shapes that do not depend on what else runs: the same bits under
                   any load, at the cost of sharing no forward with other requests
    fingerprint    stands for the model and this software
    stages         names of the plan's stages
    history        a judge's calls before, on the rung below
    calibration    the store of slot biases, or None
    """

    model: str
    sampling: Sampling
    prompts: tuple[Prompt, ...] = ()
    reader: Callable[[Segments, Shelf], Reading] | None = None
    ballot: Ballot | None = None
    deterministic: bool = False
    id: str = ""
    fingerprint: str = ""
    stages: tuple[str, ...] = ()
    history: tuple[Call, ...] = ()
    calibration: Calibration | None = None

    def but(self, **changes: Any) -> Job:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Scored:
    """One token with its natural-log probability and the most likely alternatives."""

    id: int
    text: str
    logprob: float | None = None
    data: bytes = b""
    top: tuple[Scored, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted: prompt, completion, and how many of the prompt came from a cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one choice.

    index          choice: prompt * n + j
    text           what is new since the last chunk; never half a character
    tokens         the tokens behind `text`, scored where logprobs were asked for
    prompt_tokens  with `echo`, once per choice in its first chunk: the prompt, scored likewise
    prompt_text    with `echo`, in the first chunk of the choice: the prompt as text
    labels         natural-log probability of each asked label at the first new token (all its token
                   forms summed), in the first chunk of the choice
    finish_reason  set in the last chunk of the choice
    usage          what the choice has used so far, always in its last chunk; usages of choices add
                   up, since the first choice of a prompt alone counts the prompt's tokens
    notes          what the reading reports, by stage name; in the last chunk
    """

    index: int
    text: str = ""
    tokens: tuple[Scored, ...] = ()
    prompt_tokens: tuple[Scored, ...] = ()
    prompt_text: str = ""
    labels: Mapping[str, float] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of several to the same prompt; `verdict` is None if it could not be read."""

    verdict: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a judge: the ballot shown, and what the model made of it.

    labels    by slot the candidate's letter; then T for a tie, where the form has it
    logprobs  natural-log probability of what may be said, or None where it was not asked for
    verdict   what was said: a letter, a point, scores; None if the answer could not be read
    choice    the slot that this prefers, TIE, or None
    values    by slot, in the form's unit, or None
    samples   the single answers, where there are several
    repeated  True = this prompt was asked before in this request: its answer is used again
    """

    ballot: Ballot
    labels: tuple[str, ...]
    logprobs: Mapping[str, float] | None
    verdict: str | None
    choice: int | None
    values: tuple[float, ...] | None
    text: str
    usage: Usage
    stages: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    repeated: bool = False

    @property
    def order(self) -> tuple[int, ...]:
        """Return the candidates' places by slot."""
        return self.ballot.slots


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes back: a stream of chunks, or a judge's calls; and a note from each stage.

    calls       all of them
    votes       those that decide, candidates by their places
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
