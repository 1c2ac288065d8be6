"""Attention states and their merge: attention over spans is a merge of one state per span.

A state is the softmax-weighted output over some keys with the natural log of the total weight.
Merging is commutative and associative, and the empty state is its identity (Milakov and Gimelshein,
arXiv 1805.02867; Dao et al., arXiv 2205.14135, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What some queries read from some keys.

    output      [batch, heads, query, dim]  weighted average of the values; zero if nothing is seen
    weight_log  [batch, heads, query]       natural log of the sum of exp(score); -inf likewise
    """

    output: Tensor
    weight_log: Tensor


def scores(query: Tensor, key: Tensor, scaling: float, softcap: float | None = None) -> Tensor:
    """Return scaled, capped scores of grouped queries, in float32.

    query    [batch, heads, query, dim]
    key      [batch, kv_heads, kv, dim]  each serves heads / kv_heads consecutive query heads
    returns  [batch, heads, query, kv] float32 (float64 for float64 queries)
    """
    batch, heads, length, dim = query.shape
    kv_heads, kv = key.shape[1:3]
    precise = torch.promote_types(query.dtype, torch.float32)
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * length, dim)
    product = (grouped.to(precise) * scaling) @ key.to(precise).transpose(-1, -2)
    return capped(product, softcap).view(batch, heads, length, kv)


def capped(product: Tensor, softcap: float | None) -> Tensor:
    """Bound scores softly, `softcap * tanh(score / softcap)` (Gemma 2), or leave them."""
    if softcap is None:
        return product
    return product.div_(softcap).tanh_().mul_(softcap)


def weigh(weights: Tensor, value: Tensor) -> Tensor:
    """Sum values by weights.

    weights  [batch, heads, query, kv]
    value    [batch, kv_heads, kv, dim]
    returns  [batch, heads, query, dim], dtype of the weights
    """
    batch, heads, length, kv = weights.shape
    kv_heads, dim = value.shape[1], value.shape[-1]
    grouped = weights.reshape(batch, kv_heads, heads // kv_heads * length, kv)
    return (grouped @ value.to(weights.dtype)).view(batch, heads, length, dim)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    *,
    visible: Tensor | None = None,
    softcap: float | None = None,
) -> State:
    """Attend to one span.

    query    [batch, heads, query, dim]     turned to the span's frame
    key      [batch, kv_heads, kv, dim]     in the span's frame
    value    [batch, kv_heads, kv, dim]
    visible  bool, broadcast to [batch, heads, query, kv]; None = everything
    returns  the state, in float32; the empty state where nothing is visible, never NaN
    """
    product = scores(query, key, scaling, softcap)
    if visible is not None:
        product = product.masked_fill_(~visible, -torch.inf)
    weight_log = product.logsumexp(-1)
    # where nothing is visible, weight_log is -inf: subtract 0, and every weight is exp(-inf)
    anchor = weight_log.masked_fill(weight_log == -torch.inf, 0.0)
    weights = product.sub_(anchor[..., None]).exp_()
    return State(weigh(weights, value), weight_log)


def empty(query: Tensor) -> State:
    """Return the state of queries that see nothing: the identity of `merge`.

    query  [batch, heads, query, dim]
    """
    precise = torch.promote_types(query.dtype, torch.float32)
    output = torch.zeros_like(query, dtype=precise)
    return State(output, output.new_full(query.shape[:-1], -torch.inf))


def merge(one: State, other: State) -> State:
    """Join what the same queries read from two disjoint sets of keys."""
    weight_log = torch.logaddexp(one.weight_log, other.weight_log)
    anchor = weight_log.masked_fill(weight_log == -torch.inf, 0.0)
    share = (one.weight_log - anchor).exp()[..., None]
    rest = (other.weight_log - anchor).exp()[..., None]
    return State(one.output * share + other.output * rest, weight_log)
