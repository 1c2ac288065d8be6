import torch
from hypothesis import given
from hypothesis import strategies as st

from kvedit.state import State, attend, empty, merge

SCALING = 0.25


def tensors(seed: int, keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 3

    return draw(2, 4, 3, 8), draw(2, 2, keys, 8), draw(2, 2, keys, 8)


def close(one: State, other: State) -> None:
    torch.testing.assert_close(one.output, other.output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.weight_log, other.weight_log, atol=1e-5, rtol=1e-5)


def test_attend_is_softmax_attention_in_float64() -> None:
    query, key, value = tensors(0, 7)
    state = attend(query, key, value, SCALING)
    wide_key, wide_value = (t.double().repeat_interleave(2, 1) for t in (key, value))
    scores = query.double() @ wide_key.transpose(-1, -2) * SCALING
    expected = scores.softmax(-1) @ wide_value
    torch.testing.assert_close(state.output.double(), expected, atol=2e-5, rtol=0)
    expected = scores.exp().sum(-1).log()
    torch.testing.assert_close(state.weight_log.double(), expected, atol=2e-5, rtol=0)


@given(keys=st.integers(2, 20), data=st.data())
def test_attention_over_spans_is_a_merge_of_states(keys: int, data: st.DataObject) -> None:
    query, key, value = tensors(keys, keys)
    cut = data.draw(st.integers(0, keys))
    parts = [
        attend(query, key[:, :, part], value[:, :, part], SCALING)
        for part in (slice(0, cut), slice(cut, keys))
    ]
    close(merge(*parts), attend(query, key, value, SCALING))


@given(seed=st.integers(0, 50))
def test_merge_is_commutative_associative_and_has_an_identity(seed: int) -> None:
    query = tensors(seed, 1)[0]
    one, two, three = (attend(query, *tensors(seed + 100 * n, 3)[1:], SCALING) for n in (1, 2, 3))
    close(merge(one, two), merge(two, one))
    close(merge(merge(one, two), three), merge(one, merge(two, three)))
    close(merge(one, empty(query)), one)


def test_all_masked_is_the_empty_state_and_never_nan() -> None:
    query, key, value = tensors(1, 5)
    state = attend(query, key, value, SCALING, visible=torch.zeros(3, 5, dtype=torch.bool))
    nothing = empty(query)
    assert torch.equal(state.output, nothing.output)
    assert torch.equal(state.weight_log, nothing.weight_log)
    merged = merge(state, nothing)
    assert torch.equal(merged.output, nothing.output)
    assert torch.equal(merged.weight_log, nothing.weight_log)


def test_one_masked_row_leaves_the_others_alone() -> None:
    query, key, value = tensors(2, 5)
    visible = torch.ones(3, 5, dtype=torch.bool)
    visible[1] = False
    state, whole = (attend(query, key, value, SCALING, visible=v) for v in (visible, None))
    assert torch.equal(state.output[:, :, [0, 2]], whole.output[:, :, [0, 2]])
    assert not state.output[:, :, 1].any()


def test_soft_cap_bounds_the_scores() -> None:
    query, key, value = tensors(3, 5)
    state = attend(query * 100, key, value, SCALING, softcap=2.0)
    scores = query.double() * 100 @ key.double().repeat_interleave(2, 1).transpose(-1, -2) * SCALING
    weights = (2.0 * torch.tanh(scores / 2.0)).softmax(-1)
    expected = weights @ value.double().repeat_interleave(2, 1)
    torch.testing.assert_close(state.output.double(), expected, atol=1e-5, rtol=1e-5)
