"""Kernels that read: flash attention over spans, wherever each of them appears.

For each span a program turns its queries by their distance from the frame's origin, and reads keys
as they are cached. No score leaves a program. See `tiles` for the words.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call,no-any-return,misc"

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from kvedit.executors.gpu import layout, tiles


@triton.jit(do_not_specialize=["end", "standing", "spans"])
def read_jointly(
    query,
    key,
    value,
    records,
    starts,
    inv_freq,
    output,
    first_slot,
    first_token,
    lengths,
    tile_span,
    tile_first,
    scale,
    cap,
    end,
    standing,
    spans,
    group,
    query_strides,
    key_strides,
    output_strides,
    dim: tl.constexpr,
    width: tl.constexpr,
    turning: tl.constexpr,
    interleaved: tl.constexpr,
    capped: tl.constexpr,
    far: tl.constexpr,
    aligned: tl.constexpr,
    interpreted: tl.constexpr,
    rows: tl.constexpr,
    keys: tl.constexpr,
):
    """Read for a tile of one span's tokens: what stands, other spans whole, its own causally.

    One program per (tile, head, batch). Row t of a span of n tokens stands at end - n + t: once
    turned by t, it needs one turn more per span, by end - n - start, the same for all its rows.
    """
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    own, first = tl.load(tile_span + tl.program_id(0)), tl.load(tile_first + tl.program_id(0))
    size = tl.load(lengths + own)
    token = first + tl.arange(0, rows)
    row = (tl.load(first_token + own) + token).to(tl.int64)
    dtype: tl.constexpr = key.dtype.element_ty
    at = query + batch * query_strides[0] + head * query_strides[1] + row * query_strides[2]
    one, other = tiles.pairs(at, token < size, scale, dim, width, turning, interleaved)
    frequency = tiles.frequencies(inv_freq, width, turning)
    angle = tiles.angles(token.to(tl.int64)[:, None], frequency, False)
    one, other = tiles.turned(one, other, angle, turning)

    kv_head = head // group
    shift = batch * key_strides[0] + kv_head * key_strides[1]
    starts += ((batch * tl.num_programs(1) + head) * spans + own) * spans
    order = tiles.dimensions(width, turning, interleaved)
    lower = tl.zeros((rows,), tl.int32)
    maximum = tl.full((rows,), -float("inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    read = tl.zeros((rows, width), tl.float32)
    for span in range(-standing, spans):  # below 0 is what stands
        inside = span >= 0
        record = records + (span + standing) * layout.FIELDS
        slot = tl.load(first_slot + span, mask=inside, other=0) * dim
        held = tl.load(record + layout.HELD, mask=span < 0, other=0).to(tl.int32)
        count = tl.load(lengths + span, mask=inside, other=held)
        away = tl.load(record + layout.DISTANCE, mask=span < 0, other=0)
        away = tl.where(inside, end - tl.load(starts + span, mask=inside, other=0), away)
        keys_from = layout.begin(
            record, layout.KEYS, layout.KEYS_BATCH, layout.KEYS_HEAD, batch, kv_head, span < 0,
            dtype,
        )  # fmt: skip
        values_from = layout.begin(
            record, layout.VALUES, layout.VALUES_BATCH, layout.VALUES_HEAD, batch, kv_head,
            span < 0, dtype,
        )  # fmt: skip
        keys_from = tl.where(inside, key + shift + slot, keys_from)
        values_from = tl.where(inside, value + shift + slot, values_from)
        if aligned:
            keys_from = tl.multiple_of(keys_from, 16)  # bytes: whole vectors are loaded
            values_from = tl.multiple_of(values_from, 16)
        stop = tl.where(span == own, tl.minimum(first + rows, count), count)
        whole = tl.where(span == own, first, count) // keys * keys  # seen by all rows
        upper = tl.where(span == own, token + 1, count)
        turn = tl.zeros((1, 1), tl.int64) + (away - size)
        low, high = tiles.turned(one, other, tiles.angles(turn, frequency, far), turning)
        asking = tiles.joined(low, high, dtype, interleaved, interpreted)
        maximum, total, read = tiles.read(
            maximum, total, read, asking, keys_from, values_from, 0, whole, count, lower, upper,
            cap, order, dim, width, keys, False, capped, interpreted,
        )  # fmt: skip
        maximum, total, read = tiles.read(
            maximum, total, read, asking, keys_from, values_from, whole, stop, count, lower, upper,
            cap, order, dim, width, keys, True, capped, interpreted,
        )  # fmt: skip
    dims = tl.arange(0, width)
    out = output + batch * output_strides[0] + head * output_strides[1] + row * output_strides[2]
    read = tiles.rounded(read / total[:, None], output.dtype.element_ty, interpreted)
    tl.store(
        out[:, None] + dims[None, :], read, mask=(token < size)[:, None] & (dims < dim)[None, :]
    )


@triton.jit(do_not_specialize=["length", "sights", "pieces", "per_split"])
def read_sights(
    query,
    records,
    inv_freq,
    partial,
    weight_log,
    scale,
    cap,
    length,
    sights,
    pieces,
    per_split,
    group,
    kv_heads,
    query_strides,
    most: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    turning: tl.constexpr,
    interleaved: tl.constexpr,
    capped: tl.constexpr,
    far: tl.constexpr,
    aligned: tl.constexpr,
    interpreted: tl.constexpr,
    rows: tl.constexpr,
    keys: tl.constexpr,
    piece: tl.constexpr,
):
    """Read some pieces of what rows see, for a tile of rows: one state per split.

    One program per (tile of rows, split, batch and KV head). A tile holds rows of all query heads
    of the KV head, so that one new token fills a product better. Each sight has a record (see
    `layout`), `most` is a power of two that holds them; pieces are numbered through all of them.
    """
    split, splits = tl.program_id(1), tl.num_programs(1)
    batch = (tl.program_id(2) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(2) % kv_heads).to(tl.int64)
    index = tl.program_id(0) * rows + tl.arange(0, rows)
    real = index < group * length
    head, row = kv_head * group + index // length, (index % length).to(tl.int64)
    dtype: tl.constexpr = query.dtype.element_ty
    at = query + batch * query_strides[0] + head * query_strides[1] + row * query_strides[2]
    one, other = tiles.pairs(at, real, scale, dim, width, turning, interleaved)
    frequency = tiles.frequencies(inv_freq, width, turning)
    number = tl.arange(0, most)
    begins = tl.load(
        records + number * layout.FIELDS + layout.PIECE, mask=number < sights, other=pieces
    )

    order = tiles.dimensions(width, turning, interleaved)
    maximum = tl.full((rows,), -float("inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    read = tl.zeros((rows, width), tl.float32)
    for part in range(split * per_split, tl.minimum((split + 1) * per_split, pieces)):
        sight = tl.sum((begins <= part).to(tl.int32)) - 1
        record = records + sight * layout.FIELDS
        span, first, count = layout.piece_of(record, part, piece)
        distance = layout.distances(record, span, batch, head, row, real)
        lower, upper = layout.bounds(record, row, real, first, count)
        keys_from = layout.begin(
            record, layout.KEYS, layout.KEYS_BATCH, layout.KEYS_HEAD, batch, kv_head, sight >= 0,
            dtype,
        )  # fmt: skip
        values_from = layout.begin(
            record, layout.VALUES, layout.VALUES_BATCH, layout.VALUES_HEAD, batch, kv_head,
            sight >= 0, dtype,
        )  # fmt: skip
        keys_from += first * dim
        values_from += first * dim
        if aligned:
            keys_from = tl.multiple_of(keys_from, 16)  # bytes: whole vectors are loaded
            values_from = tl.multiple_of(values_from, 16)
        # from `begin` to before `whole` all rows see all keys, if all see those that come first
        begin = tl.min(tl.where(real, lower, count)) // keys * keys
        stop = tl.max(tl.where(real, upper, 0))
        whole = tl.min(tl.where(real, upper, count)) // keys * keys
        late = tl.max(tl.where(real, lower, 0)) > begin
        whole = tl.where(late, begin, tl.maximum(whole, begin))
        angle = tiles.angles(distance[:, None], frequency, far)
        low, high = tiles.turned(one, other, angle, turning)
        asking = tiles.joined(low, high, dtype, interleaved, interpreted)
        maximum, total, read = tiles.read(
            maximum, total, read, asking, keys_from, values_from, begin, whole, count, lower, upper,
            cap, order, dim, width, keys, False, capped, interpreted,
        )  # fmt: skip
        maximum, total, read = tiles.read(
            maximum, total, read, asking, keys_from, values_from, whole, stop, count, lower, upper,
            cap, order, dim, width, keys, True, capped, interpreted,
        )  # fmt: skip
    dims = tl.arange(0, width)
    line = ((batch * kv_heads * group + head) * length + row) * real  # row 0 where there is none
    state = line * splits + split
    seen = tl.where(total > 0, total, 1.0)
    tl.store(
        partial + state[:, None] * dim + dims[None, :],
        read / seen[:, None],
        mask=real[:, None] & (dims < dim)[None, :],
    )
    log = tl.where(total > 0, (maximum + tl.log2(seen)) * tiles.LN_2, -float("inf"))
    tl.store(weight_log + state, log, mask=real)
