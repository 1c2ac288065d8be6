"""Kernels that weigh spans, positions left out: what ranks are made from."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call,no-any-return,misc"

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from kvedit.executors.gpu import tiles


@triton.jit(do_not_specialize=["length", "spans", "per_program"])
def weigh(
    query,
    raw,
    logs,
    first_slot,
    lengths,
    scale,
    cap,
    length,
    spans,
    per_program,
    group,
    kv_heads,
    query_strides,
    key_strides,
    dim: tl.constexpr,
    width: tl.constexpr,
    capped: tl.constexpr,
    interpreted: tl.constexpr,
    rows: tl.constexpr,
    keys: tl.constexpr,
):
    """Write the natural log of each span's weight for each query, without positions.

    One program per (tile of rows, chunk of spans, batch and KV head); rows as in `read_sights`.
    logs  [batch, heads, query, spans] float32
    """
    batch = (tl.program_id(2) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(2) % kv_heads).to(tl.int64)
    index = tl.program_id(0) * rows + tl.arange(0, rows)
    real = index < group * length
    head, row = kv_head * group + index // length, (index % length).to(tl.int64)
    at = query + batch * query_strides[0] + head * query_strides[1] + row * query_strides[2]
    dims = tl.arange(0, width)
    asking = tl.load(
        at[:, None] + dims[None, :], mask=real[:, None] & (dims < dim)[None, :], other=0.0
    )
    if interpreted:
        asking = asking.to(tl.float32)
    line = ((batch * kv_heads * group + head) * length + row) * spans
    raw += batch * key_strides[0] + kv_head * key_strides[1]
    begin = tl.program_id(1) * per_program
    for span in range(begin, tl.minimum(begin + per_program, spans)):
        count = tl.load(lengths + span)
        span_key = raw + tl.load(first_slot + span) * dim
        maximum = tl.full((rows,), -float("inf"), tl.float32)
        total = tl.zeros((rows,), tl.float32)
        for first in range(0, count, keys):
            at_key = first + tl.arange(0, keys)
            block = tl.load(
                span_key + at_key[None, :] * dim + dims[:, None],
                mask=(at_key < count)[None, :] & (dims < dim)[:, None],
                other=0.0,
            )
            product = tiles.bounded(tiles.dot(asking, block, interpreted) * scale, cap, capped)
            product = tl.where((at_key < count)[None, :], product, -float("inf"))
            highest = tl.maximum(maximum, tl.max(product, 1))
            total = total * tl.exp2(maximum - highest)
            total += tl.sum(tl.exp2(product - highest[:, None]), 1)
            maximum = highest
        tl.store(logs + line + span, (maximum + tl.log2(total)) * tiles.LN_2, mask=real)


@triton.jit(do_not_specialize=["tokens", "spans"])
def add_shares(
    logs,
    weight,
    first_token,
    lengths,
    tokens,
    spans,
    rows: tl.constexpr,
    width: tl.constexpr,
):
    """Sum what a span's tokens give each other span, per token of it (PINE, section 3.3).

    One program per (asking span, batch and head), so that the sum has one order.
    logs    [batch, heads, tokens, spans] as from `weigh`
    weight  [batch, heads, asking, spans] float32; infinite for the asking span itself
    """
    own, line = tl.program_id(0), tl.program_id(1).to(tl.int64)
    span = tl.arange(0, width)
    size = tl.load(lengths + own)
    others = (span < spans) & (span != own)
    logs += (line * tokens + tl.load(first_token + own)) * spans
    total = tl.zeros((width,), tl.float32)
    for first in range(0, size, rows):
        token = first + tl.arange(0, rows)
        real = (token < size)[:, None] & others[None, :]
        numbers = tl.load(
            logs + token[:, None] * spans + span[None, :], mask=real, other=-float("inf")
        )
        anchor = tl.max(tl.where((token < size)[:, None], numbers, 0.0), 1)
        shares = tl.exp(numbers - anchor[:, None])
        total += tl.sum(shares / tl.maximum(tl.sum(shares, 1), 1e-30)[:, None], 0)
    length = tl.load(lengths + span, mask=others, other=1)
    found = tl.where(span == own, float("inf"), total / length.to(tl.float32))
    at = weight + (line * tl.num_programs(0) + own) * spans + span
    tl.store(at, found, mask=span < spans)
