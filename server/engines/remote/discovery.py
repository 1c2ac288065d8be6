"""What another server has: asked once, before anything is served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import openai

from server.engines.remote.access import Access
from server.engines.remote.body import Dialect
from server.engines.remote.wire import Answer, Card, Models
from server.errors import EngineError, PlanError

Logprobs = Literal["auto", "yes", "no"]

ALTERNATIVES = (20, 5, 0)  # asked for in turn: OpenAI's limit, that of others, none
CONTEXT = 131072  # tokens, where nobody says; the server itself refuses what does not fit
NEWER = "max_completion_tokens"  # what some models want instead of max_tokens
OURS = "evenhand"  # owner of its models, by their cards
PROBE = [{"role": "user", "content": "Reply with one letter."}]


@dataclass(frozen=True, slots=True)
class Found:
    """A server's model.

    context   tokens that fit
    refusal   why it offers no log-probabilities, or None
    said      what it says of the model, as far as that stays while the model does
    template  of a judge that the model was trained on, or None
    """

    dialect: Dialect
    context: int
    refusal: str | None
    said: str = ""
    template: str | None = None


def discover(access: Access, model: str | None, logprobs: Logprobs) -> Found:
    """Ask a server for its models, and for one token to see whether it reports probabilities.

    model     None = the first that it lists
    logprobs  auto = ask; yes, no = take the caller's word
    raises    EngineError, PlanError  in one sentence, if it is not there or has no such model
    """
    with openai.OpenAI(**access.options()) as client:
        card = _card(access, client, model)
        ours, context = card.owned_by == OURS, card.context or CONTEXT
        dialect = Dialect(card.id, ours=ours, continues=_continues(card))
        said = f"{card.owned_by} {card.root} {card.fingerprint}"
        known = Found(dialect, context, None, said, card.template if ours else None)
        if logprobs == "auto":
            return _probed(access, client, known)
    if logprobs == "yes":
        return replace(known, dialect=replace(dialect, alternatives=ALTERNATIVES[0]))
    return replace(known, refusal="its operator says that it reports no log-probabilities")


def _card(access: Access, client: openai.OpenAI, model: str | None) -> Card:
    """Return the model asked for, or the first; a server need not list what is named."""
    try:
        with access.translated():
            listed = Models.model_validate(client.get("/models", cast_to=object)).data
    except PlanError:  # it has no such list
        if model is None:
            raise EngineError(
                f"remote server must list its models, got nothing at {access.shown}/models; give "
                "the --remote-url of its API, which often ends in /v1, or name a --remote-model"
            ) from None
        listed = []
    if model is not None:
        return next((card for card in listed if card.id == model), Card(id=model))
    if not listed:
        raise EngineError(
            f"remote server must list a model, got none from {access.shown}; name a --remote-model"
        )
    return listed[0]


def _continues(card: Card) -> bool:
    """Say whether a model continues a last message: vLLM's do, and ours where they say so."""
    return card.owned_by == "vllm" or (card.owned_by == OURS and "continued" in card.chat)


def _probed(access: Access, client: openai.OpenAI, known: Found) -> Found:
    """Return what is known and whether there are log-probabilities, or why not."""
    refusal = "the remote server reports no log-probabilities"
    for alternatives in ALTERNATIVES:
        try:
            dialect, answer = _asked(access, client, known.dialect, alternatives)
        except PlanError as error:
            if error.status == 404:
                raise EngineError(
                    f"remote server must know model {known.dialect.model!r}, got status 404 from "
                    f"{access.shown}/chat/completions; name another --remote-model"
                ) from None
            refusal = f"the remote server refuses log-probabilities: {error.message}"
            continue
        tokens = [token for choice in answer.choices for token in choice.tokens]
        if any(len(token.top) > 1 for token in tokens):
            return replace(known, dialect=replace(dialect, alternatives=alternatives))
        return replace(known, dialect=dialect, refusal=refusal)
    return replace(known, refusal=refusal)


def _asked(
    access: Access, client: openai.OpenAI, dialect: Dialect, alternatives: int
) -> tuple[Dialect, Answer]:
    """Ask for one token with so many alternatives; return the answer, and how it was asked."""
    body: dict[str, Any] = {"model": dialect.model, "messages": PROBE, dialect.limit: 1}
    if alternatives:
        body |= {"logprobs": True, "top_logprobs": alternatives}
    try:
        with access.translated():
            sent = client.post("/chat/completions", cast_to=object, body=body)
            return dialect, Answer.model_validate(sent)
    except PlanError as error:
        if NEWER in error.message and dialect.limit != NEWER:
            return _asked(access, client, replace(dialect, limit=NEWER), alternatives)
        raise
