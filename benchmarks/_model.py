"""What `serve.py` must know of a model: how long a text is, and how many bytes a step reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks._servers import QUESTION

TEXTS = 4  # of a prompt
WORDS = """
apple river stone cloud tiger lamp paper seven green water music chair light train bread house
silver garden winter bridge yellow market letter window island doctor summer number friend road
""".split()  # noqa: SIM905  sixty quotes more say nothing


@dataclass(frozen=True)
class Prompts:
    """Texts that no two requests share, of about as many tokens each."""

    tokenizer: Any
    tokens: int

    @classmethod
    def of(cls, path: Path, tokens: int) -> Prompts:
        """Return prompts for the model in a folder or GGUF file."""
        return cls(AutoTokenizer.from_pretrained(*_source(path), **_file(path)), tokens)

    def texts(self, seed: str) -> list[str]:
        """Return the texts of one request."""
        random = Random(seed)
        left = (self.tokens - len(self.tokenizer(QUESTION).input_ids)) // TEXTS
        made = []
        for _ in range(TEXTS):
            words = " ".join(random.choices(WORDS, k=left))
            ids = self.tokenizer(words, add_special_tokens=False).input_ids[:left]
            made.append(self.tokenizer.decode(ids))
        return made

    def counted(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)


def bytes_a_step(path: Path, dtype: str) -> int | None:
    """Return how many bytes of weights a decode step reads, the head's too.

    returns  None  where not all matrices are linear layers (experts): then not all are read
    """
    config = AutoConfig.from_pretrained(*_source(path), **_file(path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    known = {id(module.weight) for module in model.modules() if isinstance(module, kinds)}
    if any(weight.dim() > 1 and id(weight) not in known for weight in model.parameters()):
        return None
    size: int = getattr(torch, dtype).itemsize
    return sum(
        module.weight.numel() * size
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
    )


def _source(path: Path) -> tuple[str]:
    return (str(path if path.is_dir() else path.parent),)


def _file(path: Path) -> dict[str, str]:
    return {} if path.is_dir() else {"gguf_file": path.name}
