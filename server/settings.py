"""What the operator decides, from the command line and `EVENHAND_*`, in one frozen object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Listed = NoDecode  # `a,b` in the environment, not JSON


class Settings(BaseSettings):
    """One server's configuration; arguments win over the environment.

    model              folder of the model; None = the embedded one, served as `pocket`
    served_model_name  names clients may ask for; empty = `pocket`, or the folder's name
    threads            of the model's worker; 0 = torch's own choice
    max_model_len      tokens; None = what the model's configuration says
    reuse_bytes        cache kept of prefixes and document sets for later requests; 0 = none
    queue_limit        requests answered at once; the next one gets 429
    api_keys           accepted bearer keys; empty = open to all
    strict             refuse unknown fields instead of warning
    max_documents      documents or grouped parts in a request
    max_prompts        prompts in a completions request
    max_choices        prompts times `n`
    drain_seconds      what running requests are given to finish after SIGTERM
    keep_alive_seconds silence in a stream before a comment line
    """

    model_config = SettingsConfigDict(env_prefix="EVENHAND_", frozen=True, extra="ignore")

    model: Path | None = None
    served_model_name: Annotated[tuple[str, ...], Listed] = ()
    engine: Literal["hf"] = "hf"
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(0, ge=0, le=1024)
    max_model_len: int | None = Field(None, ge=1)
    reuse_bytes: int = Field(256 * 2**20, ge=0)

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
    drain_seconds: float = Field(30.0, ge=0)
    keep_alive_seconds: float = Field(15.0, gt=0)

    @field_validator("served_model_name", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names clients may ask for, the first being the default."""
        if self.served_model_name:
            return self.served_model_name
        return ("pocket",) if self.model is None else (self.model.resolve().name,)
