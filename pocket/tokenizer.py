"""The tokenizer of the pocket model: byte-level BPE learned from the small world.

Any string survives: decode(encode(s)) == s. Lines and digits are pieces of their own, so a prompt
cut at line ends gives the same tokens in parts as in one, and sums are read digit by digit.

The space before a word belongs to it only if the word is one of `COMMON`, the fixed words of the
world. A name or value is the same token wherever it stands, so an answer ("Oslo", first in its
line) is a copy of what the document says (" Oslo"); a model this small would otherwise have to
learn, word by word, which two tokens belong together before it can learn to read.
"""

import re
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pocket import data
from pocket.words import ATTRIBUTES, NAMES

VOCABULARY = 1280  # at most
CONTEXT = 2048  # tokens
BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
MIDDLE = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
SPECIAL = (BOS, END, PAD, *ROLES, *MIDDLE)

JUDGE_TEMPLATE = "plain"  # of server.judge, which the lessons are written in
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('role must be system, user or assistant, got ' ~ message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' ~ message['role'] ~ '|>\\n' ~ message['content'] ~ '<|end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)

FIXED = (
    *(f"The {attribute.noun} of someone is" for attribute in ATTRIBUTES),
    *(data.JUDGE_ORDER.replace(f" {data.TIE} ", " "), *data.SYSTEM_LINES),
    "and also is plus minus",
)
VALUES = frozenset(value for attribute in ATTRIBUTES for value in attribute.values)
COMMON = sorted(set(re.findall(r"\b[a-z]+", " ".join(FIXED))) - VALUES)
# A run of newlines is one piece and never joins what follows; a digit stands alone, its space too.
PIECES = rf"\n+| (?:{'|'.join(COMMON)})(?!\p{{L}})|\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+|[^\S\n]+"

ORDINARY = (
    "The quick brown fox jumps over the lazy dog. It was the best of times, it was not the worst.",
    "This is a test of the system. There are many things that we can do with it, and they work.",
    '{"name": "value", "list": [1, 2, 3], "nested": {"true": true, "none": null}, "id": "a-1"}',
    "def main(self, value):\n    for index in range(10):\n        return value[index] + 1\n",
    "if (x == 0) { return false; } else { print(x); }  // comment\n# heading\n- item\n* item\n",
    "import os\nfrom typing import Any\n\nclass Thing:\n    name: str = ''\n",
)


def corpus(random: Random, size: int) -> list[str]:
    """Write the text that the merges are learned from, every word of the world included."""
    words = [*NAMES, *(value for attribute in ATTRIBUTES for value in attribute.values)]
    sequences = [data.sample(random, 8) for _ in range(size)]
    texts = ["".join(piece.text for piece in pieces) for pieces in sequences]
    return [*words * 20, *ORDINARY * 5, *texts]


def build(seed: int, size: int = 600) -> PreTrainedTokenizerFast:
    """Learn the tokenizer from a seed.

    size  generated sequences in the corpus
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = corpus(Random(f"tokenizer {seed}"), size)
    for token in SPECIAL:  # special tokens are cut out, so that no merge learns their letters
        texts = [text.replace(token, "\n") for text in texts]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[*ROLES, *MIDDLE],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        judge_template=JUDGE_TEMPLATE,
    )
