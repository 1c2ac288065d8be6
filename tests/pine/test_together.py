"""Prompts with documents side by side: those that are short are read in one pass, each as alone."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from models import in_dtype, tiny_llama, tiny_qwen2
from reads import ids
from torch import Tensor
from transformers import PreTrainedModel

from kvedit.executors.cpu import packed
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.cpu.packed import PromptPack
from kvedit.hf import Door, open_door
from kvedit.plain import PlainReading
from kvedit.reading import Layer, Reading
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from kvedit.sight import Rows
from pine.reading import PineReading


@pytest.fixture(autouse=True)
def one_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the prompts, padding never keeps them apart."""
    monkeypatch.setattr(packed, "ANOTHER", 10**9)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the layers of all passes."""
    layers, read = list[int](), PromptPack.read

    def record(own: PromptPack, layer: Layer, *rest: object) -> Tensor:
        layers.append(layer.index)
        return read(own, layer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptPack, "read", record)
    return layers


def prompt(seed: int, *lengths: int) -> Segments:
    pieces = [tuple(ids(seed + place, length)[0].tolist()) for place, length in enumerate(lengths)]
    return Segments(pieces[0], tuple(pieces[1:-1]), pieces[-1]).canonical()


PROMPTS = [prompt(0, 5, 7, 7, 4), prompt(10, 9, 3, 18, 1, 9, 6), prompt(20, 0, 12, 3)]
PIECES = [torch.tensor([each.ids]) for each in PROMPTS]


@pytest.fixture(scope="module")
def door() -> Door:
    return open_door(tiny_llama(), CpuExecutor())


def steps(count: int) -> Iterator[list[Tensor]]:
    for step in range(3):
        yield [ids(100 + 10 * step + place, 1) for place in range(count)]


def check(
    door: Door, logits: Tensor, readings: Sequence[Reading], pieces: Sequence[Tensor], near: float
) -> None:
    """Compare last-token logits with what other readings of the same say alone."""
    for row, reading, own in zip(logits, readings, pieces, strict=True):
        expected = door.forward(own, reading)[0, -1:]
        torch.testing.assert_close(row, expected, atol=near, rtol=0)


@pytest.mark.parametrize(
    ("build", "dtype", "near"),
    [
        (tiny_llama, torch.float32, 5e-5),
        (tiny_qwen2, torch.float32, 5e-5),
        (tiny_llama, torch.bfloat16, 0.3),
    ],
)
@torch.inference_mode()
def test_models_go_on_as_after_a_lone_prompt(
    watched: list[int], build: Callable[[], PreTrainedModel], dtype: torch.dtype, near: float
) -> None:
    own = open_door(in_dtype(build(), dtype), CpuExecutor())
    assert own.refusal is None
    watched.clear()
    together, alone = ([PineReading(each, explain=True) for each in PROMPTS] for _ in range(2))
    for tokens in itertools.chain([PIECES], steps(len(PROMPTS))):
        logits, failed = own.together(tokens, together)
        assert not failed
        check(own, logits, alone, tokens, near)
    assert watched == [0, 1]  # of the prompts alone
    if dtype == torch.float32:
        for one, other in zip(together, alone, strict=True):
            expected = pytest.approx(other.report()["pine"]["importance"], abs=1e-6)
            assert one.report()["pine"]["importance"] == expected


@torch.inference_mode()
def test_others_in_the_forward_read_on_their_own(door: Door, watched: list[int]) -> None:
    """Plain prompts, tokens, and prompts of which a part is cut off stand between the members."""
    cut = prompt(30, 70, 9, 4, 3)
    pieces = [PIECES[0], torch.tensor([cut.prefix]), PIECES[1], ids(5, 20)]

    def cast() -> list[Reading]:
        shelf = PineReading(cut, Shelf(10**6))
        return [PineReading(PROMPTS[0]), shelf, PineReading(PROMPTS[1]), PlainReading()]

    logits, failed = door.together(pieces, cast())
    assert not failed
    assert watched == [0, 1]
    check(door, logits, cast(), pieces, 5e-5)


class Failing(PineReading):
    """Fails in the second layer of the prompt."""

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        if layer.index == 1:
            raise RuntimeError("planted")
        return super().rows(layer, key, value)


@torch.inference_mode()
def test_a_member_that_fails_disturbs_nobody(door: Door, watched: list[int]) -> None:
    readings = [PineReading(PROMPTS[0]), Failing(PROMPTS[1]), PineReading(PROMPTS[2])]
    logits, failed = door.together(PIECES, readings)
    assert list(failed) == [1]
    assert str(failed[1]) == "planted"
    assert watched == [0]  # in the next layer each goes alone
    for place in (0, 2):
        check(door, logits[[place]], [PineReading(PROMPTS[place])], [PIECES[place]], 5e-5)


@pytest.mark.parametrize("where", ["read", "__init__"])
@torch.inference_mode()
def test_a_pass_that_fails_is_done_without(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    def fail(self: object, *rest: object) -> None:
        raise MemoryError("planted")

    monkeypatch.setattr(PromptPack, where, fail)
    logits, failed = door.together(PIECES, [PineReading(each) for each in PROMPTS])
    assert not failed
    assert len(caplog.records) == 1  # it is not tried again in the next layer
    assert "planted" in caplog.text
    check(door, logits, [PineReading(each) for each in PROMPTS], PIECES, 5e-5)


@torch.inference_mode()
def test_a_part_of_a_prompt_is_never_read_in_company(door: Door) -> None:
    pieces = [PIECES[0][:, :7], *PIECES[1:]]
    logits, failed = door.together(pieces, [PineReading(each) for each in PROMPTS])
    assert list(failed) == [0]  # the middle of a document is no border
    for place in (1, 2):
        check(door, logits[[place]], [PineReading(PROMPTS[place])], [PIECES[place]], 5e-5)
