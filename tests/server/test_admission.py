"""Places, and the two steps of stopping."""

import asyncio

import pytest

from server.admission import Admission
from server.errors import EngineError, Overloaded


def test_the_one_beyond_the_limit_is_told_to_come_back() -> None:
    admission = Admission(2)
    first, _ = admission.take(), admission.take()
    with pytest.raises(Overloaded, match="at most 2") as caught:
        admission.take()
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    first.release()
    first.release()
    admission.take()
    with pytest.raises(Overloaded):
        admission.take()


def test_a_place_is_given_back_when_its_block_fails() -> None:
    admission = Admission(1)
    with pytest.raises(KeyError), admission.take():
        raise KeyError
    assert admission.running == 0


async def test_draining_waits_for_who_is_inside_and_lets_nobody_in() -> None:
    admission = Admission(2)
    place = admission.take()
    admission.drain()
    with pytest.raises(EngineError, match="server must be running") as caught:
        admission.take()
    assert caught.value.status == 503
    assert not await admission.idle(0.01)
    asyncio.get_running_loop().call_later(0.01, place.release)
    assert await admission.idle(5)
    assert not admission.aborted.is_set()
    admission.abort()
    assert admission.aborted.is_set()
