"""From a prompt to a request of OpenAI's protocol: nothing asked for is left out in silence.

What is at OpenAI's default is not sent, since not every server knows every field; the rest is, and
a server that cannot do it says so. (Parts of a set are plain text here, in the order they stand;
control tokens in literal parts are the other server's to handle.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.errors import PlanError
from server.job import Sampling
from server.prompt import (
    ChatPrompt,
    FillOrder,
    FillPrompt,
    Message,
    Part,
    Prompt,
    TextPrompt,
    TokenPrompt,
)

DEFAULTS = Sampling()
AS_THEY_ARE = (
    "top_p", "top_k", "min_p", "min_tokens", "n", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "ignore_eos",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: where it goes, and its body.

    stream  whether the answer is to come as a stream
    """

    path: str
    body: Mapping[str, Any]
    stream: bool


@dataclass(frozen=True, slots=True)
class Dialect:
    """What must be known of a server to write to it.

    model         name that it knows
    alternatives  how many it reports for a token at most; 0 = no log-probabilities at all
    limit         its name of `max_tokens`
    ours          whether it is such a server as this one, which knows `deterministic`
    continues     whether it is known to continue a last message, as vLLM writes that
    """

    model: str
    alternatives: int = 0
    limit: str = "max_tokens"
    ours: bool = False
    continues: bool = False

    def ask(self, prompt: Prompt, sampling: Sampling, *, deterministic: bool = False) -> Ask:
        """Write one prompt down.

        The labels of a judge are read from the alternatives to the first token of a whole answer;
        an echo is whole too, since only then it is known where the prompt ends.

        raises  PlanError  for what has no word in the protocol
        """
        stream = not sampling.labels and not sampling.echo
        body = {"model": self.model, **self._prompt(prompt), **self._numbers(sampling)}
        chat = isinstance(prompt, ChatPrompt)
        body |= self._scores(sampling, chat=chat)
        if deterministic and self.ours:  # of others it cannot be asked
            body["deterministic"] = True
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Ask("/chat/completions" if chat else "/completions", body, stream)

    def _prompt(self, prompt: Prompt) -> dict[str, Any]:
        if isinstance(prompt, TokenPrompt):
            return {"prompt": list(prompt.ids)}
        if isinstance(prompt, TextPrompt):
            return _between(_joined(prompt.parts), prompt.suffix, prompt.order)
        if isinstance(prompt, FillPrompt):
            return _filling(prompt)
        if prompt.tools:
            raise PlanError(
                "tools cannot go to a remote model, since its calls of them could not be passed "
                f"on, got {len(prompt.tools)}; leave them out",
                param="tools",
            )
        messages = {"messages": [_message(message) for message in prompt.messages]}
        return {**messages, **(self._continued() if prompt.continued else {})}

    def _continued(self) -> dict[str, Any]:
        """Return how a last message is continued: others would answer it, or refuse the field."""
        if not self.continues:
            raise PlanError(
                "continue_final_message must go to a server that is known to take it, which are "
                "vLLM and Evenhand, got another; leave it out",
                param="continue_final_message",
            )
        return {"continue_final_message": True, "add_generation_prompt": False}

    def _numbers(self, sampling: Sampling) -> dict[str, Any]:
        """Return how tokens are chosen; temperature always, whose default differs most."""
        body: dict[str, Any] = {"temperature": sampling.temperature}
        for name in AS_THEY_ARE:
            if (value := getattr(sampling, name)) != getattr(DEFAULTS, name):
                body[name] = value
        if sampling.max_tokens is not None:
            body[self.limit] = sampling.max_tokens
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
        if sampling.grammar is not None:
            body["response_format"] = response_format(sampling.grammar)
        if sampling.echo:
            body["echo"] = True
        return body

    def _scores(self, sampling: Sampling, *, chat: bool) -> dict[str, Any]:
        """Return which log-probabilities are asked for."""
        wanted = sampling.logprobs
        if sampling.labels:
            wanted = max(wanted or 0, self.alternatives)
        if wanted is None:
            return {}
        if not chat:
            return {"logprobs": wanted}
        return {"logprobs": True, **({"top_logprobs": wanted} if wanted else {})}


def response_format(grammar: str) -> dict[str, Any]:
    """Return the `response_format` that a grammar was made from.

    >>> response_format(LLMatcher.grammar_from_json_schema('{"type": "object"}'))
    ... # {"type": "json_object"}

    grammar  as llguidance writes it: it keeps a JSON schema as it was
    raises   PlanError  if it is of another kind
    """
    try:
        (only,) = json.loads(grammar)["grammars"]
        schema = {name: rule for name, rule in only["json_schema"].items() if name != "x-guidance"}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise PlanError(
            "response_format must be a JSON schema for a remote model, got another grammar; "
            "leave it out",
            param="response_format",
        ) from None
    if schema == {"type": "object"}:
        return {"type": "json_object"}
    # strict, since this server promises to follow the schema
    described = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": described}


def _filling(prompt: FillPrompt) -> dict[str, Any]:
    """Return an editor's text; other files stand before it as comments and text, whole."""
    files = "".join(f"# {file.name}\n{file.text}\n" for file in prompt.files)
    name = f"# {prompt.name}\n" if prompt.name else ""
    text = f"{files}{name}{prompt.prefix}{prompt.begun}"
    return _between(text, prompt.suffix or None, prompt.order)


def _between(text: str, suffix: str | None, order: FillOrder | None) -> dict[str, Any]:
    """Return a text to continue, or to fill in where there is a suffix."""
    if suffix is None:
        return {"prompt": text}
    if order is not None:
        raise PlanError(
            "fim must be left to a remote model, which writes its prompts itself, got "
            f"{order}; leave it out",
            param="fim",
        )
    return {"prompt": text, "suffix": suffix}


def _message(message: Message) -> dict[str, Any]:
    return {**message.extra, "role": message.role, "content": _joined(message.parts)}


def _joined(parts: tuple[Part, ...]) -> str:
    return "".join(part.text for part in parts)
