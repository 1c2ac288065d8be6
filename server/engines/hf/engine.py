"""`HfEngine`: loads a model, opens its door, and answers jobs from the event loop."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from kvedit.hf import open_door
from kvedit.shelf import Shelf
from pine import cpu, gpu
from server.engines.base import Ability, ModelInfo
from server.engines.hf.grammar import Grammars
from server.engines.hf.plan import Planner
from server.engines.hf.prompts import Encoder
from server.engines.hf.stream import Channel, Stream
from server.engines.hf.vocabulary import Vocabulary
from server.engines.hf.weights import digest
from server.engines.hf.worker import Ticket, Worker
from server.job import Job

ACTIVE = 64  # sequences that run at once
SOFTWARE = ("torch", "transformers", "numba")  # whose version decides last bits
REUSE = 256 * 2**20  # bytes of cache kept for later requests


class HfEngine:
    """A transformers model in one worker thread.

    model          in eval mode, on its device; nothing of it changes between requests
    tokenizer      a fast one
    max_model_len  context in tokens; None = what the model's config says
    active_limit   sequences that run at once; the rest wait
    reuse_bytes    cache kept of prefixes and document sets for later requests, half of it for
                   deterministic ones; 0 = none
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        root: str = "",
        max_model_len: int | None = None,
        active_limit: int = ACTIVE,
        reuse_bytes: int = REUSE,
    ) -> None:
        _check(model)
        self.model = model
        config = model.config.get_text_config(decoder=True)
        limit = max_model_len or int(config.max_position_embeddings)
        door = open_door(model)
        if door.refusal is None and model.device.type == "cpu":
            cpu.prepare()  # before a request has to wait for it
        vocabulary = Vocabulary(tokenizer, int(config.vocab_size))
        encoder = Encoder(tokenizer, vocabulary, limit)
        ends = _ends(model, tokenizer)
        grammars = Grammars(tokenizer, vocabulary.size, ends)
        shelves = (Shelf(reuse_bytes // 2) for _ in range(2))
        self._planner = Planner(model, door, vocabulary, encoder, grammars, ends, limit, *shelves)
        self._info = ModelInfo(
            id=name,
            root=root or name,
            max_model_len=limit,
            abilities=_abilities(door.refusal, grammars),
            refusals={} if door.refusal is None else {"attention": door.refusal},
            created=int(time.time()),
            weights=digest(model, tokenizer, ends),
            dtype=str(model.dtype).removeprefix("torch."),
            device=model.device.type,
            executor=_executor(model),
            software=tuple(f"{name} {version(name)}" for name in SOFTWARE if find_spec(name)),
        )
        # one thread: a tokenizer must not be used by two at once
        self._planning = ThreadPoolExecutor(1, thread_name_prefix="evenhand-plan")
        self._worker = Worker(door, active_limit)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        name: str,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int | None = None,
        max_model_len: int | None = None,
        active_limit: int = ACTIVE,
        reuse_bytes: int = REUSE,
    ) -> HfEngine:
        """Load a model from a local folder: safetensors only, no code from it, no network.

        dtype    a torch dtype's name
        threads  of torch on the CPU; None = as torch decides
        raises   OSError, ValueError  if the folder holds no such model
        """
        if threads is not None:
            torch.set_num_threads(threads)
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the caller says what loads
        return _apart(
            lambda: cls(
                *_read(path, dtype, device),
                name=name,
                root=Path(path).name,
                max_model_len=max_model_len,
                active_limit=active_limit,
                reuse_bytes=reuse_bytes,
            )
        )

    @property
    def info(self) -> ModelInfo:
        """Return the model's facts."""
        return self._info

    @property
    def offers(self) -> frozenset[Ability]:
        """Return what stages may need of this engine."""
        return self._info.abilities

    @property
    def alive(self) -> bool:
        """Return whether the worker runs."""
        return self._worker.alive

    async def generate(self, job: Job) -> Stream:
        """Check the job off the loop, then start it.

        returns  the chunks of all choices as they come
        raises   PlanError    if the job cannot run; nothing has run then
                 EngineError  if the engine has stopped (503)
        """
        self._worker.check()
        loop = asyncio.get_running_loop()
        channel = Channel(loop)
        with nullcontext() if job.deterministic else self._worker.expecting():
            sequences = await loop.run_in_executor(self._planning, self._planner.plan, job)
            if sequences:
                self._worker.submit(Ticket(sequences, channel))
        return Stream(channel, len(sequences))

    async def close(self) -> None:
        """Stop at the next step; callers still waiting get an EngineError."""
        await asyncio.to_thread(self._worker.close)
        self._planning.shutdown(wait=False, cancel_futures=True)


def _executor(model: PreTrainedModel) -> str:
    """Return what readings attend with."""
    query = torch.empty(1, 1, 1, 1, dtype=model.dtype, device=model.device)
    if gpu.available(query):
        return "kernels"
    return "loops" if cpu.available(query) else "torch"


def _abilities(refusal: str | None, grammars: Grammars) -> frozenset[Ability]:
    abilities: set[Ability] = {"text", "logprobs"}
    if refusal is None:
        abilities.add("attention")
    if grammars.offered:
        abilities.add("grammar")
    return frozenset(abilities)


def _apart(make: Callable[[], HfEngine]) -> HfEngine:
    """Make an engine in a thread that ends with it.

    OpenMP keeps a team for every thread that has computed. With more of them than cores, no team
    waits awake, and each small step of the worker would wait until the system has woken its own.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="evenhand-load") as thread:
        return thread.submit(make).result()


def _read(
    path: str | Path, dtype: str, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a model and its tokenizer (see `HfEngine.load`)."""
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    model.to(device)  # type: ignore[arg-type]  # transformers' own wrapper hides the signature
    model.requires_grad_(False)  # it comes in eval mode
    return model, tokenizer


def _check(model: PreTrainedModel) -> None:
    """Refuse a model that would take no cache or ignore which logits to keep."""
    takes = inspect.signature(model.forward).parameters
    for needed in ("past_key_values", "logits_to_keep"):
        if needed not in takes:
            raise ValueError(
                f"model must take {needed} in its forward, got {type(model).__name__}; serve "
                "another model"
            )


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return every id that ends an answer, by any of the places that may name one."""
    sources = (model.generation_config, model.config, tokenizer)
    found: list[int] = []
    for source in sources:
        ids: int | Iterable[int] | None = getattr(source, "eos_token_id", None)
        found += [] if ids is None else [ids] if isinstance(ids, int) else ids
    return frozenset(found)
