"""Averaging over orders: each is read as its own prompt would be, and reuse changes no bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from models import SHAPE, in_dtype, sharpen, tiny_llama, tiny_qwen2
from oracles import attention_at, rotary_of
from reads import EXECUTORS, close, each_executor, each_layer, read, vectors
from torch import Tensor
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, PreTrainedModel

from kvedit.average import AverageReading, Piece
from kvedit.executors import Executor
from kvedit.hf import Door, open_door
from kvedit.orders import Order, orders
from kvedit.reading import Layer, LayerKind
from kvedit.rotary import RotaryGeometry
from kvedit.segments import Ids, Segments
from kvedit.shelf import Shelf

pytestmark = pytest.mark.usefixtures("one_thread")

PREFIX = tuple(range(1, 71))
DOCUMENTS = tuple(tuple(range(d, d + 20 + d)) for d in range(5))
QUESTIONS = ((3, 8, 2), (90, 91, 92, 93, 94))
STEPS = torch.tensor([[5], [17], [5]])
# a prompt that is read at once; cut in three; without one of its ends, or with one document
PROMPTS = [
    pytest.param(Segments((1, 2), ((9, 8), (7,), (6, 5, 4)), (3, 11)), id="short"),
    pytest.param(Segments(PREFIX, DOCUMENTS, QUESTIONS[0]), id="long"),
    pytest.param(Segments((), DOCUMENTS, QUESTIONS[0]), id="no prefix"),
    pytest.param(Segments(PREFIX, DOCUMENTS, ()), id="no suffix"),
    pytest.param(Segments((), ((4, 5), (6, 7, 8)), ()), id="documents alone"),
    pytest.param(Segments((1,), (DOCUMENTS[2],), (3,)), id="one document"),
    pytest.param(Segments((1, 2), ((), (7, 9), ()), (3,)), id="empty documents"),
]


def narrow() -> MistralForCausalLM:
    """Return a model whose rows see a window, which is shorter than prefix and documents."""
    return sharpen(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=16)), 3)


def half() -> PreTrainedModel:
    """Return a model in bfloat16."""
    return in_dtype(tiny_llama(), torch.bfloat16)


MODELS = [
    pytest.param(tiny_llama, 5e-5, id="llama"),
    pytest.param(tiny_qwen2, 5e-5, id="qwen2"),
    pytest.param(narrow, 5e-5, id="windows"),
    pytest.param(half, 0.3, id="bfloat16"),
]


@torch.inference_mode()
def answers(
    door: Door, segments: Segments, chosen: Sequence[Order], shelf: Shelf | None = None
) -> tuple[list[Tensor], int]:
    """Return each order's logits, [orders, vocab], behind the prompt and three more tokens.

    returns  them, and how many tokens were cached
    """
    reading = AverageReading(segments, chosen, shelf)
    pieces = reading.pieces(len(segments.ids))
    new = [torch.tensor([segments.ids[piece.start : piece.stop]]) for piece in pieces]
    found = []
    for tokens in (*new, *STEPS[:, None]):
        spread, ends = reading.spread(tokens)
        found.append(door.forward(spread, reading, ends)[0])
    return found[len(new) - 1 :], pieces[0].start


def written(segments: Segments, order: Order) -> Ids:
    """Return a prompt whose documents stand in some order."""
    return segments.prefix + sum((segments.documents[n] for n in order), ()) + segments.suffix


@torch.inference_mode()
def stock_answers(model: PreTrainedModel, segments: Segments, order: Order) -> list[Tensor]:
    """Return what transformers makes of one order, [vocab] each, as `answers`."""
    cache = DynamicCache(config=model.config)
    return [
        model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[0, -1]
        for tokens in (torch.tensor([written(segments, order)]), *STEPS[:, None])
    ]


@pytest.mark.parametrize("segments", PROMPTS)
@pytest.mark.parametrize(("build", "near"), MODELS)
@each_executor
def test_each_order_is_read_as_transformers_reads_it_alone(
    executor: Executor, build: Callable[[], PreTrainedModel], near: float, segments: Segments
) -> None:
    chosen = orders(len(segments.documents), 2 * len(segments.documents))
    found, _ = answers(open_door(build(), executor), segments, chosen)
    for index, order in enumerate(chosen):
        expected = stock_answers(build(), segments, order)
        for step, logits in zip(found, expected, strict=True):
            close(step[index].float(), logits.float(), near)


def seen_of(lengths: Sequence[int], window: int | None) -> list[list[tuple[int, int]]]:
    """Return by row of what is spread: the keys that it sees, and their distances.

    lengths  of the prefix, and of each order's own tokens
    """
    prefix, own = lengths[0], lengths[1:]
    places = [list(range(prefix))]
    for first, length in zip(itertools.accumulate(lengths), own, strict=False):
        places.append([*range(prefix), *range(first, first + length)])
    rows = list[list[tuple[int, int]]]()
    for count, tokens in zip(lengths, places, strict=True):
        for row in range(len(tokens) - count, len(tokens)):
            nearest = 0 if window is None else max(0, row + 1 - window)
            rows.append([(tokens[key], row - key) for key in range(nearest, row + 1)])
    return rows


@each_executor
@each_layer
@pytest.mark.parametrize("window", [None, 3])
def test_what_is_spread_equals_the_oracle(
    executor: Executor, layer: Layer, dim: int, window: int | None
) -> None:
    segments = Segments((1, 2, 3), ((4, 5), (6,)), (7, 8))
    reading = AverageReading(segments, orders(2, 2))
    spread, ends = reading.spread(torch.tensor([segments.ids]))
    assert spread.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 6, 4, 5, 7, 8]]
    assert ends == [7, 12]
    seen = seen_of((3, 5, 5), window)
    qkv = vectors(13, dim=dim)
    expected = attention_at(
        qkv, lambda row: seen[row], rotary_of(layer.geometry), layer.scaling, layer.softcap
    )
    windowed = Layer(0, layer.geometry, layer.scaling, layer.softcap, window=window)
    close(read(executor, reading, windowed, qkv, (13,))[0].double(), expected, 1e-5)


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("build", "near"), MODELS)
@each_executor
def test_the_callers_order_changes_no_bit(
    executor: Executor, build: Callable[[], PreTrainedModel], near: float
) -> None:
    door = open_door(build(), executor)
    documents = (*DOCUMENTS[:3], (7,), DOCUMENTS[1], ())  # two are equal, and one is empty
    chosen = orders(len(documents), 3)
    first, _ = answers(door, Segments((1, 2), documents, (3, 8)).canonical(), chosen)
    for sent in itertools.islice(itertools.permutations(documents), 1, 720, 131):
        found, _ = answers(door, Segments((1, 2), sent, (3, 8)).canonical(), chosen)
        assert same(found, first)


def test_without_canonical_order_the_bits_do_change() -> None:
    """The planted fault: what the law above would miss if it could not fail."""
    door, chosen = open_door(tiny_llama()), orders(3, 2)
    one, other = (
        answers(door, Segments((1, 2), sent, (3,)), chosen)[0]
        for sent in (DOCUMENTS[:3], DOCUMENTS[2::-1])
    )
    assert not same(one, other)


def prompt(question: Ids, documents: tuple[Ids, ...] = DOCUMENTS, prefix: Ids = PREFIX) -> Segments:
    return Segments(prefix, documents, question).canonical()


@pytest.fixture(scope="module", params=EXECUTORS, ids=lambda each: each.name)
def door(request: pytest.FixtureRequest) -> Door:
    return open_door(tiny_llama(), request.param)


SQUARE = orders(len(DOCUMENTS), 3)
SQUARE_OF_SEVEN = orders(7, 3)
ROOM = 1 << 26


def test_the_block_comes_back_in_any_order_with_another_question(door: Door) -> None:
    shelf = Shelf(ROOM)
    _, cached = answers(door, prompt(QUESTIONS[0]), SQUARE, shelf)
    assert cached == 0
    fresh, _ = answers(door, prompt(QUESTIONS[1]), SQUARE)
    again, cached = answers(door, prompt(QUESTIONS[1], DOCUMENTS[::-1]), SQUARE, shelf)
    assert cached == len(PREFIX) + sum(map(len, DOCUMENTS))
    assert same(again, fresh)


def test_the_prefix_comes_back_with_other_documents(door: Door) -> None:
    shelf, others = Shelf(ROOM), tuple(document[::-1] for document in DOCUMENTS)
    answers(door, prompt(QUESTIONS[0]), SQUARE, shelf)
    fresh, _ = answers(door, prompt(QUESTIONS[0], others), SQUARE)
    again, cached = answers(door, prompt(QUESTIONS[0], others), SQUARE, shelf)
    assert cached == len(PREFIX)
    assert same(again, fresh)


@pytest.mark.parametrize("prefix", [(), (1, 2, 3)], ids=len)
def test_a_block_behind_a_short_prefix_comes_back(door: Door, prefix: Ids) -> None:
    """Its buffers have room for more than what is shared of them."""
    shelf = Shelf(ROOM)
    documents = DOCUMENTS + DOCUMENTS[3:]
    for _ in range(2):
        segments = prompt(QUESTIONS[0], documents, prefix)
        found, cached = answers(door, segments, SQUARE_OF_SEVEN, shelf)
    assert cached == len(prefix) + sum(map(len, documents))
    for index, order in enumerate(SQUARE_OF_SEVEN):
        expected = stock_answers(tiny_llama(), segments, order)
        for step, logits in zip(found, expected, strict=True):
            close(step[index], logits, 5e-5)


def test_answers_do_not_write_on_what_they_share(door: Door) -> None:
    shelf = Shelf(ROOM)
    first, _ = answers(door, prompt(QUESTIONS[0]), SQUARE, shelf)
    for _ in range(2):
        answers(door, prompt(QUESTIONS[1]), SQUARE, shelf)
    again, _ = answers(door, prompt(QUESTIONS[0]), SQUARE, shelf)
    assert same(again, first)


def test_other_orders_or_another_prefix_make_another_block(door: Door) -> None:
    shelf, more = Shelf(ROOM), orders(len(DOCUMENTS), 4)
    answers(door, prompt(QUESTIONS[0]), SQUARE, shelf)
    for segments, chosen in (
        (prompt(QUESTIONS[0]), more),
        (prompt(QUESTIONS[0], prefix=PREFIX[::-1]), SQUARE),
    ):
        fresh, _ = answers(door, segments, chosen)
        again, cached = answers(door, segments, chosen, shelf)
        assert cached == 0
        assert same(again, fresh)


def test_a_full_shelf_only_costs_time(door: Door) -> None:
    shelf = Shelf(1000)
    one, _ = answers(door, prompt(QUESTIONS[0]), SQUARE, shelf)
    other, cached = answers(door, prompt(QUESTIONS[0]), SQUARE, shelf)
    assert (cached, shelf.used) == (0, 0)
    assert same(one, other)


@pytest.mark.parametrize("prefix", [PREFIX, (1, 2, 3)], ids=len)
def test_the_shelf_counts_all_that_it_holds(door: Door, prefix: Ids) -> None:
    """The documents as often as there are orders, and buffers in their full size."""
    shelf, documents = Shelf(ROOM), DOCUMENTS + DOCUMENTS[3:]
    answers(door, prompt(QUESTIONS[0], documents, prefix), SQUARE_OF_SEVEN, shelf)
    held, pieces = 0, [each.piece for each in shelf._kept.values()]
    for piece in itertools.chain(*(each.values() for each in pieces if isinstance(each, dict))):
        assert isinstance(piece, Piece)
        for span in (piece.prefix, *piece.orders):
            if span.held:
                assert span._keys is not None and span._values is not None
                storages = [each.untyped_storage() for each in (span._keys, span._values)]
                held += sum(storage.nbytes() for storage in storages)
    assert shelf.used == held
    config = door.model.config
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * 16 * 4  # bytes
    assert held > token * len(SQUARE_OF_SEVEN) * sum(map(len, documents))


def test_the_middle_of_a_document_is_no_border() -> None:
    segments = prompt(QUESTIONS[0])
    for count in (75, len(segments.ids) - 5):
        with pytest.raises(ValueError, match=f"may be cut, got 0 to {count}"):
            AverageReading(segments, SQUARE).spread(torch.tensor([segments.ids[:count]]))


def test_the_report_names_the_callers_documents() -> None:
    segments = Segments((1, 2), ((9, 8), (7,), (6, 5)), (3,)).canonical()  # = the caller's 2, 1, 0
    reading = AverageReading(segments, orders(3, 2))
    assert reading.pieces(len(segments.ids)) == (range(len(segments.ids)),)
    reading.spread(torch.tensor([segments.ids]))
    assert reading.report() == {
        "average": {"documents": 3, "orders": [[2, 1, 0], [1, 0, 2]], "tokens_read": 2 + 2 * 6}
    }


def test_it_suits_windows_and_no_layer_that_is_refused() -> None:
    geometry = RotaryGeometry(torch.ones(4))
    window, refused = LayerKind(geometry, window=8), LayerKind(geometry, refusal="it is odd")
    assert AverageReading.suits([LayerKind(None), window]) is None
    assert AverageReading.suits([window, refused]) == "it is odd"
