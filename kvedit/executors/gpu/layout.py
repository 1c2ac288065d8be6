"""A record of one span, or of all spans of a set, as rows look at it; and how a kernel reads it.

Its numbers, int64:

KEYS, VALUES             addresses of the first token that is held
KEYS_BATCH, KEYS_HEAD, VALUES_BATCH, VALUES_HEAD
                         numbers from one batch row, or key head, to the next
HELD                     tokens of the span
LISTED                   of a set: address of `Tiling.pieces`; 0 = a span, in pieces of `PIECE`
PIECE                    the first of its pieces among those of all records
DISTANCE, DISTANCE_STEP  from the frame's origin to the first row, in tokens, and how much
                         farther the next row is; less what the starts say
STARTS, STARTS_BATCH, STARTS_HEAD, STARTS_ROW, STARTS_SPAN
                         address of positions, int64, and their strides; 0 = there are none
LOWER, LOWER_STEP        the first token that the first row sees, of those that are held, and
                         how much later it is for the next row
UPPER, UPPER_STEP        the same of the one after the last
MOST                     no row sees more tokens than so many
COUNTS                   address of how many each row sees at most, int64; 0 = that is all
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call,no-any-return,misc"

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from kvedit import visibility

EVERYTHING = tl.constexpr(visibility.EVERYTHING)
FIELDS = tl.constexpr(22)

(
    KEYS,
    VALUES,
    KEYS_BATCH,
    KEYS_HEAD,
    VALUES_BATCH,
    VALUES_HEAD,
    HELD,
    LISTED,
    PIECE,
    DISTANCE,
    DISTANCE_STEP,
    STARTS,
    STARTS_BATCH,
    STARTS_HEAD,
    STARTS_ROW,
    STARTS_SPAN,
    LOWER,
    LOWER_STEP,
    UPPER,
    UPPER_STEP,
    MOST,
    COUNTS,
) = (tl.constexpr(field) for field in range(FIELDS.value))


@triton.jit
def begin(
    record,
    at: tl.constexpr,
    batch_at: tl.constexpr,
    head_at: tl.constexpr,
    batch,
    kv_head,
    there,
    dtype: tl.constexpr,
):
    """Return where a record's keys, or values, begin for a key head; anything if it is not there.

    at, batch_at, head_at  the fields that say so
    """
    first = tl.load(record + at, mask=there, other=0).to(tl.pointer_type(dtype))
    first += batch * tl.load(record + batch_at, mask=there, other=0)
    return first + kv_head * tl.load(record + head_at, mask=there, other=0)


@triton.jit
def piece_of(record, part, piece: tl.constexpr):
    """Return the span of a piece, its first token among the buffer's, and its tokens."""
    number = part - tl.load(record + PIECE)
    listed = tl.load(record + LISTED)
    line = listed.to(tl.pointer_type(tl.int32)) + 3 * number
    inside = listed != 0
    first = number * piece
    rest = tl.minimum(tl.load(record + HELD) - first, piece)
    span = tl.load(line, mask=inside, other=0)
    first = tl.where(inside, tl.load(line + 1, mask=inside, other=0).to(tl.int64), first)
    count = tl.where(inside, tl.load(line + 2, mask=inside, other=0), rest.to(tl.int32))
    return span, first, count


@triton.jit
def distances(record, span, batch, head, row, real):
    """Return how far rows are from the origin of a span's frame, [rows] int64."""
    starts = tl.load(record + STARTS)
    at = starts.to(tl.pointer_type(tl.int64)) + batch * tl.load(record + STARTS_BATCH)
    at += span * tl.load(record + STARTS_SPAN)
    rows = head * tl.load(record + STARTS_HEAD) + row * tl.load(record + STARTS_ROW)
    start = tl.load(at + rows, mask=tl.where(real, starts, 0) != 0, other=0)
    step = tl.load(record + DISTANCE_STEP)
    return tl.load(record + DISTANCE) + row * step - start


@triton.jit
def bounds(record, row, real, first, count):
    """Return which tokens of a piece rows see: the first one, and the one after the last, int32.

    first, count  the piece's first token among those that are held, and its tokens
    """
    counts = tl.load(record + COUNTS)
    most = tl.load(record + MOST)
    at = counts.to(tl.pointer_type(tl.int64)) + row
    most = tl.minimum(tl.load(at, mask=tl.where(real, counts, 0) != 0, other=EVERYTHING), most)
    lower = tl.load(record + LOWER) + row * tl.load(record + LOWER_STEP)
    upper = tl.load(record + UPPER) + row * tl.load(record + UPPER_STEP)
    upper = tl.minimum(upper, most) - first
    lower = tl.minimum(tl.maximum(lower - first, 0), count)
    upper = tl.minimum(tl.maximum(upper, 0), count)
    return lower.to(tl.int32), upper.to(tl.int32)
