"""Slots: written anywhere, in any order, and laid out anew, a key is turned once."""

from __future__ import annotations

import pytest
import torch
from reads import HALF, INTERLEAVED, vectors

from kvedit.edit import Piece
from kvedit.rotary import RotaryGeometry, turn
from kvedit.slots import Slots

GEOMETRIES = [
    pytest.param(HALF, id="half"),
    pytest.param(INTERLEAVED, id="interleaved"),
    pytest.param(None, id="no positions"),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_key_is_turned_for_the_slot_that_it_is_in(
    geometry: RotaryGeometry | None, dtype: torch.dtype
) -> None:
    _, key, value = (each.to(dtype) for each in vectors(100))
    slots = Slots(geometry)
    slots.write([Piece(0, 40)], key[:, :, :40], value[:, :, :40])
    slots.write([Piece(70, 30), Piece(45, 25), Piece(40, 5)], key[:, :, 40:], value[:, :, 40:])
    order = [*range(40), *range(95, 100), *range(70, 95), *range(40, 70)]
    span = slots.span(0, 100)
    assert torch.equal(span.keys, turn(geometry, key[:, :, order], torch.arange(100), 100))
    assert torch.equal(span.values, value[:, :, order])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_laid_out_anew_keys_are_as_if_written_there(geometry: RotaryGeometry | None) -> None:
    _, key, value = (each.to(torch.bfloat16) for each in vectors(60))
    slots, expected = Slots(geometry), Slots(geometry)
    for where in (Piece(0, 20), Piece(40, 20), Piece(200, 20)):
        tokens = slice(0, 20) if where.slot == 0 else slice(20, 40)
        tokens = slice(40, 60) if where.slot == 40 else tokens
        slots.write([where], key[:, :, tokens], value[:, :, tokens])
    slots.renew([Piece(0, 20), Piece(200, 20), Piece(40, 20)])
    expected.write([Piece(0, 60)], key, value)
    for found, wanted in ((slots, expected),):
        one, other = found.span(0, 60), wanted.span(0, 60)
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)
    slots.renew([Piece(10, 5), Piece(0, 10)])
    assert torch.equal(slots.span(0, 5).values, value[:, :, 10:15])


def test_slots_that_nobody_wrote_yet_may_be_laid_out() -> None:
    _, key, value = vectors(80)
    slots = Slots(HALF)
    slots.write([Piece(0, 60)], key[:, :, :60], value[:, :, :60])
    slots.renew([Piece(0, 30), Piece(60, 100), Piece(30, 30)])
    slots.write([Piece(30, 20)], key[:, :, 60:], value[:, :, 60:])
    span = slots.span(0, 160)
    assert torch.equal(span.values[:, :, 130:], value[:, :, 30:60])
    assert torch.equal(span.values[:, :, 30:50], value[:, :, 60:])
    assert span.values.isfinite().all() and span.keys.isfinite().all()


def test_its_size_is_that_of_keys_twice_and_values() -> None:
    _, key, value = vectors(64)
    slots, bare = Slots(HALF), Slots(None)
    assert slots.size == 0
    for each in (slots, bare):
        each.write([Piece(0, 64)], key, value)
    assert slots.size == 2 * key.nbytes + value.nbytes
    assert bare.size == key.nbytes + value.nbytes
