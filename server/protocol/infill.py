"""`/infill` of llama.cpp, as its editor plugins ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainValidator

from server.job import Job, Sampling
from server.protocol.common import Items, shown
from server.protocol.documents import Document
from server.protocol.fim import Filling
from server.protocol.generation import Bias, Penalty, StreamOptions, few_biases, stops
from server.protocol.replies import Head

SAMPLERS = ("penalties", "top_k", "top_p", "min_p", "temperature")  # of llama.cpp's, those we have
LETTERS: Mapping[str, str] = MappingProxyType(  # in its short form, `"edkypmxt"`
    {
        "e": "penalties", "d": "dry", "s": "top_n_sigma", "k": "top_k", "y": "typ_p", "p": "top_p",
        "m": "min_p", "x": "xtc", "t": "temperature", "i": "infill",
    }
)  # fmt: skip


def _samplers(value: object) -> object:
    """Read a list of names, or a letter for each."""
    if not isinstance(value, str):
        return value
    unknown = [letter for letter in value if letter not in LETTERS]
    if unknown:
        raise ValueError(
            f"samplers must be letters of {''.join(LETTERS)}, got {shown(unknown[0])}; send names"
        )
    return [LETTERS[letter] for letter in value]


def _biases(value: object) -> object:
    """Read `[[15043, 1.0], [2, false]]`: false bans a token. Of text no bias can be told."""
    if not isinstance(value, list):
        return value
    few_biases(value)
    biases: dict[int, object] = {}
    for each in value:
        if not (isinstance(each, list) and len(each) == 2 and type(each[0]) is int):
            raise ValueError(
                f"logit_bias must be pairs of a token id and a number, got {shown(each)}; "
                "look the id up with the model's tokenizer"
            )
        biases[each[0]] = -100.0 if each[1] is False else each[1]
    return biases


class InfillBody(Filling):
    """The body of `/infill`: llama.cpp's names and defaults; `null` is the default."""

    prefix: ClassVar[str] = "infill"
    documents: ClassVar[list[Document] | None] = None  # what every text's body has
    stream_options: ClassVar[StreamOptions | None] = None
    choices: ClassVar[int] = 1

    input_prefix: str | None = None
    input_suffix: str | None = None
    prompt: str | None = None
    n_predict: int | None = Field(None, ge=-2, lt=2**31)
    n_indent: int | None = Field(None, ge=0, le=2**20)
    t_max_prompt_ms: float | None = None
    t_max_predict_ms: float | None = None
    samplers: Annotated[Items[str] | None, BeforeValidator(_samplers)] = None
    temperature: float | None = None
    top_k: int | None = Field(None, lt=2**31)
    top_p: float | None = Field(None, gt=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: Penalty | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[tuple[str, ...], PlainValidator(stops)] = ()
    ignore_eos: bool | None = None
    logit_bias: Annotated[dict[int, Bias] | None, BeforeValidator(_biases)] = None
    cache_prompt: bool | None = None
    response_fields: Items[str] | None = None
    id_slot: int | None = None
    stream: bool | None = None
    model: str | None = None
    stages: list[Any] | None = None
    deterministic: bool | None = None
    user: str | None = None
    prompt_cache_key: str | None = None

    @property
    def warnings(self) -> list[str]:
        """Return what of the request has no effect, or not quite its own."""
        said = super().warnings
        if self.t_max_prompt_ms is not None:
            said.append("field 't_max_prompt_ms' has no effect: a prompt is read to its end")
        for name in self.samplers or ():
            if name == "infill":
                said.append("sampler 'infill' is answered by the likeliest token")
            elif name not in SAMPLERS:
                said.append(f"sampler {name[:200]!r} is not known and was ignored")
        return said

    @property
    def asked(self) -> int | None:
        """Return the most new tokens, or None for as many as fit."""
        return None if self.n_predict is None or self.n_predict < 0 else self.n_predict

    @property
    def seconds(self) -> float | None:
        """Return after which time the text may end where a line does, or None."""
        wanted = self.t_max_predict_ms or 0
        return wanted / 1000 if wanted > 0 else None

    def refuse(self) -> None:
        """Refuse nothing: the fields' own ranges are all there is."""

    def job(self, head: Head) -> Job:
        """Return what was asked as a job."""
        prefix, suffix = self.input_prefix or "", self.input_suffix or ""
        prompt = self.filling(prefix, suffix, self.prompt or "", self.asked or 0)
        return Job(head.model, self.sampling(), (prompt,), id=head.id)

    def sampling(self) -> Sampling:
        """Return how tokens are chosen: of llama.cpp's samplers those named, or all, count."""
        temperature = self._if("temperature", self.temperature, 0.8, 1.0)
        if "infill" in (self.samplers or ()):
            temperature = 0.0
        return Sampling(
            max_tokens=self.asked,
            temperature=max(temperature, 0.0),
            top_k=max(int(self._if("top_k", self.top_k, 40, 0)), 0),
            top_p=min(self._if("top_p", self.top_p, 0.95, 1.0), 1.0),
            min_p=self._if("min_p", self.min_p, 0.05, 0.0),
            repetition_penalty=self._if("penalties", self.repeat_penalty, 1.0, 1.0),
            presence_penalty=self._if("penalties", self.presence_penalty, 0.0, 0.0),
            frequency_penalty=self._if("penalties", self.frequency_penalty, 0.0, 0.0),
            stop=self.ended(self.stop),
            seed=None if self.seed == -1 else self.seed,
            logit_bias=self.logit_bias or {},
            ignore_eos=bool(self.ignore_eos),
        )

    def _if(self, sampler: str, given: float | None, default: float, off: float) -> float:
        """Return a sampler's number: what turns it off, where others alone are named."""
        if self.samplers is not None and sampler not in self.samplers:
            return off
        return default if given is None else given
