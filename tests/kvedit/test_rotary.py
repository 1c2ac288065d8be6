import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import rotation

from kvedit.rotary import TABLE_REACH, Layout, RotaryGeometry, turn, turn_as_trained

LAYOUTS: tuple[Layout, ...] = ("half", "interleaved")
positions = st.integers(-2000, 2000)


def geometry(layout: Layout, width: int = 8) -> RotaryGeometry:
    return RotaryGeometry(10000.0 ** (-torch.arange(0, width, 2).float() / width), layout)


def vectors(seed: int, count: int = 3, dim: int = 8) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [8, 12])
def test_turn_is_the_matrix_of_the_paper(layout: Layout, dim: int) -> None:
    turning, x = geometry(layout), vectors(0, dim=dim)
    for position in (-7, 0, 1, 513):
        expected = x.double() @ rotation(position, turning.inv_freq, dim, layout).T
        turned = turning.turn(x, torch.tensor(position))
        torch.testing.assert_close(turned.double(), expected, atol=2e-4, rtol=0)


@given(a=positions, b=positions, layout=st.sampled_from(LAYOUTS))
def test_turning_twice_adds(a: int, b: int, layout: Layout) -> None:
    turning, x = geometry(layout), vectors(1)
    twice = turning.turn(turning.turn(x, torch.tensor(a)), torch.tensor(b))
    torch.testing.assert_close(twice, turning.turn(x, torch.tensor(a + b)), atol=2e-3, rtol=0)


@given(p=positions, s=positions, shift=positions, layout=st.sampled_from(LAYOUTS))
def test_scores_depend_on_distance_alone(p: int, s: int, shift: int, layout: Layout) -> None:
    turning, q, k = geometry(layout), vectors(2), vectors(3)

    def score(query: int, key: int) -> torch.Tensor:
        return (turning.turn(q, torch.tensor(query)) * turning.turn(k, torch.tensor(key))).sum(-1)

    torch.testing.assert_close(score(p, s), score(p + shift, s + shift), atol=5e-3, rtol=0)


def test_half_precision_is_turned_in_float32() -> None:
    turning, x = geometry("half"), vectors(4)
    turned = turning.turn(x.bfloat16(), torch.tensor(1001))
    exact = turning.turn(x.bfloat16().float(), torch.tensor(1001))
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, exact.bfloat16())


def test_positions_broadcast_over_heads_and_spans() -> None:
    turning = geometry("half")
    query = torch.randn(1, 4, 2, 1, 8, generator=torch.Generator().manual_seed(5))
    distance = torch.randint(-9, 9, (1, 4, 2, 3), generator=torch.Generator().manual_seed(6))
    turned = turning.turn(query, distance)
    assert turned.shape == (1, 4, 2, 3, 8)
    one = turning.turn(query[0, 1, 1, 0], distance[0, 1, 1, 2])
    assert torch.equal(turned[0, 1, 1, 2], one)


def test_a_layer_without_positions_is_left_alone() -> None:
    x = vectors(7)
    assert turn(None, x, torch.tensor(5)) is x


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", [TABLE_REACH, 10**6, 1 << 24, -(1 << 24)])
def test_angles_are_exact_beyond_the_table(layout: Layout, place: int) -> None:
    turning = geometry(layout)
    angles = torch.tensor(place).double() * turning.inv_freq.double()
    cos, sin = turning.phases(torch.tensor(place))
    pairs = torch.arange(8) // 2 if layout == "interleaved" else torch.arange(8) % 4
    torch.testing.assert_close(cos.double(), angles.cos()[pairs], atol=1e-6, rtol=0)
    torch.testing.assert_close(sin.abs().double(), angles.sin().abs()[pairs], atol=1e-6, rtol=0)


def test_before_the_table_ends_angles_are_the_models_own() -> None:
    turning, places = geometry("half"), torch.tensor([0, 1, 511, TABLE_REACH - 1])
    angles = places[:, None].float() * turning.inv_freq
    cos, _ = turning.phases(places)
    assert torch.equal(cos, torch.cat((angles.cos(), angles.cos()), -1))
    x = vectors(8, 4)
    assert torch.equal(turn_as_trained(turning, x, places), turning.turn(x, places))
    far = torch.full((4,), 10**6)
    assert not torch.equal(turn_as_trained(turning, x, far), turning.turn(x, far))
    assert turn_as_trained(None, x, far) is x


places = st.lists(
    st.lists(st.integers(0, 40_000) | st.integers(-50, 50), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@given(asked=places, layout=st.sampled_from(LAYOUTS))
def test_rows_of_a_table_are_the_phases_of_any_places(
    asked: list[list[int]], layout: Layout
) -> None:
    turning = geometry(layout)
    for _ in range(2):  # all layers of a step ask for the same
        table, rows = turning.rows_of(asked, 100)
        for own, numbers in zip(asked, rows, strict=True):
            expected = torch.cat(turning.phases(torch.tensor(own)), -1)
            assert torch.equal(table[list(numbers)], expected)


@given(first=st.integers(-20, 20_000), count=st.integers(0, 9), layout=st.sampled_from(LAYOUTS))
def test_a_run_of_places_has_their_phases(first: int, count: int, layout: Layout) -> None:
    turning = geometry(layout)
    expected = turning.phases(torch.arange(first, first + count))
    for found, each in zip(turning.between(first, first + count), expected, strict=True):
        assert torch.equal(found, each)


@given(asked=st.lists(st.integers(0, 20_000), min_size=1, max_size=6))
def test_looked_up_phases_are_the_same(asked: list[int]) -> None:
    turning, where = geometry("half"), torch.tensor(asked)
    expected = turning.phases(where)
    for found, each in zip(turning.looked_up(where, max(asked) + 1), expected, strict=True):
        assert torch.equal(found, each)
    rows, table = turning.rows_at(where, max(asked) + 1)
    assert torch.equal(table[rows], torch.cat(expected, -1))
