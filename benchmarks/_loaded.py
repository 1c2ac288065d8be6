"""A model that benchmarks read with readings: its door open, its kernels fitted, its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kvedit.hf import Door, fit_kernels, open_door
from server.engines.hf.loading import read_model
from server.engines.hf.placement import Placement
from server.text.control import ControlTokens
from server.text.prompts import Encoder
from server.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Model:
    """A model with its door open, and its tokenizer."""

    door: Door
    encoder: Encoder
    tokenizer: Any
    control: frozenset[int]

    @classmethod
    def load(cls, path: Path, dtype: str) -> Self:
        """Load a folder or a GGUF file."""
        model, tokenizer = read_model(path, Placement("cpu", dtype))
        fit_kernels(model)
        size = int(model.config.get_text_config(decoder=True).vocab_size)
        encoder = Encoder(tokenizer, Vocabulary(tokenizer, size), 1 << 20)
        return cls(open_door(model), encoder, tokenizer, ControlTokens(tokenizer).ids)

    @property
    def trained(self) -> int:
        """Return the tokens that the model was trained to read."""
        config = self.door.model.config.get_text_config(decoder=True)
        return int(config.max_position_embeddings)

    def ids(self, text: str) -> tuple[int, ...]:
        """Return a text's tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)
