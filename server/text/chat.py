"""A model's chat template: messages to text, and what it can show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from server.errors import PlanError
from server.prompt import ChatAbility, ChatPrompt, Message, Part
from server.text.literal import new_mark

NAMED_TEMPLATE = "judge_template"  # a field of tokenizer_config.json


def rendered(tokenizer: PreTrainedTokenizerBase, prompt: ChatPrompt) -> str:
    """Render the chat template; of a prompt to be continued, up to where its last text ends.

    A mark says where that is: transformers' own `continue_final_message` drops white space from the
    end where a template trims, and with it the token that the caller chose.

    raises  PlanError  if the template refuses the messages, or cannot show the last one as it is
    """
    if not tokenizer.chat_template:
        raise PlanError(
            "model must have a chat template for chat, got a tokenizer without one; "
            "use /v1/completions"
        )
    messages = [
        {**each.extra, "role": each.role, "content": joined(each.parts)} for each in prompt.messages
    ]
    end = ""
    if prompt.continued:
        _check_continued(prompt)
        messages[-1]["content"] += (end := new_mark())
    tools: list[Any] | None = [dict(tool) for tool in prompt.tools] or None
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=not prompt.continued
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise PlanError(
            f"messages must suit the model's chat template, got: {error}; change them",
            param="messages",
        ) from error
    return _before(str(text), end) if end else str(text)


def joined(parts: Iterable[Part]) -> str:
    """Return the parts as one text."""
    return "".join(part.text for part in parts)


def takes(tokenizer: PreTrainedTokenizerBase) -> frozenset[ChatAbility]:
    """Return what a chat template shows besides a user's message and a new answer, by trying it."""
    found: set[ChatAbility] = set()
    user, mark = Message("user", (Part("Hello"),)), new_mark()
    if _shows(tokenizer, ChatPrompt((Message("system", (Part(mark),)), user)), mark):
        found.add("system")
    begun = ChatPrompt((user, Message("assistant", (Part(mark),))), continued=True)
    if _shows(tokenizer, begun, mark):
        found.add("continued")
    return frozenset(found)


def named_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return which of a judge's templates a model's own files say that it was trained on."""
    named = tokenizer.init_kwargs.get(NAMED_TEMPLATE)
    return named if isinstance(named, str) else None


def _shows(tokenizer: PreTrainedTokenizerBase, prompt: ChatPrompt, mark: str) -> bool:
    try:
        return rendered(tokenizer, prompt).count(mark) == 1
    except PlanError:
        return False


def _check_continued(prompt: ChatPrompt) -> None:
    """Refuse to continue a message that goes on after its text (PlanError)."""
    if prompt.messages[-1].extra.get("tool_calls"):
        raise PlanError(
            "continue_final_message must have a last message of text alone, got one with "
            "tool_calls; remove them",
            param="continue_final_message",
        )


def _before(text: str, mark: str) -> str:
    """Return what stands before a mark (PlanError if the chat template did not show it once)."""
    if text.count(mark) != 1:
        raise PlanError(
            "chat template must show the last message once for it to be continued, got it "
            f"{text.count(mark)} times; leave continue_final_message out",
            param="continue_final_message",
        )
    return text.partition(mark)[0]
