"""What the kernels are made of: turned queries, scores, and the running softmax over one span.

Keys are read as cached, in their span's frame. A query row is held in float32 as the two members
of its rotary pairs; for each span it is turned by its distance from the frame's origin, rounded
once to the keys' dtype, and multiplied. Scores are in base 2 inside, logarithms of weights natural
outside. Flash attention: Dao, arXiv 2307.08691, section 3.1.

    rows, keys   tokens in a tile of queries and of keys: powers of two, at least 16
    dim, width   dimensions of a head, and the power of two, at least 16, that holds them
    turning      rotary pairs that turn; 0 for a layer without positions
    far          whether a distance may be as great as `TABLE_REACH`, where angles are exact
    interpreted  whether the interpreter runs it: there, and only there, a product of bfloat16
                 multiplies bits, and a cast to it cuts off instead of rounding

These functions, and the kernels, have more arguments than functions should: Triton has no
structures.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call,no-any-return,misc"

from __future__ import annotations

from math import pi

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from kvedit.rotary import TABLE_REACH

LN_2 = tl.constexpr(0.6931471805599453)
REACH = tl.constexpr(TABLE_REACH)
TURNS = tl.constexpr(2.0**64 / (2 * pi))  # in a radian, if a turn is what int64 overflows by


@triton.jit
def rounded(numbers, dtype: tl.constexpr, interpreted: tl.constexpr):
    """Round float32 to a dtype, ties to even; the interpreter keeps what is left in float32."""
    if not interpreted:
        return numbers.to(dtype)
    elif dtype == tl.bfloat16:  # noqa: RET505  (Triton compiles what follows a return)
        bits = numbers.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return bits.to(tl.float32, bitcast=True)
    else:
        return numbers.to(dtype).to(tl.float32)


@triton.jit
def dot(left, right, interpreted: tl.constexpr):
    """Multiply in the operands' dtype, sum in float32."""
    if interpreted:
        right = right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def member(pair, second: tl.constexpr, half: tl.constexpr, turning: tl.constexpr):
    """Return the dimension of a member of half-split pairs; those that do not turn come after."""
    first = tl.where(pair < turning, pair, pair + turning)
    return tl.where(pair < turning, pair + turning, pair + half) if second else first


@triton.jit
def dimensions(width: tl.constexpr, turning: tl.constexpr, interleaved: tl.constexpr):
    """Return the dimensions in the order in which `joined` lays them: as stored, if it can be."""
    column = tl.arange(0, width)
    half: tl.constexpr = width // 2
    if not interleaved and turning != 0 and turning != half:
        pair = column % half
        first = member(pair, False, half, turning)
        column = tl.where(column < half, first, member(pair, True, half, turning))
    return column


@triton.jit
def pairs(
    query,
    real,
    scale,
    dim: tl.constexpr,
    width: tl.constexpr,
    turning: tl.constexpr,
    interleaved: tl.constexpr,
):
    """Load both members of all rotary pairs, scaled, in float32: two of [rows, width / 2]."""
    half: tl.constexpr = width // 2
    pair = tl.arange(0, half)
    if interleaved:
        first, second = 2 * pair, 2 * pair + 1
    else:
        first = member(pair, False, half, turning)
        second = member(pair, True, half, turning)
    one = tl.load(
        query[:, None] + first[None, :], mask=real[:, None] & (first < dim)[None, :], other=0.0
    )
    other = tl.load(
        query[:, None] + second[None, :], mask=real[:, None] & (second < dim)[None, :], other=0.0
    )
    return one.to(tl.float32) * scale, other.to(tl.float32) * scale


