"""From a ballot to a prompt, and from the engine's answer to a call: one call of a judge."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from server.engines.base import Engine
from server.errors import PlanError
from server.job import Ballot, Call, ChatPrompt, Chunk, Job, Message, Part, Reply, Sampling, Usage

LETTERS = "ABCDEFGHIJKLMNOPQRSUVWXYZ"  # T is the tie
TIE = "T"
GROUP = "candidates"
LEAST = math.log(5e-324)  # a probability of zero has no logarithm on the wire: the least float's

TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "plain": (  # a line whose value is not given is left out
            "Question: {question}\n",
            "Reference: {reference}\n",
            "Criteria: {criteria}\n",
            "{candidates}",
            "Which answer is best? Reply with its letter, or T for a tie.",
        )
    }
)
NAMES = ("question", "reference", "criteria", "candidates")
PLACEHOLDER = re.compile(r"\{([A-Za-z_][^{}\s]*)\}")


async def judge(job: Job, ballot: Ballot, engine: Engine, stages: tuple[str, ...]) -> Reply:
    """Show a ballot to the engine once and read its verdict.

    stages  names of the plan's stages, for the call's record
    """
    asked = labels(ballot) if "logprobs" in engine.offers else ()
    sampling: Sampling = replace(job.sampling, labels=asked)
    stream = await engine.generate(
        job.but(prompts=(render(ballot),), sampling=sampling, ballot=None)
    )
    chunks = await _collect(stream)
    notes = {name: note for chunk in chunks for name, note in chunk.notes.items()}
    return Reply(calls=(replace(read(ballot, chunks), stages=stages),), notes=notes)


async def _collect(stream: AsyncIterator[Chunk]) -> list[Chunk]:
    """Return all chunks; whatever happens, the stream is closed, which stops its work."""
    try:
        return [chunk async for chunk in stream]
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def labels(ballot: Ballot) -> tuple[str, ...]:
    """Return the label of each slot, then the tie's."""
    return (*LETTERS[: len(ballot.candidates)], TIE)


def order_of(ballot: Ballot) -> tuple[int, ...]:
    """Return the candidate indices by slot: as a stage fixed them, else as the caller sent them."""
    return ballot.order or tuple(range(len(ballot.candidates)))


def check_template(ballot: Ballot) -> None:
    """Refuse an inline template that cannot be filled, before anything runs (PlanError)."""
    lines = TEMPLATES.get(ballot.template, (ballot.template,))
    found = [match[1] for line in lines for match in PLACEHOLDER.finditer(line)]
    unknown = [name for name in found if name not in NAMES]
    if unknown:
        raise _refusal(f"must name only {', '.join(NAMES)} in braces", f"{{{unknown[0][:60]}}}")
    if found.count("candidates") != 1:
        known = f"be one of {', '.join(TEMPLATES)}, or contain {{candidates}} once"
        raise _refusal(f"must {known}", f"{ballot.template[:60]!r}")
    given = {"question": ballot.question, **_optional(ballot)}
    for name in given:
        if name not in found:
            raise _refusal(f"must contain {{{name}}}, which the request gives", "none")


def _refusal(rule: str, got: str) -> PlanError:
    return PlanError(f"template {rule}, got {got}; correct the template", param="template")


def _optional(ballot: Ballot) -> dict[str, str]:
    values = {"reference": ballot.reference, "criteria": ballot.criteria}
    return {name: value for name, value in values.items() if value is not None}


def render(ballot: Ballot) -> ChatPrompt:
    """Write a ballot as one user message, its candidates in the ballot's order.

    Placeholders are replaced in one pass over the template, so text that looks like a placeholder
    or a label stays text. With `as_documents` each candidate's line is a document of one set.
    """
    values = {"question": ballot.question, **_optional(ballot)}
    lines = TEMPLATES.get(ballot.template)
    if lines is None:
        template = ballot.template
    else:
        kept = [line for line in lines if not _missing(line, values)]
        template = "".join(kept)
    before, _, after = template.partition("{candidates}")
    group = GROUP if ballot.as_documents else None
    texts = [ballot.candidates[index].text for index in order_of(ballot)]
    shown = [
        Part(f"Answer {label}: {text}\n", group)
        for label, text in zip(labels(ballot), texts, strict=False)
    ]
    ends = (Part(_fill(before, values)), *shown, Part(_fill(after, values)))
    parts = tuple(part for part in ends if part.text)
    return ChatPrompt(messages=(Message("user", parts),))


def _missing(line: str, values: Mapping[str, str]) -> bool:
    names = PLACEHOLDER.findall(line)
    return any(name not in values and name != "candidates" for name in names)


def _fill(template: str, values: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: values.get(match[1], ""), template)


def read(ballot: Ballot, chunks: list[Chunk]) -> Call:
    """Read the verdict: from the labels' probabilities where there are any, else from the text.

    The greatest probability wins; two equal ones at the top are a tie. Labels that hold less than
    `min_label_mass` together, or a text that is not one label, give no verdict: it is not guessed.
    """
    names = labels(ballot)
    found = next((chunk.labels for chunk in chunks if chunk.labels is not None), None)
    text = "".join(chunk.text for chunk in chunks)
    logprobs = None if found is None else {name: max(found[name], LEAST) for name in names}
    return Call(
        order=order_of(ballot),
        labels=names,
        logprobs=logprobs,
        verdict=greatest(logprobs, ballot.min_label_mass) if logprobs else parse(text, names),
        text=text,
        usage=next((chunk.usage for chunk in reversed(chunks) if chunk.usage), Usage()),
    )


def greatest(logprobs: Mapping[str, float], least_mass: float) -> str | None:
    """Return the most probable label, the tie if two are, None below a mass of `least_mass`."""
    if math.fsum(math.exp(logprob) for logprob in logprobs.values()) < least_mass:
        return None
    most = max(logprobs.values())
    best = [label for label, logprob in logprobs.items() if logprob == most]
    return best[0] if len(best) == 1 else TIE


def parse(text: str, names: tuple[str, ...]) -> str | None:
    """Return the label that the whole text is (`A`, `(A)`, `[[A]]`, `A.`), else None."""
    match = re.fullmatch(r"(?:\[\[([A-Z])\]\]|\(([A-Z])\)|([A-Z]))[.,:;!)]?", text.strip())
    label = next((group for group in match.groups() if group), None) if match else None
    return label if label in names else None
