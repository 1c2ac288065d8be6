"""Marks that stand for somebody else's text while a template is rendered around it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace

from server.errors import PlanError
from server.prompt import ChatPrompt, Part, Prompt, TextPrompt

MARK = re.compile(r"(\[[0-9a-f]{32}\])")


def new_mark() -> str:
    """Return a mark that no caller can guess."""
    return f"[{secrets.token_hex(16)}]"


def hidden(prompt: Prompt) -> tuple[Prompt, Mapping[str, str]]:
    """Put a mark in the place of each literal text, and return the texts by their marks.

    White space around a text stays, for templates that trim what they show.
    """
    literals: dict[str, str] = {}

    def hide(part: Part) -> Part:
        text = part.text.strip()
        if not part.literal or not text:
            return part
        mark = new_mark()
        literals[mark] = text
        before, _, after = part.text.partition(text)
        return replace(part, text=f"{before}{mark}{after}")

    if isinstance(prompt, TextPrompt):
        prompt = replace(prompt, parts=tuple(map(hide, prompt.parts)))
    elif isinstance(prompt, ChatPrompt):
        messages = (replace(each, parts=tuple(map(hide, each.parts))) for each in prompt.messages)
        prompt = replace(prompt, messages=tuple(messages))
    return prompt, literals


def shown(text: str, literals: Mapping[str, str]) -> str:
    """Put the literal texts back in the place of their marks."""
    return MARK.sub(lambda mark: literals.get(mark[0], mark[0]), text)


def check_shown_once(texts: Iterable[str], literals: Mapping[str, str]) -> None:
    """Raise a PlanError if the template dropped, doubled or changed a literal text."""
    seen = [mark for text in texts for mark in MARK.findall(text) if mark in literals]
    if sorted(seen) != sorted(literals):
        raise PlanError(
            "chat template must show each message once where text of others has control tokens in "
            f"it, got {len(literals)} such texts shown {len(seen)} times; remove the tokens from "
            "the text",
            param="messages",
        )
