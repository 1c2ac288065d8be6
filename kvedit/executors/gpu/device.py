"""The kernels of PINE: what document tokens and suffix tokens read, and what is important to them.

Flash attention over spans (see `pine.gpu.tiles` for the words): for each document a program
turns its queries by their distance from it and reads its keys as cached. No score leaves a program.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call,no-any-return,misc"

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from pine.gpu import tiles

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def document_rows(
    query,
    key,
    value,
    outside_key,
    outside_value,
    starts,
    inv_freq,
    output,
    first_slot,
    first_token,
    lengths,
    tile_document,
    tile_first,
    scale,
    cap,
    prefix,
    end,
    documents,
    group,
    query_strides,
    key_strides,
    outside_strides,
    output_strides,
    dim: tl.constexpr,
    width: tl.constexpr,
    turning: tl.constexpr,
    interleaved: tl.constexpr,
    capped: tl.constexpr,
    interpreted: tl.constexpr,
    rows: tl.constexpr,
    keys: tl.constexpr,
):
    """Read for a tile of one document's tokens: prefix, other documents whole, itself causally.

    One program per (tile, head, batch). Row t of document i, whose length is n, stands at
    end - n + t: once turned by t, it needs one turn more per document, by end - n - start, which is
    the same for all its rows.
    """
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    own, first = tl.load(tile_document + tl.program_id(0)), tl.load(tile_first + tl.program_id(0))
    size = tl.load(lengths + own)
    token = first + tl.arange(0, rows)
    row = (tl.load(first_token + own) + token).to(tl.int64)
    dtype: tl.constexpr = key.dtype.element_ty
    at = query + batch * query_strides[0] + head * query_strides[1] + row * query_strides[2]
    one, other = tiles.pairs(at, token < size, scale, dim, width, turning, interleaved)
    frequency = tiles.frequencies(inv_freq, width, turning)
    angle = token.to(tl.float32)[:, None] * frequency[None, :]
    one, other = tiles.turned(one, other, angle, turning)

    shift = batch * key_strides[0] + (head // group) * key_strides[1]
    outside = batch * outside_strides[0] + (head // group) * outside_strides[1]
    starts += ((batch * tl.num_programs(1) + head) * documents + own) * documents
    order = tiles.dimensions(width, turning, interleaved)
    maximum = tl.full((rows,), -float("inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    read = tl.zeros((rows, width), tl.float32)
    for span in range(-1, documents):  # -1 is the prefix, whose keys start at 0
        inside = span >= 0
        slot = tl.load(first_slot + span, mask=inside, other=0) * key_strides[2]
        count = tl.load(lengths + span, mask=inside, other=prefix)
        start = tl.load(starts + span, mask=inside, other=0)
        keys_from = tl.where(inside, key + shift + slot, outside_key + outside)
        values_from = tl.where(inside, value + shift + slot, outside_value + outside)
        stride = tl.where(inside, key_strides[2], outside_strides[2])
        stop = tl.where(span == own, tl.minimum(first + rows, count), count)
        whole = tl.where(span == own, first, count) // keys * keys  # seen by all rows
        limit = tl.where(span == own, token, count - 1)
        turn = (end - size - start).to(tl.float32) * frequency
        low, high = tiles.turned(one, other, turn[None, :], turning)
        asking = tiles.joined(low, high, dtype, interleaved, interpreted)
        maximum, total, read = tiles.read(
            maximum, total, read, asking, keys_from, values_from, stride, 0, whole, count, limit,
            cap, order, dim, width, keys, False, capped, interpreted,
        )  # fmt: skip
        maximum, total, read = tiles.read(
            maximum, total, read, asking, keys_from, values_from, stride, whole, stop, count, limit,
            cap, order, dim, width, keys, True, capped, interpreted,
        )  # fmt: skip
    dims = tl.arange(0, width)
    out = output + batch * output_strides[0] + head * output_strides[1] + row * output_strides[2]
    read = tiles.rounded(read / total[:, None], output.dtype.element_ty, interpreted)
    tl.store(
        out[:, None] + dims[None, :], read, mask=(token < size)[:, None] & (dims < dim)[None, :]
    )


@triton.jit
def suffix_rows(
    query,
    key,
    value,
    outside_key,
    outside_value,
    starts,
    inv_freq,
    partial,
    weight_log,
    piece_document,
    piece_first,
    piece_count,
    scale,
    cap,
    length,
    position,
    outside_length,
    documents,
    document_pieces,
    pieces,
    per_split,
    group,
    kv_heads,
    query_strides,
    key_strides,
    outside_strides,
    dim: tl.constexpr,
    width: tl.constexpr,
    turning: tl.constexpr,
    interleaved: tl.constexpr,
    capped: tl.constexpr,
    interpreted: tl.constexpr,
    rows: tl.constexpr,
    keys: tl.constexpr,
    piece: tl.constexpr,
):
    """Read some pieces of what suffix tokens see, for a tile of them: one state per split.

    One program per (tile of rows, split, batch and KV head). A tile holds rows of all query heads
    of the KV head, so that one new token fills a product better. Pieces are the documents', then
    the outside's (prefix and suffix), cut at every `piece` tokens.
    """
    split, splits = tl.program_id(1), tl.num_programs(1)
    batch = (tl.program_id(2) // kv_heads).to(tl.int64)
    kv_head = tl.program_id(2) % kv_heads
    index = tl.program_id(0) * rows + tl.arange(0, rows)
    real = index < group * length
    head, row = kv_head * group + index // length, (index % length).to(tl.int64)
    dtype: tl.constexpr = key.dtype.element_ty
    at = query + batch * query_strides[0] + head * query_strides[1] + row * query_strides[2]
    one, other = tiles.pairs(at, real, scale, dim, width, turning, interleaved)
    frequency = tiles.frequencies(inv_freq, width, turning)

    shift = batch * key_strides[0] + kv_head * key_strides[1]
    outside = batch * outside_strides[0] + kv_head * outside_strides[1]
    line = ((batch * kv_heads * group + head) * length + row) * real  # row 0 where there is none
    order = tiles.dimensions(width, turning, interleaved)
    maximum = tl.full((rows,), -float("inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    read = tl.zeros((rows, width), tl.float32)
    for number in range(split * per_split, tl.minimum((split + 1) * per_split, pieces)):
        inside = number < document_pieces
        document = tl.load(piece_document + number, mask=inside, other=0)
        begin = (number - document_pieces) * piece
        first = tl.load(piece_first + number, mask=inside, other=begin)
        rest = tl.minimum(piece, outside_length - begin)
        count = tl.load(piece_count + number, mask=inside, other=rest)
        appears = tl.load(starts + line * documents + document, mask=real, other=0)
        appears = tl.where(inside, appears, 0)
        stride = tl.where(inside, key_strides[2], outside_strides[2])
        keys_from = tl.where(inside, key + shift, outside_key + outside) + first * stride
        values_from = tl.where(inside, value + shift, outside_value + outside) + first * stride
        # the last rows of the outside are the suffix tokens that ask
        limit = tl.where(inside, count - 1, outside_length - length + row - begin)
        whole = tl.where(inside, count, outside_length - length + 1 - begin)
        whole = tl.minimum(tl.maximum(whole, 0), count) // keys * keys
        angle = (position + row - appears).to(tl.float32)[:, None] * frequency[None, :]
        low, high = tiles.turned(one, other, angle, turning)
        asking = tiles.joined(low, high, dtype, interleaved, interpreted)
        maximum, total, read = tiles.read(
            maximum, total, read, asking, keys_from, values_from, stride, 0, whole, count, limit,
            cap, order, dim, width, keys, False, capped, interpreted,
        )  # fmt: skip
        maximum, total, read = tiles.read(
            maximum, total, read, asking, keys_from, values_from, stride, whole, count, count,
            limit, cap, order, dim, width, keys, True, capped, interpreted,
        )  # fmt: skip
    dims = tl.arange(0, width)
    state = line * splits + split
    seen = tl.where(total > 0, total, 1.0)
    tl.store(
        partial + state[:, None] * dim + dims[None, :],
        read / seen[:, None],
        mask=real[:, None] & (dims < dim)[None, :],
    )
    log = tl.where(total > 0, (maximum + tl.log2(seen)) * LN_2, -float("inf"))
    tl.store(weight_log + state, log, mask=real)


@triton.jit
def document_logs(
    query,
    raw,
    logs,
    first_slot,
    lengths,
    scale,
    cap,
    length,
    documents,
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
    """Write the natural log of each document's weight for each query, without positions.

    One program per (tile of rows, chunk of documents, batch and KV head); rows as in `suffix_rows`.
    logs  [batch, heads, query, documents] float32
    """
    batch = (tl.program_id(2) // kv_heads).to(tl.int64)
    kv_head = tl.program_id(2) % kv_heads
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
    line = ((batch * kv_heads * group + head) * length + row) * documents
    raw += batch * key_strides[0] + kv_head * key_strides[1]
    begin = tl.program_id(1) * per_program
    for document in range(begin, tl.minimum(begin + per_program, documents)):
        count = tl.load(lengths + document)
        document_key = raw + tl.load(first_slot + document) * key_strides[2]
        maximum = tl.full((rows,), -float("inf"), tl.float32)
        total = tl.zeros((rows,), tl.float32)
        for first in range(0, count, keys):
            at_key = first + tl.arange(0, keys)
            block = tl.load(
                document_key + at_key[None, :] * key_strides[2] + dims[:, None],
                mask=(at_key < count)[None, :] & (dims < dim)[:, None],
                other=0.0,
            )
            product = tiles.bounded(tiles.dot(asking, block, interpreted) * scale, cap, capped)
            product = tl.where((at_key < count)[None, :], product, -float("inf"))
            highest = tl.maximum(maximum, tl.max(product, 1))
            total = total * tl.exp2(maximum - highest)
            total += tl.sum(tl.exp2(product - highest[:, None]), 1)
            maximum = highest
        tl.store(logs + line + document, (maximum + tl.log2(total)) * LN_2, mask=real)


@triton.jit
def document_importance(
    logs,
    weight,
    first_token,
    lengths,
    tokens,
    documents,
    rows: tl.constexpr,
    width: tl.constexpr,
):
    """Sum what a document's tokens give each other document, per token of it (PINE, section 3.3).

    One program per (asking document, batch and head), so that the sum has one order.
    logs    [batch, heads, tokens, documents] as from `document_logs`
    weight  [batch, heads, asking, documents] float32; infinite for the asking document itself
    """
    own, line = tl.program_id(0), tl.program_id(1).to(tl.int64)
    document = tl.arange(0, width)
    size = tl.load(lengths + own)
    others = (document < documents) & (document != own)
    logs += (line * tokens + tl.load(first_token + own)) * documents
    total = tl.zeros((width,), tl.float32)
    for first in range(0, size, rows):
        token = first + tl.arange(0, rows)
        real = (token < size)[:, None] & others[None, :]
        numbers = tl.load(
            logs + token[:, None] * documents + document[None, :], mask=real, other=-float("inf")
        )
        anchor = tl.max(tl.where((token < size)[:, None], numbers, 0.0), 1)
        shares = tl.exp(numbers - anchor[:, None])
        total += tl.sum(shares / tl.maximum(tl.sum(shares, 1), 1e-30)[:, None], 0)
    length = tl.load(lengths + document, mask=others, other=1)
    found = tl.where(document == own, float("inf"), total / length.to(tl.float32))
    at = weight + (line * tl.num_programs(0) + own) * documents + document
    tl.store(at, found, mask=document < documents)
