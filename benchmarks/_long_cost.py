"""What a token costs at the end of texts of many lengths: decoded, and as part of a prompt.

Texts of all lengths take turns, a few tokens each, so that a slow minute of the machine hits all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from benchmarks._figures import Figure, median, table, told
from benchmarks._harness import Row
from benchmarks._loaded import Model
from benchmarks._long_ways import FIRST, copied, read
from benchmarks._memory import resident
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading
from kvedit.reading import Reading

PIECE = 512  # tokens of a prompt's chunk
STEPS = 8  # tokens decoded in a turn
REFILLED = 4  # windows that are read after a jump: by then the buffers are as large as they become
WAYS = ("LM-Infinite", "plain", "stock")

Run = Callable[[], float]  # one turn; returns the seconds of a token


@dataclass(frozen=True)
class Asked:
    """What is measured.

    lengths  tokens before those that are timed, ascending
    window   of LM-Infinite
    really   up to how many tokens a text is read; then its ring is emptied, and filled again with
             tokens at the last places: as many keys, turned as far
    plain    up to how many tokens plain attention is measured; its keys are random
    stock    the same for transformers' own cache, which copies all keys at every token
    """

    lengths: Sequence[int]
    window: int
    really: int
    plain: int
    stock: int


@dataclass
class Costs:
    """What was found, by way and length.

    decode    seconds of a token, by turn
    prefill   the same for a token of a chunk of a prompt
    held      bytes of the sequence
    resident  bytes of the process after reading so much with LM-Infinite
    """

    decode: dict[str, list[float]]
    prefill: dict[str, list[float]]
    held: dict[str, int]
    resident: dict[str, float]


def costs(model: Model, asked: Asked, turns: int, seed: int) -> Costs:
    """Measure everything."""
    generator = torch.Generator().manual_seed(seed)
    found = Costs({}, {}, {}, {})
    decode, prefill = dict[str, Run](), dict[str, Run]()
    for length, reading, memory in _read_to(model, asked, generator):
        name = f"LM-Infinite {length}"
        decode[name], prefill[name] = _steps(model, reading), _chunk(model, reading)
        found.held[name], found.resident[name] = _size(reading), memory
    for length in asked.lengths:
        if length <= asked.plain:
            reading, name = _random(model, length, generator), f"plain {length}"
            decode[name], prefill[name] = _steps(model, reading), _chunk(model, reading)
            found.held[name] = _size(reading)
        if length <= asked.stock:
            reading, name = _random(model, length, generator), f"stock {length}"
            decode[name] = _stock(model, _cache(model, reading))
            found.held[name] = _size(reading)
    found.decode, found.prefill = _in_turns(turns, decode), _in_turns(turns, prefill)
    return found


def _in_turns(turns: int, ways: Mapping[str, Run]) -> dict[str, list[float]]:
    for run in ways.values():
        run()  # buffers grow once
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, run in ways.items():
            seen[name].append(run())
    return seen


def _read_to(
    model: Model, asked: Asked, generator: torch.Generator
) -> Sequence[tuple[int, Reading, float]]:
    """Return LM-Infinite at every length, and the process's bytes when it got there."""
    reading = LmInfiniteReading(FIRST, asked.window, asked.window, PIECE)
    made, at, copies = [], 0, 0
    for length in asked.lengths:
        place = length - REFILLED * asked.window
        if length > asked.really and place > max(at, FIRST):
            read(model, reading, _tokens(model, max(FIRST - at, 0), generator))
            _jump(reading, place)
            at = place
        while at < length:
            count = min(PIECE, length - at)
            read(model, reading, _tokens(model, count, generator), PIECE)
            at += count
        made.append((length, copied(model, reading), resident("VmRSS") - copies))
        copies += _size(reading)
    return made


def _jump(reading: LmInfiniteReading, place: int) -> None:
    """Empty the ring, and let it go on at another place."""
    for _, ring in reading._spans.values():
        ring.drop(ring.held)
        ring.first = ring.length = place


def _tokens(model: Model, count: int, generator: torch.Generator) -> list[int]:
    vocabulary = int(model.door.model.config.get_text_config(decoder=True).vocab_size)
    return torch.randint(vocabulary, (count,), generator=generator).tolist()


