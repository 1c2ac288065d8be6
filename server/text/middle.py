"""Fill in the middle, with the tokenizer's own tokens."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from server.errors import PlanError

# What stands before the text, before the suffix and before the answer, in the order of the prompt.
LAYOUTS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("<|fim_prefix|>", "text"), ("<|fim_suffix|>", "suffix"), ("<|fim_middle|>", "")),
    (("<fim_prefix>", "text"), ("<fim_suffix>", "suffix"), ("<fim_middle>", "")),
    (("<fim-prefix>", "text"), ("<fim-suffix>", "suffix"), ("<fim-middle>", "")),
    (("<PRE>", "text"), ("<SUF>", "suffix"), ("<MID>", "")),
    (("\u2581<PRE>", "text"), ("\u2581<SUF>", "suffix"), ("\u2581<MID>", "")),
    (
        ("<\uff5cfim\u2581begin\uff5c>", "text"),
        ("<\uff5cfim\u2581hole\uff5c>", "suffix"),
        ("<\uff5cfim\u2581end\uff5c>", ""),
    ),
    (("[SUFFIX]", "suffix"), ("[PREFIX]", "text")),  # Codestral: the answer follows the text
)


def middle(
    tokenizer: PreTrainedTokenizerBase,
    tokenise: Callable[[str], tuple[int, ...]],
    text: str,
    suffix: str,
) -> tuple[int, ...]:
    """Return the ids of a prompt whose answer stands between `text` and `suffix`.

    tokenise  text -> ids, without special tokens
    raises    PlanError  if the tokenizer has no such tokens
    """
    vocabulary = tokenizer.get_vocab()
    layout = _named(tokenizer) or next(
        (each for each in LAYOUTS if all(token in vocabulary for token, _ in each)), None
    )
    if layout is None:
        raise PlanError(
            "suffix must be left out for this model, got a tokenizer without fill-in-the-middle "
            "tokens; use a model that was trained to fill in",
            param="suffix",
        )
    ids: list[int] = list(_opening(tokenizer))
    for token, name in layout:
        ids.append(vocabulary[token])
        if name:
            ids += tokenise(text if name == "text" else suffix)
    return tuple(ids)


def _named(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[str, str], ...] | None:
    """Return the layout of the tokens that the model's own file names, if it does."""
    named = tokenizer.init_kwargs.get("fim_tokens")
    return None if named is None else tuple(zip(named, ("text", "suffix", ""), strict=True))


def _opening(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the begin token where the tokenizer puts one before every prompt."""
    first = tuple(tokenizer("", add_special_tokens=True)["input_ids"])[:1]
    return first if first == (tokenizer.bos_token_id,) else ()
