"""A tiny seeded model with the embedded model's tokenizer, served on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from live import serving
from openai import OpenAI
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pocket import WEIGHTS
from server.app import create_app
from server.engines.base import Engine
from server.engines.registry import load
from server.settings import Settings


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random Llama: 2 layers, hidden 32, context 4096."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS, local_files_only=True)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def settings(tiny: Path) -> Settings:
    """Return settings that know the names which real clients ask for."""
    names = ("tiny", "judge-local", "gpt-4o", "gpt-4o-mini", "gpt-4-1106-preview")
    return Settings(model=tiny, served_model_name=names, threads=1, queue_limit=16)


@pytest.fixture(scope="session")
def engine(settings: Settings) -> Iterator[Engine]:
    """Yield the real engine."""
    made = load(settings)
    yield made
    asyncio.run(made.close())


@pytest.fixture(scope="session")
def address(settings: Settings, engine: Engine) -> Iterator[str]:
    """Yield the address of a server that all tests share; each leaves it idle."""
    with serving(create_app(settings, engine)) as found:
        yield found


@pytest.fixture
def client(address: str) -> Iterator[OpenAI]:
    """Yield OpenAI's own client, which does not retry."""
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as made:
        yield made
