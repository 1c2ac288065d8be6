"""`HfEngine`: loads a model, opens its door, and answers jobs from the event loop."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kvedit.hf import Door, fit_kernels, open_door
from kvedit.shelf import Shelf
from server.engines import readings
from server.engines.base import Ability, ModelInfo
from server.engines.hf.groups import Groups, HfGroups
from server.engines.hf.loading import ends as answer_ends
from server.engines.hf.loading import read_model
from server.engines.hf.placement import Placement
from server.engines.hf.portrait import layer_kinds, portrait
from server.engines.hf.preparation import Preparation
from server.engines.hf.session import HfSession
from server.engines.hf.stream import Channel, Stream
from server.engines.hf.weights import digest
from server.engines.hf.worker import Ticket, Worker
from server.errors import PlanError
from server.job import ReadingSpec, Sampling, Work
from server.prompt import Prompt
from server.text.chat import named_template, takes
from server.text.grammar import Grammars
from server.text.prompts import Encoder
from server.text.vocabulary import Vocabulary

ACTIVE = 64  # sequences that run at once
SOFTWARE = ("torch", "transformers", "numba")  # whose version decides last bits
REUSE = 256 * 2**20  # bytes of cache kept for later requests

ENDLESS_ADVICE = (
    f", or add the stage {readings.ENDLESS!r}, which reads a text of any length through a window"
)

Kernels = Literal["auto", "stock"]


class HfEngine:
    """A transformers model in one worker thread.

    model          in eval mode, on its device; nothing of it changes between requests
    tokenizer      a fast one
    max_model_len  context in tokens; None = what the model's config says
    active_limit   sequences that run at once; the rest wait
    reuse_bytes    cache kept of prefixes and document sets for later requests, half of it for
                   deterministic ones; 0 = none
    kernels        auto = those that are fastest on the machine; stock = transformers' own, so that
                   a plain request alone gives its very bits
    """

    def __init__(  # noqa: PLR0913  # an argument for each thing that the operator decides
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        root: str = "",
        max_model_len: int | None = None,
        active_limit: int = ACTIVE,
        reuse_bytes: int = REUSE,
        kernels: Kernels = "auto",
    ) -> None:
        _check(model)
        self.model = model
        loaded = digest(model, tokenizer, ends := answer_ends(model, tokenizer))
        drawn = portrait(model)
        fitted = fit_kernels(model) if kernels == "auto" else {}
        config = model.config.get_text_config(decoder=True)
        limit = max_model_len or int(config.max_position_embeddings)
        door = open_door(model)
        self.portrait = drawn | {"layers": layer_kinds(door)}  # for people to read
        self.readings = _readings(door)
        vocabulary = Vocabulary(tokenizer, int(config.vocab_size))
        advice = "" if self.readings[readings.ENDLESS] else ENDLESS_ADVICE
        encoder = Encoder(tokenizer, vocabulary, limit, advice)
        grammars = Grammars(tokenizer, vocabulary.size, ends)
        shelf, loose = (Shelf(reuse_bytes // 2) for _ in range(2))
        self._preparation = Preparation(
            model, door, vocabulary, encoder, grammars, ends, limit, shelf, loose, bool(fitted)
        )
        self._info = ModelInfo(
            id=name,
            root=root or name,
            max_model_len=limit,
            abilities=_abilities(door.refusal, grammars),
            refusals=_refusals(door, self.readings),
            created=int(time.time()),
            weights=loaded,
            dtype=str(model.dtype).removeprefix("torch."),
            device=door.device.type,
            executor="" if door.refusal else door.executor.name,
            executors=door.choice.refusals,
            kernels=fitted,
            software=tuple(f"{name} {version(name)}" for name in SOFTWARE if find_spec(name)),
            chat=takes(tokenizer),
            template=named_template(tokenizer),
        )
        # one thread: a tokenizer must not be used by two at once
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="evenhand-prepare")
        self._worker = Worker(door, active_limit)

    @classmethod
    def load(  # noqa: PLR0913  # an argument for each thing that the operator decides
        cls,
        path: str | Path,
        *,
        name: str,
        root: str = "",
        placement: Placement = Placement(),  # noqa: B008  it is frozen
        threads: int | None = None,
        max_model_len: int | None = None,
        active_limit: int = ACTIVE,
        reuse_bytes: int = REUSE,
        kernels: Kernels = "auto",
    ) -> HfEngine:
        """Load a model from local files: a folder with safetensors, or a GGUF file; no network.

        placement  devices and dtype
        threads    of torch on the CPU; None = as torch decides
        raises     EngineError  the model is broken, or does not fit
        """
        if threads is not None:
            torch.set_num_threads(threads)
        path = Path(path)

        def make() -> HfEngine:
            model, tokenizer = read_model(path, placement)
            return cls(
                model,
                tokenizer,
                name=name,
                root=root or path.name,
                max_model_len=max_model_len,
                active_limit=active_limit,
                reuse_bytes=reuse_bytes,
                kernels=kernels,
            )

        return _apart(make)

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

    def refusal(self, reading: ReadingSpec) -> str | None:
        """Return why the model cannot be read so, or None."""
        return self._preparation.refusal(reading)

    async def check(self, work: Work) -> None:
        """Refuse off the loop what cannot run (see `server.engines.base.Engine`)."""
        self._worker.check()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._preparing, self._preparation.check, work)

    async def generate(self, work: Work) -> Stream:
        """Check work off the loop, then start it.

        returns  the chunks of all choices as they come
        raises   PlanError    if the work cannot run; nothing has run then
                 EngineError  if the engine has stopped (503)
        """
        self._worker.check()
        loop = asyncio.get_running_loop()
        channel = Channel(loop)
        with nullcontext() if work.deterministic else self._worker.expecting():
            prepare = self._preparation.sequences
            sequences = await loop.run_in_executor(self._preparing, prepare, work)
            if sequences:
                self._worker.submit(Ticket(sequences, channel))
        return Stream(channel, len(sequences))

    async def open(self, reading: ReadingSpec | None = None) -> HfSession:
        """Return an empty sequence (PlanError if the model cannot be read so)."""
        reason = None if reading is None else self.refusal(reading)
        if reason is not None:
            raise PlanError(f"model must be one that can be read so, got {reason}; read it plainly")
        return HfSession(self._preparation, self._preparing, self._worker, reading)

    async def open_groups(
        self, reading: ReadingSpec, prompt: Prompt, sampling: Sampling
    ) -> HfGroups:
        """Return a sequence whose source grows while its target is written (PlanError)."""
        self._worker.check()
        made = partial(Groups, self._preparation, reading, prompt, sampling)
        loop = asyncio.get_running_loop()
        groups = await loop.run_in_executor(self._preparing, made)
        return HfGroups(groups, self._preparing, self._worker)

    async def close(self) -> None:
        """Stop at the next step; callers still waiting get an EngineError."""
        await asyncio.to_thread(self._worker.close)
        self._preparing.shutdown(wait=False, cancel_futures=True)


def _refusals(door: Door, reasons: Mapping[str, str | None]) -> dict[str, str]:
    """Return why attention is not offered, or which readings the model's layers do not suit."""
    if door.refusal is not None:
        return {"attention": door.refusal}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _readings(door: Door) -> dict[str, str | None]:
    """Return of each reading why the model cannot be read so, or None."""
    return {
        spec.name: door.refusal or readings.refusal(spec, door.layers) for spec in readings.KNOWN
    }


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


def _check(model: PreTrainedModel) -> None:
    """Refuse a model that would take no cache or ignore which logits to keep."""
    takes = inspect.signature(model.forward).parameters
    for needed in ("past_key_values", "logits_to_keep"):
        if needed not in takes:
            raise ValueError(
                f"model must take {needed} in its forward, got {type(model).__name__}; serve "
                "another model"
            )
