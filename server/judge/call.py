"""One call of a judge: the ballot shown, the engine asked, the answer read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from portia.verdict import TIE, Vote
from server.chunk import Chunk, Usage
from server.concurrency import closed
from server.engines.base import Ability, Engine
from server.job import Job, Reply, Sampling, Work
from server.judge.ballot import Ballot, Call, Sample
from server.judge.forms import FORMS, LEAST, Said, concluded, majority, mass
from server.judge.letters import TIE as TIE_LABEL
from server.judge.letters import letters
from server.judge.render import render

EVIDENCE_TOKENS = 512  # of an explanation, where the request does not say


async def judge(job: Job, ballot: Ballot, engine: Engine, stages: tuple[str, ...]) -> Reply:
    """Show a ballot to the engine once and read its verdict.

    stages  names of the plan's stages, for the call's record
    """
    chunks = await _collect(await engine.generate(asked(job, ballot, engine)))
    notes = {name: note for chunk in chunks for name, note in chunk.notes.items()}
    return Reply(calls=(replace(read(ballot, chunks), stages=stages),), notes=notes)


def asked(job: Job, ballot: Ballot, engine: Engine) -> Work:
    """Return what the engine is asked about a ballot."""
    sampling = _sampling(job.sampling, ballot, engine.offers)
    return job.but(prompts=(render(ballot),), sampling=sampling).work


def _sampling(sampling: Sampling, ballot: Ballot, offers: frozenset[Ability]) -> Sampling:
    """Return what to ask for, so that the answer can be read."""
    form, known = FORMS[ballot.form], letters(ballot)
    if ballot.evidence:
        return replace(sampling, max_tokens=sampling.max_tokens or EVIDENCE_TOKENS)
    return replace(
        sampling,
        labels=form.labels(known, ballot.names_ties) if "logprobs" in offers else (),
        grammar=form.grammar(known) if "grammar" in offers else None,
        max_tokens=sampling.max_tokens or form.tokens(known),
    )


async def _collect(stream: AsyncIterator[Chunk]) -> list[Chunk]:
    """Return all chunks; whatever happens, the stream is closed, which stops its work."""
    try:
        return [chunk async for chunk in stream]
    finally:
        await closed(stream)


def read(ballot: Ballot, chunks: Sequence[Chunk]) -> Call:
    """Read the verdict: from the labels' probabilities where there are any, else from the text.

    Of several answers to the same prompt, what most of them say.
    """
    form, known = FORMS[ballot.form], letters(ballot)
    answers = _answers(chunks)
    labels = next((chunk.labels for chunk in chunks if chunk.labels is not None), None)
    logprobs, least = _labelled(ballot, labels, form.labels(known, ballot.names_ties))
    if ballot.evidence:
        said = [_ended(ballot, answer) for answer in answers]
    elif logprobs is not None:
        said = [form.weigh(logprobs, known, least)]
    else:
        said = [form.parse(_text(answer), known, ballot.names_ties) for answer in answers]
    found = said[0] if len(said) == 1 else majority(said)
    texts = [_text(answer) for answer in answers]
    samples = [Sample(each.verdict, text) for each, text in zip(said, texts, strict=True)]
    shown = next((sample.text for sample in samples if sample.verdict == found.verdict), texts[0])
    return Call(
        ballot=ballot,
        labels=(*known, TIE_LABEL) if ballot.form == "relation" and ballot.ties else known,
        logprobs=logprobs,
        verdict=found.verdict,
        choice=found.choice,
        values=found.values,
        text=shown,
        usage=_usage(answers),
        samples=tuple(samples) if len(samples) > 1 else (),
    )


def _labelled(
    ballot: Ballot, labels: Mapping[str, float] | None, names: Sequence[str]
) -> tuple[dict[str, float] | None, float]:
    """Return the log-probabilities to read, and the mass that they must have.

    A tie that is named but not allowed is no choice; what it was given says all the same that the
    model has understood, so the others may have little.
    """
    if labels is None:
        return None, 0.0
    found = {name: max(labels[name], LEAST) for name in names}
    least = ballot.min_label_mass
    if ballot.names_ties and not ballot.ties:
        least = least if mass(found) < least else 0.0
        del found[TIE_LABEL]
    return found, least


def _answers(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Return the chunks of each answer, in order of their indices."""
    found: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        found.setdefault(chunk.index, []).append(chunk)
    return [found[index] for index in sorted(found)] or [[]]


def _text(answer: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in answer)


def _ended(ballot: Ballot, answer: Sequence[Chunk]) -> Said:
    """Read an explanation; one that was cut off has no last line."""
    if not answer or answer[-1].finish_reason != "stop":
        return Said()
    return concluded(FORMS[ballot.form], _text(answer), letters(ballot), ballot.ties)


def _usage(answers: Sequence[Sequence[Chunk]]) -> Usage:
    """Return the tokens of all answers; their prompt is one and counts once."""
    ends = [next((each.usage for each in reversed(one) if each.usage), Usage()) for one in answers]
    first = max(ends, key=lambda usage: usage.prompt_tokens)
    return replace(first, completion_tokens=sum(usage.completion_tokens for usage in ends))


def vote(call: Call) -> Vote:
    """Return a call with its slots turned back into candidates, by their indices."""
    order = call.order
    choice = call.choice if call.choice in (None, TIE) else order[call.choice]
    return Vote(order, choice, call.values)
