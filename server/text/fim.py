"""Fill in the middle, with the tokenizer's own tokens.

Two orders of a prompt are in use. PSM is prefix, suffix, middle. SPM begins with the suffix, so
that typing only appends; models learn it as `PRE SUF suffix MID prefix` (Bavarian et al., arXiv
2207.14255, section 3): the answer goes on where the prefix ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from kvedit.segments import Ids
from server.errors import PlanError
from server.prompt import File, FillOrder, FillPrompt
from server.text.room import shares, up
from server.text.vocabulary import SPACE

REPOSITORY, UNNAMED = "repository", "filename"  # where a format wants a name, and none is given
RESERVED = 8  # 1/8 of the context is the answer's at least, so that it seldom moves what is cut
STEPS = 16  # what is cut grows in steps of 1/16 of the context
MOST_CHARACTERS = 16  # for each token of room: longer texts are cut before they are tokenised
LEAD = "\u263a"  # stands before a text that goes on within another: no merge crosses it

TokeniseAll = Callable[[Sequence[str]], list[Ids]]


@dataclass(frozen=True, slots=True)
class Format:
    """One family's tokens, by what they stand before.

    middle      the answer; empty = it follows the prefix at once, which the suffix then precedes
    repository  the repository's name; empty = it is not told
    file        a file's name; empty = other files are comments and text at the prefix's beginning
    compact     whether a file's own name stands within its prefix, and the repository's without
                the end of a line
    """

    prefix: str
    suffix: str
    middle: str = ""
    repository: str = ""
    file: str = ""
    compact: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """Return the tokens without which a prompt cannot be written."""
        return tuple(filter(None, (self.prefix, self.suffix, self.middle)))

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return all its tokens."""
        return (*self.needed, *filter(None, (self.repository, self.file)))


_STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
_PIPES = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
FORMATS = (  # the first that a tokenizer has all tokens of is its own
    Format(*_PIPES, "<|repo_name|>", "<|file_sep|>"),  # Qwen2.5-Coder, Qwen3-Coder
    Format(*_PIPES, "<|reponame|>", "<|filename|>"),  # Granite 4
    Format(*_PIPES),
    Format(*_STARCODER, "<repo_name>", "<file_sep>", compact=True),  # StarCoder2
    Format(*_STARCODER, "<reponame>", "<filename>", compact=True),  # StarCoder, Granite Code
    Format(*_STARCODER),
    Format("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    Format("<PRE>", "<SUF>", "<MID>"),  # CodeLlama, in two spellings
    Format(f"{SPACE}<PRE>", f"{SPACE}<SUF>", f"{SPACE}<MID>"),
    Format(  # DeepSeek-Coder
        "<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"
    ),
    Format("[PREFIX]", "[SUFFIX]"),  # Codestral
)
# What ends an answer too, where a tokenizer has it: paddings, and ends of text by other names.
ENDS = ("<|fim_pad|>", "<fim_pad>", "<fim-pad>", "<EOT>", f"{SPACE}<EOT>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class Filled:
    """A prompt to fill in, as the model takes it.

    ends      ids that end an answer, besides those that end every one
    left_out  what the context had no room for: files, prefix_tokens, suffix_tokens (at least)
    """

    ids: Ids
    ends: frozenset[int]
    left_out: Mapping[str, int] = field(default_factory=dict)


class Filler:
    """Writes the prompts of one tokenizer.

    limit  the model's context, tokens
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        self._form = _form(tokenizer, self._vocabulary)

    def between(
        self,
        prefix: str,
        suffix: str,
        tokenise: TokeniseAll,
        order: FillOrder | None = None,
    ) -> Filled:
        """Return the prompt of an answer between two texts, all of it.

        tokenise  texts -> ids of each, without special tokens
        raises    PlanError  if the tokenizer has no tokens for it
        """
        form = self._known()
        before, *rest = tokenise([prefix, *self._led(suffix)])
        after = _bare(rest)
        ids = self._joined(form, _order(form, order), before, after, ())
        return Filled((*self._opening(), *ids), self._ends(form))

    def fill(self, prompt: FillPrompt, tokenise: TokeniseAll) -> Filled:
        """Return a prompt to fill in; what does not fit is left out, files first, the oldest first.

        raises  PlanError  if the tokenizer has no tokens for it, or there is room for no text
        """
        form = self._known()
        order = _order(form, prompt.order)
        goes_on = order == "spm"  # the answer follows the prefix, and so does what it begins with
        prefix = prompt.prefix + prompt.begun if goes_on else prompt.prefix
        most, step = self._limit * MOST_CHARACTERS, max(self._limit // STEPS, 1)
        skip = up(max(len(prefix) - most, 0), step * MOST_CHARACTERS)
        [before] = tokenise([prefix[skip:]])
        after = _bare(tokenise(self._led(prompt.suffix[:most])))
        begun = () if goes_on else _bare(tokenise(self._led(prompt.begun)))
        frame = self._frame(form, prompt, tokenise)
        fixed = frame.length + len(self._joined(form, order, (), (), begun))
        kept = shares(len(before), len(after), self._free(fixed, prompt.room), step)
        files = self._files(form, prompt.files, tokenise, kept.others)
        others = tuple(token for file in files for token in file)
        text = (*frame.name, *before[len(before) - kept.prefix :])
        if not form.file:
            others, text = (), (*others, *text)
        fill = self._joined(form, order, text, after[: kept.suffix], begun)
        left_out = {
            "files": len(prompt.files) - len(files),
            "prefix_tokens": len(before) - kept.prefix + skip // MOST_CHARACTERS,
            "suffix_tokens": len(after)
            - kept.suffix
            + len(prompt.suffix[most:]) // MOST_CHARACTERS,
        }
        return Filled(
            (*frame.head, *others, *frame.own, *fill),
            self._ends(form),
            {name: number for name, number in left_out.items() if number},
        )

    def _known(self) -> Format:
        if self._form is None:
            raise PlanError(
                "suffix must be left out for this model, got a tokenizer without "
                "fill-in-the-middle tokens; use a model that was trained to fill in",
                param="suffix",
            )
        return self._form

    def _joined(self, form: Format, order: FillOrder, before: Ids, after: Ids, begun: Ids) -> Ids:
        """Return the texts around the cursor in their order, with the tokens before each."""
        prefix, suffix, *middle = (self._vocabulary[token] for token in form.needed)
        if order == "psm":
            return (prefix, *before, suffix, *after, *middle, *begun)
        if middle:
            return (prefix, suffix, *after, *middle, *before)
        return (suffix, *after, prefix, *before)

    def _frame(self, form: Format, prompt: FillPrompt, tokenise: TokeniseAll) -> _Frame:
        """Return what stands around other files: where there is nothing to name, little."""
        opening = self._opening()
        if not prompt.files and not prompt.name:
            return _Frame(opening)
        if not form.file:
            named = tokenise([_heading(prompt.name)])[0] if prompt.name else ()
            return _Frame(opening, name=named)
        end = "" if form.compact else "\n"
        repository, name = tokenise(
            [(prompt.repository or REPOSITORY) + end, (prompt.name or UNNAMED) + "\n"]
        )
        head, own = (self._vocabulary[form.repository], *repository), self._vocabulary[form.file]
        if form.compact:
            return _Frame((*opening, *head), (own,), name)
        return _Frame((*opening, *head), (own, *name))

    def _files(
        self, form: Format, files: Sequence[File], tokenise: TokeniseAll, free: int
    ) -> list[Ids]:
        """Return the files that fit, each with its name: the last ones, which are the newest."""
        kept: list[Ids] = []
        for file in reversed(files):
            head = f"{file.name or UNNAMED}\n" if form.file else _heading(file.name)
            text = f"{head}{file.text}" if file.text.endswith("\n") else f"{head}{file.text}\n"
            if len(text) > free * MOST_CHARACTERS:
                continue
            [ids] = tokenise([text])
            if form.file:
                ids = (self._vocabulary[form.file], *ids)
            if len(ids) <= free:
                kept.append(ids)
                free -= len(ids)
        return kept[::-1]

    def _free(self, fixed: int, room: int) -> int:
        """Return the tokens that texts and files may have (PlanError if there are none)."""
        free = self._limit - max(room, self._limit // RESERVED) - fixed
        if free < 0:
            raise PlanError(
                f"This model's maximum context length is {self._limit} tokens. However, you "
                f"requested {room} for the completion, with {fixed} that no text can be without; "
                "ask for fewer (context_length_exceeded)",
                code="context_length_exceeded",
            )
        return free

    def _led(self, text: str) -> list[str]:
        """Return what to tokenise for a text that goes on within another one (see `_bare`)."""
        return [LEAD, LEAD + text] if self._prepends and text else [text]

    @cached_property
    def _prepends(self) -> bool:
        """Return whether the tokenizer puts a space before every text, as SentencePiece does."""
        return self._tokenizer.tokenize("a")[0].startswith(SPACE)

    def _opening(self) -> Ids:
        """Return the begin token where the tokenizer puts one before every prompt."""
        first = tuple(self._tokenizer("", add_special_tokens=True)["input_ids"])[:1]
        return first if first == (self._tokenizer.bos_token_id,) else ()

    def _ends(self, form: Format) -> frozenset[int]:
        known = (self._vocabulary.get(token) for token in (*form.tokens, *ENDS))
        return frozenset(token_id for token_id in known if token_id is not None)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands before other files, between them and the text, and at the text's beginning."""

    head: Ids
    own: Ids = ()
    name: Ids = ()

    @property
    def length(self) -> int:
        return len(self.head) + len(self.own) + len(self.name)


def _form(tokenizer: PreTrainedTokenizerBase, vocabulary: Mapping[str, int]) -> Format | None:
    """Return the tokenizer's format, of the tokens that its own file names where it does."""
    named = tokenizer.init_kwargs.get("fim_tokens")
    if named is None:
        return next((form for form in FORMATS if vocabulary.keys() >= {*form.tokens}), None)
    prefix, suffix, middle = named
    own = Format(prefix, suffix, middle)
    known = (form for form in FORMATS if vocabulary.keys() >= {*form.tokens})
    return next((form for form in known if form.needed == own.needed), own)


def _bare(found: Sequence[Ids]) -> Ids:
    """Return the ids of a text, without those of what leads it, if anything does."""
    return found[1][len(found[0]) :] if len(found) > 1 else found[0]


def _order(form: Format, asked: FillOrder | None) -> FillOrder:
    """Return the order of a prompt: as asked, or as the models were trained (PlanError)."""
    if not form.middle and asked == "psm":
        raise PlanError(
            "fim must be spm for this model, whose suffix comes first, got psm; leave it out",
            param="fim",
        )
    return asked or ("psm" if form.middle else "spm")


def _heading(name: str) -> str:
    """Return how a file is named where there is no token for that."""
    return f"# {name or UNNAMED}\n"
