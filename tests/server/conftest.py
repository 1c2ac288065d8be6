"""Tiny real models: a seeded Llama of two layers, a byte-level tokenizer with a chat template."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from asking import Ask, Builder, MakeEngine, MakeModel, Through
from other_server import OtherServer, other_server
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kvedit.reading import LayerKind, Reading
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from server.chunk import Chunk
from server.engines import readings
from server.engines.hf import HfEngine
from server.job import ReadingSpec, Sampling, Work
from server.prompt import Part, Prompt, TextPrompt

SPECIAL = ["<|bos|>", "<|end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
CONTEXT = 256
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "[{{ message.role }}] {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% for tool in tools or [] %}<{{ tool.name }}>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. A B C D, yes or no? élan naïve 東京 🦊"
] * 20


@pytest.fixture(scope="module")
def served() -> Iterator[OtherServer]:
    """Return somebody else's server, which says what a test tells it to."""
    with other_server() as made:
        yield made


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def make_model(tokenizer: PreTrainedTokenizerFast) -> MakeModel:
    """Return a maker of equal models, large enough in scale to write varied text."""

    def make() -> LlamaForCausalLM:
        torch.manual_seed(5)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
        )
        config._attn_implementation = "sdpa"
        model = LlamaForCausalLM(config)
        model.train(False)
        return model

    return make


@pytest.fixture(scope="session")
def stock(make_model: MakeModel) -> LlamaForCausalLM:
    """Return the same model, never touched by an engine."""
    return make_model()


@pytest.fixture
def make_engine(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> Iterator[MakeEngine]:
    engines: list[HfEngine] = []

    def make(**options: Any) -> HfEngine:
        engines.append(HfEngine(make_model(), tokenizer, name="tiny", **options))
        return engines[-1]

    yield make
    for engine in engines:
        asyncio.run(engine.close())


@pytest.fixture(scope="session")
def engine(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> Iterator[HfEngine]:
    shared = HfEngine(make_model(), tokenizer, name="tiny")
    yield shared
    asyncio.run(shared.close())


@pytest.fixture
def ask(engine: HfEngine) -> Ask:
    """Return a way to run one work to its end: `ask(prompt, max_tokens=3)`."""

    def run(
        prompt: Prompt | str,
        reading: ReadingSpec | None = None,
        deterministic: bool = False,
        **numbers: Any,
    ) -> list[Chunk]:
        prompt = TextPrompt((Part(prompt),)) if isinstance(prompt, str) else prompt
        given: dict[str, Any] = {"max_tokens": 16, "temperature": 0.0, **numbers}
        sampling = Sampling(**given)
        work = Work((prompt,), sampling, reading, deterministic)

        async def collect() -> list[Chunk]:
            return [chunk async for chunk in await engine.generate(work)]

        return asyncio.run(collect())

    return run


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Through:
    """Return what makes a spec of a test's own reading: `through(lambda segments, shelf: ...)`."""
    builders: dict[str, Builder] = {}
    known, refused = readings.build, readings.refusal

    def build(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
        builder = builders.get(spec.name)
        return builder(segments, shelf) if builder else known(spec, segments, shelf)

    def made(builder: Builder) -> ReadingSpec:
        name = f"reading {len(builders)}"
        builders[name] = builder
        return ReadingSpec(name, cut="set")

    def refusal(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
        return None if spec.name in builders else refused(spec, layers)

    monkeypatch.setattr(readings, "build", build)
    monkeypatch.setattr(readings, "refusal", refusal)
    return made


@pytest.fixture(scope="session")
def docs() -> tuple[Part, ...]:
    texts = ["The fox is red.\n", "The dog is lazy.\n", "A and B.\n", "No.\n"]
    return tuple(Part(text, group="documents") for text in texts)