@triton.jit
def frequencies(inv_freq, width: tl.constexpr, turning: tl.constexpr):
    """Load the pairs' radians per token, [width / 2]; 0 where a pair does not turn."""
    pair = tl.arange(0, width // 2)
    return tl.load(inv_freq + pair, mask=pair < turning, other=0.0)


@triton.jit
def angles(distance, frequency, far: tl.constexpr):
    """Return the angles of distances in tokens, int64, as `RotaryGeometry.phases` has them.

    distance   [rows, 1] or [1, 1]
    frequency  [pairs]
    returns    [rows, pairs] or [1, pairs] float32

    A float32 product is off by half a milliradian at 8,192 radians, as the model was trained with.
    From `TABLE_REACH` on, fractions of a turn are multiplied as integers, which overflow exactly.
    """
    found = distance.to(tl.float32) * frequency[None, :]
    if far:
        turns = (frequency.to(tl.float64) * TURNS).to(tl.int64)
        exact = (distance * turns[None, :]).to(tl.float32) * (1 / TURNS)
        found = tl.where(tl.abs(distance) < REACH, found, exact)
    return found


@triton.jit
def turned(one, other, angle, turning: tl.constexpr):
    """Turn pairs by angles in radians (RoFormer, eq. 34)."""
    if turning != 0:
        cos, sin = tl.cos(angle), tl.sin(angle)
        one, other = one * cos - other * sin, other * cos + one * sin
    return one, other


@triton.jit
def joined(one, other, dtype: tl.constexpr, interleaved: tl.constexpr, interpreted: tl.constexpr):
    """Lay pairs side by side and round them: two of [rows, width / 2] -> [rows, width]."""
    rows: tl.constexpr = one.shape[0]
    width: tl.constexpr = 2 * one.shape[1]
    both = tl.join(rounded(one, dtype, interpreted), rounded(other, dtype, interpreted))
    if not interleaved:
        both = tl.permute(both, (0, 2, 1))
    return tl.reshape(both, (rows, width))


@triton.jit
def bounded(product, cap, capped: tl.constexpr):
    """Return scores in base 2; where they are capped, `cap` is the soft cap times log2(e)."""
    if capped:
        square = product * product  # tanh: near 0, 2 sigmoid(2x) - 1 would lose its digits
        near = product * (1 - square * (1 / 3 - square * (2 / 15)))
        product = cap * tl.where(square < 0.01, near, 2 * tl.sigmoid(2 * product) - 1)
    return product


@triton.jit
def read(
    maximum,
    total,
    output,
    query,
    key,
    value,
    begin,
    stop,
    count,
    lower,
    upper,
    cap,
    order,
    dim: tl.constexpr,
    width: tl.constexpr,
    keys: tl.constexpr,
    masked: tl.constexpr,
    capped: tl.constexpr,
    interpreted: tl.constexpr,
):
    """Read the keys from `begin` to `stop` of one span into a running softmax.

    maximum, total, output  [rows], [rows], [rows, width]: the state so far, base 2, not normalised
    query                   [rows, width] turned to the span's frame
    key, value              the span's first token; the others follow, `dim` numbers each
    count                   tokens in the span; nothing is loaded beyond
    lower, upper            [rows], the first key that each row sees, and the one after the last;
                            looked at if `masked`
    order                   [width], dimensions of a key as they lie in the query
    """
    dtype: tl.constexpr = value.dtype.element_ty
    dims = tl.arange(0, width)
    for first in range(begin, stop, keys):
        at = first + tl.arange(0, keys)
        key_at = key + at[None, :] * dim + order[:, None]
        value_at = value + at[:, None] * dim + dims[None, :]
        if masked:
            inside = at < count
            block = tl.load(key_at, mask=inside[None, :] & (order < dim)[:, None], other=0.0)
            numbers = tl.load(value_at, mask=inside[:, None] & (dims < dim)[None, :], other=0.0)
        elif dim == width:
            block, numbers = tl.load(key_at), tl.load(value_at)
        else:
            block = tl.load(key_at, mask=(order < dim)[:, None], other=0.0)
            numbers = tl.load(value_at, mask=(dims < dim)[None, :], other=0.0)
        product = bounded(dot(query, block, interpreted), cap, capped)
        if masked:
            seen = (at[None, :] >= lower[:, None]) & (at[None, :] < upper[:, None])
            product = tl.where(seen, product, -float("inf"))
        highest = tl.maximum(maximum, tl.max(product, 1))
        anchor = highest
        if masked:  # a row that has seen nothing yet: subtract 0, and every weight is exp2(-inf)
            anchor = tl.where(highest == -float("inf"), 0.0, highest)
        weights = tl.exp2(product - anchor[:, None])
        fade = tl.exp2(maximum - anchor)
        total = total * fade + tl.sum(weights, 1)
        output = output * fade[:, None]
        output += dot(rounded(weights, dtype, interpreted), numbers, interpreted)
        maximum = highest
    return maximum, total, output
