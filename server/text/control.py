"""The control tokens of a tokenizer, and how to spell them where they must not be obeyed.

`<|end|><|assistant|>A` in somebody else's text would end a turn and answer for the model. In a
literal text it comes out as pieces of ordinary text.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import BPE, Model
from transformers import PreTrainedTokenizerBase

from kvedit.segments import Ids
from server.errors import EngineError, PlanError
from server.text.literal import MARK, check_shown_once, new_mark
from server.text.vocabulary import BYTE_TOKEN, SPACE


def tokenised(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, opening: bool = False
) -> list[Ids]:
    """Tokenise each text on its own.

    opening  whether the first gets the tokens that open a whole prompt
    """
    if opening and len(texts) > 1:
        first = tokenised(tokenizer, texts[:1], opening=True)
        return first + tokenised(tokenizer, texts[1:])
    encoding = tokenizer(
        list(texts), add_special_tokens=opening, return_attention_mask=False, verbose=False
    )
    return [tuple(ids) for ids in encoding["input_ids"]]


class ControlTokens:
    """The special and added tokens of one tokenizer, with which a text could command the model.

    Texts with literal pieces are read by a twin of the tokenizer, in which every control token has
    another name that nobody can guess. The template's own tokens get these names before; so the
    whole prompt is tokenised in one go, as ever, and the old names in it are text like any other.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        model = None if self._backend is None else self._backend.model
        self._names = {
            token_id: token.content
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if _commands(token_id, token, model)
        }
        self._aliases = {name: f"<{secrets.token_hex(16)}>" for name in self._names.values()}
        # no command, and what any text may come out as; a Unigram does not tell which it is
        self._unknown: str | None = getattr(model, "unk_token", tokenizer.unk_token)

    @property
    def ids(self) -> frozenset[int]:
        """Return their ids."""
        return frozenset(self._names)

    def obeyed(self, ids: Ids, own: Counter[str], literals: Sequence[str]) -> bool:
        """Return whether the tokenizer takes something in the literal texts for a control token.

        ids  the whole prompt's
        own  the prompt's control tokens with marks in the place of the literal texts: a token may
             also be made of the end of one text and the beginning of the next
        """
        if self.count(ids) - own:
            return True
        if self._unknown and any(self._unknown in text for text in literals):
            return True
        return any(map(self.count, tokenised(self._tokenizer, literals)))

    def count(self, ids: Ids) -> Counter[str]:
        """Return how often each control token stands there, the unknown token apart."""
        names = (self._names.get(token_id) for token_id in ids)
        return Counter(name for name in names if name is not None and name != self._unknown)

    def literal(self, texts: Sequence[str]) -> list[Ids]:
        """Tokenise each text on its own, all of it literal."""
        found = tokenised(self._tokenizer, texts)
        for place, (text, ids) in enumerate(zip(texts, found, strict=True)):
            if self.count(ids) or (self._unknown and self._unknown in text):
                mark = new_mark()
                [found[place]] = self.spelled([mark], literals={mark: text})
        return found

    def spelled(
        self, texts: Sequence[str], *, opening: bool = False, literals: Mapping[str, str]
    ) -> list[Ids]:
        """Tokenise each text on its own, with the literal texts in the place of their marks.

        opening  whether the first gets the tokens that open a whole prompt
        raises   PlanError  if a literal text is not there exactly once
        """
        check_shown_once(texts, literals)
        found: list[Ids] = []
        for text in texts:
            own = MARK.split(text)  # every second piece is a mark
            own[::2] = self._renamed(own[::2])
            own[1::2] = [literals.get(mark, mark) for mark in own[1::2]]
            encoding = self._twin.encode("".join(own), add_special_tokens=opening and not found)
            found.append(tuple(encoding.ids))
        return found

    def _renamed(self, texts: list[str]) -> list[str]:
        """Return texts with the control tokens that the tokenizer finds in them renamed."""
        encodings = self._tokenizer(texts, add_special_tokens=False, verbose=False).encodings
        if encodings is None:
            raise PlanError(
                "text of others must be free of the model's control tokens, got some and a slow "
                "tokenizer, which cannot spell them; remove them"
            )
        return [self._rename(*each) for each in zip(texts, encodings, strict=True)]

    def _rename(self, text: str, encoding: Encoding) -> str:
        kept, end = [], 0
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            name = self._names.get(token_id)
            unknown = name == self._unknown and name != text[start:stop].strip()
            if name is not None and not unknown:
                kept += [text[end:start], self._aliases[name]]
                end = stop
        return "".join([*kept, text[end:]])

    @cached_property
    def _twin(self) -> Tokenizer:
        """Return the twin; making it takes seconds for a large vocabulary, once."""
        assert self._backend is not None, "slow tokenizers are refused before"
        state = json.loads(self._backend.to_str())
        twin = Tokenizer.from_str(json.dumps(_with_names(state, self._aliases)))
        for token_id, name in self._names.items():
            if (found := twin.token_to_id(self._aliases[name])) != token_id:
                raise EngineError(
                    f"control token {name!r} must keep its id {token_id} under another name, got "
                    f"{found}; remove it from the text"
                )
        return twin


def _commands(token_id: int, token: AddedToken, model: Model | None) -> bool:
    """Return whether an added token is more than a place of its own for ordinary text.

    Runs of white space and single bytes are text. So is a character of the model's own vocabulary,
    and a word that is not special and that the model's merges make anyhow: they have no other
    spelling.
    """
    name = token.content
    if not name.replace(SPACE, " ").strip() or BYTE_TOKEN.fullmatch(name):
        return False
    if len(name) == 1:
        return model is None or model.token_to_id(name) is None
    if token.special or not isinstance(model, BPE) or model.ignore_merges:
        return True
    return [piece.id for piece in model.tokenize(name)] != [token_id]


def _with_names(state: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a tokenizer's state (its tokenizer.json) with tokens renamed.

    In the model's vocabulary too, where a Unigram would find `</s>` by itself. The new names are
    found wherever they stand: they are put where the tokenizer has found the old ones.
    """
    model = state["model"]
    added = [
        {**token, "content": names[token["content"]], "normalized": False, "single_word": False}
        if token["content"] in names
        else token
        for token in state["added_tokens"]
    ]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        renamed: Any = {names.get(token, token): token_id for token, token_id in vocabulary.items()}
    else:
        renamed = [[names.get(token, token), score] for token, score in vocabulary]
    changed = {"vocab": renamed}
    if unknown := model.get("unk_token"):
        changed["unk_token"] = names.get(unknown, unknown)
    if merges := model.get("merges"):
        prefix = model.get("continuing_subword_prefix") or ""
        changed["merges"] = [
            [first, second]
            for first, second in merges
            if not names.keys() & {first, second, first + second.removeprefix(prefix)}
        ]
    # what transformers sets anew for every call
    fresh = {"truncation": None, "padding": None}
    return {**state, **fresh, "added_tokens": added, "model": {**model, **changed}}
