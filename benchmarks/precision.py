"""The readings' errors in bfloat16 and float16 against float64, beside stock SDPA's in that dtype.

attention  each layer on its own: the same rounded queries, keys and values for all sides
logits     the whole model, prompt and decode; the truth is a float64 copy of the rounded weights,
           with documents ordered as the run in question ordered them: a near tie is no error

Stock is transformers' rotation and SDPA; for PINE, as its authors do it, with every key rotated to
where it appears, in the model's dtype. Errors are root mean squares relative to the truth's.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":  # not this folder, whose names would hide packages: the tests' helpers
    sys.path[0] = str(ROOT / "tests")

import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from random import Random

import torch
from models import tiny_llama
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.llama.modeling_llama import rotate_half

from benchmarks._harness import Row, arguments, show
from kvedit.executors import Executor
from kvedit.gate import causal_mask
from kvedit.hf import Door, Reader, open_door
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.segments import Ids, Segments
from kvedit.together import Alone
from pine.reading import PineReading
from pocket import WEIGHTS, data

STORIES = ROOT.parent / "shared" / "models" / "stories260K-llama"
DTYPES = (torch.bfloat16, torch.float16)
DOCUMENTS, STEPS = 5, 8  # per prompt, the steps in tokens
Inputs = tuple[Tensor, Tensor, Tensor]


class Recorder:
    """A reader that keeps what each layer was given while another one answers."""

    def __init__(self, reader: Reader) -> None:
        self.seen: dict[int, tuple[Layer, list[Inputs]]] = {}
        self._reader = reader

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keep the inputs, and read (see `kvedit.together.Alone`)."""
        self.seen.setdefault(layer.index, (layer, []))[1].append((query, key, value))
        return self._reader.read(layer, query, key, value)

    def inputs(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a layer's queries and keys of all tokens, neither rotated."""
        query, key, _ = (torch.cat(each, 2) for each in zip(*self.seen[index][1], strict=True))
        return query, key


class Stock:
    """Attention as it is done without us: keys rotated to positions in their dtype, then SDPA.

    segments  for PINE; None = plain
    decided   a run whose inputs decide the order of documents instead of this one's own

    Importance is computed in float64, so that the order is never what differs.
    """

    def __init__(self, segments: Segments | None = None, decided: Recorder | None = None) -> None:
        self._decided = decided
        lengths = segments.lengths if segments else ()
        self._prefix = len(segments.prefix) if segments else 0
        self._end = self._prefix + sum(lengths)
        self._lengths = torch.tensor(lengths, dtype=torch.long)
        self._owner = torch.arange(len(lengths)).repeat_interleave(self._lengths)
        firsts = self._lengths.cumsum(0) - self._lengths
        self._place = torch.arange(len(self._owner)) - firsts[self._owner]
        self._cached: dict[int, tuple[Tensor, Tensor]] = {}

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Read the prompt at once, then what follows (see `kvedit.together.Alone`)."""
        groups = query.shape[1] // key.shape[1]
        keys, values = (x.repeat_interleave(groups, 1) for x in (key, value))
        if layer.index in self._cached:
            held = self._cached[layer.index]
            keys, values = torch.cat([held[0], keys], 2), torch.cat([held[1], values], 2)
        self._cached[layer.index] = (keys, values)
        start, end = keys.shape[2] - query.shape[2], keys.shape[2]
        blocks = [slice(start, end)] if not len(self._lengths) else self._blocks(start, end)
        outputs = []
        for rows in blocks:
            asking = query[:, :, rows.start - start : rows.stop - start]
            outputs.append(self._rows(layer, rows, asking, keys, values))
        return torch.cat(outputs, 2)

    def _blocks(self, start: int, end: int) -> Iterator[slice]:
        """Yield rows that see documents at the same places: a document's, or one suffix token."""
        if start == 0:
            ends = [self._prefix, *(self._prefix + self._lengths.cumsum(0)).tolist()]
            yield from (slice(a, b) for a, b in pairwise([0, *ends]) if a < b)
        yield from (slice(row, row + 1) for row in range(max(start, self._end), end))

    def _rows(
        self, layer: Layer, rows: slice, query: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        at = torch.arange(keys.shape[2]).repeat(query.shape[1], 1)  # of each head's keys
        if self._prefix <= rows.start and len(self._lengths):
            inside = slice(self._prefix, self._end)
            own = int(self._owner[rows.start - self._prefix]) if rows.start < self._end else None
            asked = (query, keys)
            if self._decided is not None:
                query_then, key_then = self._decided.inputs(layer.index)
                groups = query.shape[1] // key_then.shape[1]
                asked = (query_then[:, :, rows], key_then.repeat_interleave(groups, 1))
            starts = self._starts(layer, asked[0], asked[1][:, :, inside], own)
            at[:, inside] = starts[:, self._owner] + self._place
        # rows, and what they see, stand at the same positions for all heads
        positions = at[0, rows]
        return scaled_dot_product_attention(
            rotated(layer, query, positions),
            rotated(layer, keys, at),
            values,
            attn_mask=causal_mask(positions, at[0]),
            scale=layer.scaling,
        )

    def _starts(self, layer: Layer, query: Tensor, keys: Tensor, own: int | None) -> Tensor:
        """Return where each document starts, [heads, documents] (PINE, section 3.3)."""
        product = query[0].double() @ keys[0].double().transpose(-1, -2) * layer.scaling
        if own is not None:
            product[..., self._owner == own] = -torch.inf
        weights = torch.softmax(product, -1).sum(-2)
        importance = weights.new_zeros((len(weights), len(self._lengths)))
        importance = importance.index_add_(-1, self._owner, weights) / self._lengths
        if own is not None:
            importance[:, own] = torch.inf
        order = importance.argsort(dim=-1, descending=True, stable=True)
        reach = self._lengths[order].cumsum(-1)
        return reach.new_empty(order.shape).scatter_(-1, order, self._end - reach)


def rotated(layer: Layer, vectors: Tensor, positions: Tensor) -> Tensor:
    """Rotate as transformers does: cosine and sine rounded to the dtype, then products in it.

    vectors    [batch, heads, tokens, dim]
    positions  [tokens] or [heads, tokens]
    """
    assert layer.geometry is not None and layer.geometry.layout == "half"
    precise = torch.promote_types(vectors.dtype, torch.float32)
    angles = positions[..., None].to(precise) * layer.geometry.inv_freq.to(precise)
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    partner: Tensor = rotate_half(vectors)
    return vectors * cos + partner * sin


PROMPTS = 6  # of a trained model
Prompts = list[tuple[Segments, Ids]]  # with the tokens that follow


def random_model() -> tuple[PreTrainedModel, Prompts]:
    """Return a random Llama of four layers, and prompts of random tokens."""
    model = tiny_llama(hidden_size=256, num_hidden_layers=4, intermediate_size=512)
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> Ids:
        return tuple(torch.randint(128, (count,), generator=generator).tolist())

    lengths = (24, 13, 32, 17, 5)
    cut = [Segments(ids(16), tuple(map(ids, lengths)), ids(16)) for _ in range(3)]
    return model, [(each.canonical(), ids(STEPS)) for each in cut]


def trained_model(folder: Path) -> tuple[PreTrainedModel, Prompts]:
    """Return a trained model, and prompts of the embedded model's small world."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    random, prompts = Random("precision"), []

    def ids(text: str) -> Ids:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    for _ in range(PROMPTS):
        asked = data.retrieval(random, DOCUMENTS, random.randrange(DOCUMENTS))
        documents = tuple(ids(f"{document}\n") for document in asked.documents)
        after = ids(f"{asked.question} It is said that the answer to this is not known.")
        segments = Segments(ids("Read this.\n"), documents, after[:-STEPS])
        prompts.append((segments.canonical(), after[-STEPS:]))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), prompts


def models() -> dict[str, Callable[[], tuple[PreTrainedModel, Prompts]]]:
    """Return the models at hand, by name."""
    found = {"random": random_model, "embedded": lambda: trained_model(WEIGHTS)}
    if STORIES.is_dir():
        found["stories"] = lambda: trained_model(STORIES)
    return found


def pieces(segments: Segments, after: Ids) -> list[Tensor]:
    """Return the forwards' ids: the prompt, then token by token."""
    return [torch.tensor([segments.ids]), *torch.tensor([after]).split(1, 1)]


def ours(cut: Segments | None, executor: Executor) -> Reader:
    """Return the plain reading, or PINE of some segments."""
    return Alone(PlainReading() if cut is None else PineReading(cut), executor)


def logits(door: Door, reader: Reader, ids: list[Tensor]) -> Tensor:
    """Return the logits of all tokens."""
    return torch.cat([door.run(piece, reader, keep=0) for piece in ids], 1)


def attention(reader: Reader, layer: Layer, inputs: list[Inputs], dtype: torch.dtype) -> Tensor:
    """Return the output of one layer alone, given the inputs in some dtype."""
    given = ([tensor.to(dtype) for tensor in each] for each in inputs)
    return torch.cat([reader.read(layer, *each) for each in given], 2)


def off(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of the difference relative to that of the truth."""
    return float((found.double() - exact).norm() / exact.norm())


def off_by_token(found: Tensor, exact: Tensor) -> list[float]:
    """Return the same for each token of [1, tokens, vocab]."""
    errors: list[float] = ((found.double() - exact).norm(dim=-1) / exact.norm(dim=-1))[0].tolist()
    return errors


@torch.inference_mode()
def rows_of(name: str, dtype: torch.dtype, prompts_at_most: int = PROMPTS) -> list[Row]:
    """Return the errors of both readings beside stock's, as medians over layers or tokens."""
    model, prompts = models()[name]()
    door = open_door(model.to(dtype))  # type: ignore[arg-type]  # transformers hides torch's `to`
    assert door.refusal is None
    exact = replace(door, model=copy.deepcopy(door.model).double())
    errors: dict[str, list[tuple[float, float]]] = {}
    for segments, after in prompts[:prompts_at_most]:
        ids = pieces(segments, after)
        for reading, cut in (("plain", None), ("PINE", segments)):
            runs = [Recorder(ours(cut, door.executor)), Recorder(Stock(cut))]
            own, stock = (
                off_by_token(logits(door, run, ids), logits(exact, Stock(cut, run), ids))
                for run in runs
            )
            errors.setdefault(f"{reading}, logits", []).extend(zip(own, stock, strict=True))
            for layer, inputs in runs[0].seen.values():
                truth = attention(Stock(cut), layer, inputs, torch.float64)
                readers = (ours(cut, door.executor), Stock(cut))
                found = [attention(each, layer, inputs, dtype) for each in readers]
                each = errors.setdefault(f"{reading}, attention", [])
                each.append((off(found[0], truth), off(found[1], truth)))
    case = f"{name}, {str(dtype)[6:]}"
    return [Row(case, what, *medians(pairs)) for what, pairs in errors.items()]


def medians(pairs: list[tuple[float, float]]) -> tuple[float, str, float]:
    """Return the median of our errors, no unit, and the median of stock's.

    Documents of nearly equal importance may change places by rounding, and a sharp attention may
    tip over: now and then a layer or a token is off by that, on either side, and a mean would show
    nothing else.
    """
    ours, stock = map(statistics.median, zip(*pairs, strict=True))
    return ours, "", stock


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    options = arguments((__doc__ or "").splitlines()[0])
    rows = []
    for name in models():
        for dtype in DTYPES:
            rows += rows_of(name, dtype, 1 if options.quick else PROMPTS)
    show("Error against float64; the baseline is stock SDPA in the same dtype", rows, options.json)


if __name__ == "__main__":
    main()
