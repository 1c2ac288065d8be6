"""What the operator decides, from the command line and `EVENHAND_*`, in one frozen object."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, HttpUrl, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.errors import PlanError
from server.reference import refer

Listed = NoDecode  # `a,b` in the environment, not JSON
PREFIX = "EVENHAND_"  # of a variable that is ours, in either case
ELSEWHERE = {"EVENHAND_LSP_KEY"}  # what other commands read


class Settings(BaseSettings):
    """One server's configuration; arguments win over the environment.

    model              folder, GGUF file or name on the hub; None = the embedded one, `pocket`
    served_model_name  names clients may ask for; empty = what the model's own place is called
    device             torch's; auto = a GPU if there is one, else the CPU
    dtype              auto = the checkpoint's, or float32 where the device cannot compute in it
    device_map         spreads the layers over devices: a strategy, or JSON from module to device
    max_memory         what the map may fill, as `0=10GiB,cpu=30GiB`
    threads            of the model's worker; 0 = torch's own choice
    max_model_len      tokens; None = what the model's configuration says
    kernels            what multiplies on a CPU: auto = what measures fastest, stock = transformers'
                       own, so that a plain request alone gives its very bits
    reuse_bytes        cache kept of prefixes and document sets for later requests; 0 = none
    engine             hf = a model that is loaded here; remote = one on another server
    remote_url         base of that server's OpenAI-compatible API, often ending in /v1
    remote_key         its bearer key; None = it asks for none
    remote_model       the model's name there; None = the first that it lists
    remote_concurrency requests to it at once
    remote_timeout     seconds of its silence before it counts as gone
    remote_retries     of a request that it could not answer, with a growing wait between them
    remote_logprobs    whether it reports log-probabilities; auto = ask it for a token at the start
    queue_limit        requests answered at once; the next one gets 429
    api_keys           accepted bearer keys; empty = open to all
    strict             refuse unknown fields instead of warning
    max_documents      documents or grouped parts in a request
    max_prompts        prompts in a completions request
    max_choices        prompts times `n`
    fim_order          order of prompts to fill in, where a request asks for none: auto = as the
                       model was trained; spm = the suffix first, so that typing only appends
    fim_sessions       files of editors whose text stays read from one request to the next, so that
                       edits alone are read (the stage `pie`), and chats without end (the stage
                       `lm-infinite`), whose next turn reads what is new; 0 = each request is read
                       anew
    fim_session_bytes  cache that these take in all
    fim_idle_seconds   without a request, after which one is dropped
    batch_concurrency  requests of one batch judged at once
    max_batch_bytes    of a batch; a line is bounded like any other request, by max_body_bytes
    session_bytes      of all edit sessions, their texts and caches; the least used go first
    stream_idle_seconds without more of its source, after which a stream ends
    drain_seconds      what running requests are given to finish after SIGTERM
    keep_alive_seconds silence in a stream before a comment line
    state_dir          folder of what is kept across restarts: the judge's slot biases; None = it
                       is forgotten when the server stops
    raises             PlanError  an argument, or a variable with our prefix, that names no setting
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: str | None = Field(None, min_length=1)
    served_model_name: Annotated[tuple[str, ...], Listed] = ()
    engine: Literal["hf", "remote"] = "hf"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device_map: str | None = Field(None, min_length=1)
    max_memory: str | None = Field(None, min_length=1)
    threads: int = Field(0, ge=0, le=1024)
    max_model_len: int | None = Field(None, ge=1)
    kernels: Literal["auto", "stock"] = "auto"
    reuse_bytes: int = Field(256 * 2**20, ge=0)

    remote_url: HttpUrl | None = None
    remote_key: SecretStr | None = None
    remote_model: str | None = Field(None, min_length=1)
    remote_concurrency: int = Field(8, ge=1, le=1024)
    remote_timeout: float = Field(300.0, gt=0, le=86400)
    remote_retries: int = Field(2, ge=0, le=100)
    remote_logprobs: Literal["auto", "yes", "no"] = "auto"

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_keys: Annotated[tuple[SecretStr, ...], Listed] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    strict: bool = False
    queue_limit: int = Field(16, ge=1)
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    max_documents: int = Field(1000, ge=1)
    max_prompts: int = Field(256, ge=1)
    max_choices: int = Field(1024, ge=1)
    fim_order: Literal["auto", "psm", "spm"] = "auto"
    fim_sessions: int = Field(16, ge=0)
    fim_session_bytes: int = Field(2**30, ge=0)
    fim_idle_seconds: float = Field(900.0, gt=0)
    batch_concurrency: int = Field(4, ge=1)
    max_batch_bytes: int = Field(2**30, ge=1024)
    session_bytes: int = Field(2**30, ge=2**20)
    stream_idle_seconds: float = Field(300.0, gt=0, le=86400)
    drain_seconds: float = Field(30.0, ge=0)
    keep_alive_seconds: float = Field(15.0, gt=0)
    state_dir: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: object) -> object:
        """Refuse what would else be ignored in silence: the server would run without it."""
        given_here = set(map(str.upper, os.environ)) - ELSEWHERE
        ours = [name for name in given_here if name.startswith(PREFIX)]
        known = [name.upper() for name in cls.model_fields]
        _check_names("environment variable", PREFIX, [name[len(PREFIX) :] for name in ours], known)
        if isinstance(given, dict):
            _check_names("setting", "", given, list(cls.model_fields))
        return given

    @field_validator("model", mode="before")
    @classmethod
    def _written(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("served_model_name", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names clients may ask for, the first being the default."""
        if self.served_model_name:
            return self.served_model_name
        if self.engine == "remote":
            return (self.remote_model or "remote",)
        return ("pocket",) if self.model is None else (refer(self.model).name,)

    def naming(self, found: str) -> Settings:
        """Return the settings with the name that another server has for its model.

        found  used where no name was given: only the engine knows it
        """
        known = self.served_model_name or self.remote_model or self.engine != "remote"
        return self if known else self.model_copy(update={"remote_model": found})

    @property
    def slot_biases(self) -> Path | None:
        """Return the file of the judge's slot biases, or None for memory alone."""
        return None if self.state_dir is None else self.state_dir / "slot_biases.sqlite"


def _check_names(kind: str, prefix: str, names: Iterable[str], known: list[str]) -> None:
    """Refuse a name that is none of the known ones, and tell the nearest; the value may be a key.

    kind    what such a name is called
    prefix  what is written before all of them
    """
    unknown = sorted(set(names).difference(known))
    if not unknown:
        return
    by_case = {name.upper(): name for name in known}
    near = [by_case[name] for name in get_close_matches(unknown[0].upper(), by_case, n=1)]
    raise PlanError(
        f"{kind} must be one that this server knows, got {prefix}{unknown[0][:200]}; "
        + (f"did you mean {prefix}{near[0]}" if near else "take it away")
    )