def _size(reading: Reading) -> int:
    """Return the bytes of what a reading holds."""
    held = reading._spans.values()  # type: ignore[attr-defined]
    spans = [each if isinstance(each, tuple) else (each,) for each in held]
    return sum(span.size for several in spans for span in several if span.length)


def _steps(model: Model, reading: Reading) -> Run:
    token = torch.tensor([[1]])

    def run() -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            model.door.forward(token, reading)
        return (time.perf_counter() - begun) / STEPS

    return run


def _chunk(model: Model, reading: Reading) -> Run:
    tokens = torch.ones((1, PIECE), dtype=torch.int64)

    def run() -> float:
        begun = time.perf_counter()
        model.door.forward(tokens, reading, None)
        return (time.perf_counter() - begun) / PIECE

    return run


def _shapes(model: Model) -> dict[int, torch.Tensor]:
    """Return each layer's keys of one token."""
    reading = PlainReading()
    read(model, reading, [1])
    return {index: span.keys for index, span in reading._spans.items()}


def _random(model: Model, length: int, generator: torch.Generator) -> PlainReading:
    layers = {}
    for index, key in _shapes(model).items():
        shape = (1, key.shape[1], length, key.shape[3])
        keys = torch.randn(shape, generator=generator, dtype=torch.float32).to(key.dtype)
        layers[index] = keys, keys.clone()
    return PlainReading.holding(length, layers, model.door.geometries)


def _cache(model: Model, reading: PlainReading) -> DynamicCache:
    """Return transformers' cache of what a reading holds."""
    cache = DynamicCache(config=model.door.model.config)
    for index, span in reading._spans.items():
        cache.update(span.keys, span.values, index)
    return cache


def _stock(model: Model, cache: DynamicCache) -> Run:
    token = torch.tensor([[1]])

    def run() -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            model.door.model(input_ids=token, past_key_values=cache, logits_to_keep=1)
        return (time.perf_counter() - begun) / STEPS

    return run


def show(title: str, found: Costs, base: int, chunked: int) -> list[Row]:
    """Print what a token costs at each length, and as a multiple of what it costs at others.

    base     length that decoded tokens and memory are told beside
    chunked  length that prompts are told beside
    """
    shown, rows = [], list[Row]()
    for name, seconds in found.decode.items():
        way, length = name.split()
        prompt = found.prefill.get(name)
        decoded, held = median(seconds), found.held[name]
        slower = _beside(found.decode, way, length, base)
        rate = None if prompt is None else 1 / median(prompt)[0]
        faster = None if rate is None else _beside(found.prefill, way, length, chunked, rate=True)
        memory = (f"{held / 2**20:,.2f}", *(_share(of, way, name, base)
                  for of in (found.held, found.resident)))  # fmt: skip
        shown.append((way, f"{int(length):,}", told(decoded, factor=1e3), told(slower),
                      "" if rate is None else f"{rate:,.0f}", told(faster), *memory))  # fmt: skip
        rows += _rows(f"{way}, {length} tokens", decoded[0], slower, rate, faster, held)
    table(title, ("", "tokens before", "ms a decoded token", f"/ at {base:,}",
                  "prompt tokens/s", f"/ at {chunked:,}", "MiB held", f"/ at {base:,}",
                  f"process / at {base:,}"), shown)  # fmt: skip
    return rows


def _rows(
    case: str,
    decoded: float,
    slower: Figure | None,
    rate: float | None,
    faster: Figure | None,
    held: int,
) -> list[Row]:
    rows = [
        Row(case, "a decoded token", decoded * 1e3, "ms", slower and decoded * 1e3 / slower[0]),
        Row(case, "memory of the sequence", held / 2**20, "MiB"),
    ]
    if rate is not None:
        rows.append(Row(case, "prompt", rate, "tokens/s", faster and rate / faster[0]))
    return rows


def _beside(
    times: Mapping[str, list[float]], way: str, length: str, base: int, rate: bool = False
) -> Figure | None:
    """Return a way's time, or its rate, as a multiple of that at another length, turn by turn."""
    other = times.get(f"{way} {base}")
    if other is None:
        return None
    pairs = zip(times[f"{way} {length}"], other, strict=True)
    return median([before / now if rate else now / before for now, before in pairs])


def _share(held: Mapping[str, float], way: str, name: str, base: int) -> str:
    other = held.get(f"{way} {base}")
    return f"{held[name] / other:.3f}" if other and name in held else ""
