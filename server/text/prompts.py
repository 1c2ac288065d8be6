"""From a prompt to token ids; under a reading, to prefix, documents and suffix."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from kvedit.segments import Ids, Segments
from server.errors import PlanError
from server.job import Cut
from server.prompt import (
    ChatPrompt,
    DocumentSet,
    FillPrompt,
    Part,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from server.text.chat import joined, rendered
from server.text.control import ControlTokens, tokenised
from server.text.fim import Filled, Filler
from server.text.literal import hidden, new_mark, shown
from server.text.vocabulary import Vocabulary

KNOWN = 256  # prompts whose control tokens are remembered
CHECKED = 32  # prompts that were checked and may come again at once


class Tokenise(Protocol):
    """A way to tokenise each text on its own, the first perhaps as the opening of a prompt."""

    def __call__(self, texts: Sequence[str], *, opening: bool = False) -> list[Ids]:
        """Return the ids of each text."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the model takes it.

    ids       the whole prompt, in physical order
    text      the prompt as text, for `echo`
    segments  its parts under a reading, in canonical order
    ends      ids that end its answer, besides those that end every one
    left_out  what of it the context had no room for, in numbers
    """

    ids: Ids
    text: str
    segments: Segments | None = None
    ends: frozenset[int] = frozenset()
    left_out: Mapping[str, int] = field(default_factory=dict)


class Encoder:
    """Turns prompts into token ids; not safe for two threads at once, like the tokenizer it uses.

    limit   the model's context, tokens: text that cannot fit is refused before it is tokenised
    advice  what else than a shorter text would do, for the refusal
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        limit: int,
        advice: str = "",
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._limit = limit
        self._advice = advice
        self._control = ControlTokens(tokenizer)
        self._filler = Filler(tokenizer, limit)
        self._known: dict[str, Counter[str]] = {}
        self._checked: deque[tuple[Prompt, Cut, Encoded]] = deque(maxlen=CHECKED)

    @property
    def control(self) -> frozenset[int]:
        """Return the ids that a text could command the model with: marks of turns, files, holes."""
        return self._control.ids

    def check(self, prompt: Prompt, cut: Cut = "whole", *, endless: bool = False) -> Encoded:
        """Return the prompt's ids as `encode`, which will soon be asked for an equal prompt."""
        encoded = self.encode(prompt, cut, endless=endless)
        self._checked.append((prompt, cut, encoded))
        return encoded

    def encode(self, prompt: Prompt, cut: Cut = "whole", *, endless: bool = False) -> Encoded:
        """Return the prompt's ids.

        cut      into what, as the reading that will read it says
        endless  whether it may be longer than the context
        raises   PlanError  if the prompt has no ids, or cannot be cut so
        """
        for checked in self._checked:
            if checked[:2] == (prompt, cut):
                self._checked.remove(checked)
                return checked[2]
        return self._encode(prompt, self._cut(cut), endless)

    def more(self, prompt: Prompt, *, endless: bool = False) -> Encoded:
        """Return the ids of what follows a prompt: without the tokens that open one (PlanError)."""
        return self._encode(prompt, self._following, endless)

    def _encode(
        self, prompt: Prompt, encode: Callable[[Prompt, Tokenise], Encoded], endless: bool
    ) -> Encoded:
        encoded = encode(prompt, self._any_length if endless else self._tokenise)
        if not encoded.ids:
            raise PlanError("prompt must have at least one token, got none; send some text")
        bare, literals = hidden(prompt)
        if not literals:
            return encoded
        own = self._own_commands(bare, literals, encode)
        if not self._control.obeyed(encoded.ids, own, [*literals.values()]):
            return encoded
        spelled = encode(bare, partial(self._control.spelled, literals=literals))
        return replace(spelled, text=shown(spelled.text, literals))

    def _cut(self, cut: Cut) -> Callable[[Prompt, Tokenise], Encoded]:
        """Return the method that encodes a prompt cut so."""
        if cut == "source-target":
            return self._halves
        return self._segments if cut == "set" else self._whole

    def _own_commands(
        self,
        bare: Prompt,
        literals: Mapping[str, str],
        encode: Callable[[Prompt, Tokenise], Encoded],
    ) -> Counter[str]:
        """Return the control tokens of a prompt but for its literal texts: often the same prompt.

        bare    with marks in the place of the literal texts
        encode  the method that encodes it
        """
        key = f"{encode.__name__} {bare!r}"
        for mark in literals:
            key = key.replace(mark, "[]")
        if key not in self._known:
            if len(self._known) == KNOWN:
                self._known.clear()
            without = encode(bare, partial(tokenised, self._tokenizer))
            self._known[key] = self._control.count(without.ids)
        return self._known[key]

    def _whole(self, prompt: Prompt, tokenise: Tokenise) -> Encoded:
        if isinstance(prompt, TokenPrompt):
            self._check_ids(prompt.ids)
            return Encoded(prompt.ids, self._decode(prompt.ids))
        if isinstance(prompt, FillPrompt):
            text = prompt.prefix + prompt.begun
            return _filled(self._filler.fill(prompt, self._control.literal), text)
        text = self._text(prompt)
        if isinstance(prompt, ChatPrompt):
            return Encoded(tokenise([text])[0], text)
        if prompt.suffix is None:
            return Encoded(tokenise([text], opening=True)[0], text)
        return _filled(self._filler.between(text, prompt.suffix, tokenise, prompt.order), text)

    def _following(self, prompt: Prompt, tokenise: Tokenise) -> Encoded:
        if isinstance(prompt, TextPrompt) and prompt.suffix is None:
            text = self._text(prompt)
            return Encoded(tokenise([text])[0], text)
        return self._whole(prompt, tokenise)

    def _segments(self, prompt: Prompt, tokenise: Tokenise) -> Encoded:
        """Cut the rendered prompt at its set of documents, and tokenise each piece on its own."""
        if isinstance(prompt, TokenPrompt):
            raise PlanError(
                "prompt must be text under a reading stage, got token ids; send text, `documents`"
            )
        if isinstance(prompt, FillPrompt) or (
            isinstance(prompt, TextPrompt) and prompt.suffix is not None
        ):
            raise PlanError(
                "suffix cannot go with a reading stage, got both; leave one of them out",
                param="suffix",
            )
        found = _only_set(prompt)
        mark = new_mark()
        text = self._text(prompt.instead(found, Part(mark)))
        if text.count(mark) != 1:
            raise PlanError(
                "chat template must show each message once, got the documents "
                f"{text.count(mark)} times; leave the reading stage out",
                param="documents",
            )
        before, after = text.split(mark)
        texts = [before, *(part.text for part in found.documents), after]
        prefix, *pieces, suffix = tokenise(texts, opening=isinstance(prompt, TextPrompt))
        segments = Segments(prefix, tuple(pieces), suffix).canonical()
        return Encoded(segments.ids, self._decode(segments.ids), segments)

    def _halves(self, prompt: Prompt, tokenise: Tokenise) -> Encoded:
        """Cut a chat behind its last message, where a source that is still to come will stand.

        What follows, the turn's end and the header of the answer, is the target's: so the model
        always sees a turn that is closed. The halves are prefix and suffix of the segments.
        """
        if not isinstance(prompt, ChatPrompt) or prompt.continued:
            raise PlanError(
                "prompt must be messages before a source that is streamed, got another; send "
                "`messages`, the last one with the instruction",
                param="messages",
            )
        mark = new_mark()
        *before, last = prompt.messages
        ending = replace(last, parts=(*last.parts, Part(mark)))
        text = rendered(self._tokenizer, replace(prompt, messages=(*before, ending)))
        if text.count(mark) != 1:
            raise PlanError(
                "chat template must show each message once, got the source's place "
                f"{text.count(mark)} times; serve a model with another template",
                param="messages",
            )
        head, tail = tokenise(text.split(mark))
        if not tail:
            raise PlanError(
                "chat template must have a mark before an answer, got none; serve a model of chats",
                param="messages",
            )
        return Encoded(head + tail, text.replace(mark, ""), Segments(head, (), tail))

    def _text(self, prompt: TextPrompt | ChatPrompt) -> str:
        """Return the prompt as text, without the suffix that an answer leads to."""
        if isinstance(prompt, TextPrompt):
            return joined(prompt.parts)
        return rendered(self._tokenizer, prompt)

    def _tokenise(self, texts: Sequence[str], *, opening: bool = False) -> list[Ids]:
        """Tokenise each text on its own; PlanError at once if they cannot fit the context."""
        least = sum(map(len, texts)) // max(self._vocabulary.longest, 1)
        if least > self._limit:
            raise self.overflow(f"at least {least}")
        return self._any_length(texts, opening=opening)

    def _any_length(self, texts: Sequence[str], *, opening: bool = False) -> list[Ids]:
        """Tokenise each text on its own."""
        return tokenised(self._tokenizer, texts, opening=opening)

    def overflow(
        self, prompt: int | str, new: int | None = None, *, advised: bool = True
    ) -> PlanError:
        """Return the error of a prompt that does not fit, in the words clients look for.

        new      tokens that were asked for behind it
        advised  whether what else would do, would do here
        """
        advice = self._advice if advised else ""
        wanted = f"{prompt} tokens in the prompt"
        if new is not None:
            wanted += f" and {new} for the completion"
        return PlanError(
            f"This model's maximum context length is {self._limit} tokens. However, you requested "
            f"{wanted}; shorten the prompt or ask for fewer tokens{advice} "
            "(context_length_exceeded)",
            code="context_length_exceeded",
        )

    def _decode(self, ids: Ids) -> str:
        return b"".join(self._vocabulary.data[token_id] for token_id in ids).decode(
            "utf-8", "replace"
        )

    def _check_ids(self, ids: Ids) -> None:
        size = self._vocabulary.size
        wrong = next((token_id for token_id in ids if not 0 <= token_id < size), None)
        if wrong is not None:
            raise PlanError(
                f"token ids must be at least 0 and below {size}, got {wrong}; tokenise the prompt "
                "with this model's tokenizer",
                param="prompt",
            )


def _filled(filled: Filled, text: str) -> Encoded:
    return Encoded(filled.ids, text, ends=filled.ends, left_out=filled.left_out)


def _only_set(prompt: TextPrompt | ChatPrompt) -> DocumentSet:
    """Return the prompt's only set of documents (PlanError)."""
    if len(prompt.sets) != 1:
        raise PlanError(
            f"prompt must have one set of documents under a reading stage, got {len(prompt.sets)}; "
            "send `documents`, or content parts of one `group` next to each other",
            param="documents",
        )
    [found] = prompt.sets
    if any(not part.text.strip() for part in found.documents):
        raise PlanError("document must have text, got an empty one; remove it", param="documents")
    return found
