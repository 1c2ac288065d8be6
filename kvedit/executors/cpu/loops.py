"""The loops, in one file, since what is compiled is kept until its own file changes.

Arrays are contiguous float32, or int64; what a model keeps in 16 bits is widened block by block
where it is read, and rounded to nearest where it is written. Scores are natural; exponentials are
taken in base 2. Each thread takes whole parts, and what a part is depends on its sequence alone:
neither the number of threads nor what else is read changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_float
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload

from kvedit.executors.cpu.pieces import PIECE
from kvedit.executors.cpu.team import (
    INSIDE,
    KINDS,
    SUMS,
    Task,
    carray,
    fetch,
    floats,
    formula,
    integers,
    kernel,
    loop,
    meet,
    narrowed,
    record,
    share,
    stored,
    whole,
    widened,
)

Array = Any  # numba gives arrays and numbers their types when it compiles
Number = Any
Kind = Any  # how numbers of a dtype are seen (see `kvedit.executors.cpu.team.KINDS`)

INSIDE_LOOPS: Any = {"fastmath": SUMS, **INSIDE}  # as `loop` compiles

FLOAT: Any = np.float32
INT: Any = np.int32
BFLOAT = KINDS[torch.bfloat16]
FLOAT_BYTES = 4
LOG2_E = FLOAT(1.4426950408889634)
SHIFT = FLOAT(1.5 * 2**23)  # added to a small number, it leaves the nearest integer in the low bits
ONE = INT(0x3F800000)  # as float32
BLOCK = 32  # keys that are read at a time, and the memory of the next ones asked for
LINE = 64  # bytes of a line of cache
SMALLEST = FLOAT(-100)  # less is taken for nothing: numbers below 2^-126 would be slow
# 2^x on -1/2 to 1/2 by Chebyshev interpolation, 3e-9 off
C1, C2, C3 = FLOAT(0.6931472067028329), FLOAT(0.24022650922289554), FLOAT(0.05550327226669895)
C4, C5, C6 = FLOAT(0.00961805667843204), FLOAT(0.0013400428177711937), FLOAT(0.00015461444724808513)


@formula
def exp2(x: Number) -> Number:
    """Return 2 to the power of a number of at most 0, in float32, with two roundings or so."""
    bounded = max(x, SMALLEST - FLOAT(1))
    shifted = bounded + SHIFT
    rest = bounded - (shifted - SHIFT)
    power = ((((C6 * rest + C5) * rest + C4) * rest + C3) * rest + C2) * rest
    power = (power + C1) * rest + FLOAT(1)
    exponent = INT(FLOAT(shifted).view(INT) << INT(23))
    scaled = INT(INT(FLOAT(power).view(INT)) + exponent).view(FLOAT)
    return scaled if x > SMALLEST else FLOAT(0)


@formula
def tanh(x: Number) -> Number:
    """Return the hyperbolic tangent in float32, with a few roundings, near zero too.

    By `u = e^(-2 |x|) - 1`, which is `-u / (2 + u)`; 2^y - 1 is `2^n p + (2^n - 1)` where `n` is
    the integer nearest to y and `p = 2^(y - n) - 1`.
    """
    y = max(FLOAT(-2) * LOG2_E * abs(x), SMALLEST)
    shifted = y + SHIFT
    rest = y - (shifted - SHIFT)
    p = (((((C6 * rest + C5) * rest + C4) * rest + C3) * rest + C2) * rest + C1) * rest
    scale = INT(INT(FLOAT(shifted).view(INT) << INT(23)) + ONE).view(FLOAT)
    u = scale * p + (scale - FLOAT(1))
    size = -u / (FLOAT(2) + u)
    return size if x > FLOAT(0) else -size


@loop
def greatest(scores: Array) -> Number:
    """Return the greatest of some numbers, or -inf: as integers of the same order, many at once."""
    bits, most = scores.view(INT), INT(-0x7F800001)  # the integer of -inf
    for i in range(len(bits)):
        most = max(most, INT(bits[i] ^ ((bits[i] >> INT(31)) & INT(0x7FFFFFFF))))
    return INT(most ^ ((most >> INT(31)) & INT(0x7FFFFFFF))).view(FLOAT)


@loop
def total(scores: Array, most: Number) -> Number:
    """Return the sum of `exp(score - most)`."""
    summed = FLOAT(0)
    for i in range(len(scores)):
        summed += exp2((scores[i] - most) * LOG2_E)
    return summed


@loop
def soften(scores: Array, most: Number) -> Number:
    """Replace scores by `exp(score - most)`, and return their sum."""
    summed = FLOAT(0)
    for i in range(len(scores)):
        weight = exp2((scores[i] - most) * LOG2_E)
        scores[i] = weight
        summed += weight
    return summed


@loop
def hide(scores: Array) -> None:
    """Set scores to -inf."""
    for i in range(len(scores)):
        scores[i] = -np.inf


@loop
def clear(numbers: Array) -> None:
    """Set numbers to zero."""
    for i in range(len(numbers)):
        numbers[i] = 0


@loop
def copy(source: Array, target: Array) -> None:
    """Copy a vector."""
    for i in range(len(source)):
        target[i] = source[i]


@loop
def narrow(source: Array, target: Array, kind: Kind) -> None:
    """Copy a vector of float32 to one of a kind."""
    for i in range(len(source)):
        target[i] = narrowed(source[i], kind)


def widely(address: Number, shape: tuple[int, ...], kind: Kind, buffer: Array) -> Array:
    """Return numbers of a kind as float32, where they are or in a buffer: [rows, dim]."""
    raise NotImplementedError


# the types of numba's arguments, not they: a function for each kind of numbers
@overload(widely, strict=False, jit_options=INSIDE_LOOPS)
def _widely(address: Number, shape: tuple[int, ...], kind: Kind, buffer: Array) -> Array:
    if kind.dtype == types.float32:
        return lambda address, shape, kind, buffer: floats(address, shape)

    def widen(address: Number, shape: tuple[int, ...], kind: Kind, buffer: Array) -> Array:
        numbers, made = stored(address, shape, kind), buffer[: shape[0]]
        for i in range(shape[0]):
            for j in range(shape[1]):
                made[i, j] = widened(numbers[i, j])
        return made

    return widen


@loop
def call(address: Number, size: Number) -> None:
    """Ask for memory that is soon to be read, `size` bytes."""
    for line in range(0, size, LINE):
        fetch(address + line)


@loop
def score(queries: Array, keys: Array, scores: Array, at: Number) -> None:
    """Multiply the queries of a group with keys, which are read once.

    queries  [group, dim]
    keys     [kv, dim]
    scores   [group, ...]; written from `at` on
    """
    rows, dim = keys.shape
    fours = rows // 4 * 4
    for i in range(0, fours, 4):
        for head in range(len(queries)):
            a, b, c, d = FLOAT(0), FLOAT(0), FLOAT(0), FLOAT(0)
            for j in range(dim):
                number = queries[head, j]
                a += number * keys[i, j]
                b += number * keys[i + 1, j]
                c += number * keys[i + 2, j]
                d += number * keys[i + 3, j]
            scores[head, at + i] = a
            scores[head, at + i + 1] = b
            scores[head, at + i + 2] = c
            scores[head, at + i + 3] = d
    for i in range(fours, rows):
        for head in range(len(queries)):
            a = FLOAT(0)
            for j in range(dim):
                a += queries[head, j] * keys[i, j]
            scores[head, at + i] = a


@loop
def cap(scores: Array, softcap: Number) -> None:
    """Bound scores softly (see `kvedit.state.capped`)."""
    for i in range(len(scores)):
        scores[i] = softcap * tanh(scores[i] / softcap)


@loop
def weigh(weights: Array, values: Array, output: Array, at: Number) -> None:
    """Add values by the weights of a group, eight at a time, so that output is rarely stored.

    weights  [group, ...], from `at` on
    values   [kv, dim]
    output   [group, dim]
    """
    rows, dim = values.shape
    v, eights = values, rows // 8 * 8
    for i in range(0, eights, 8):
        for head in range(len(output)):
            w, made, k = weights[head], output[head], at + i
            for j in range(dim):
                made[j] += (
                    (w[k] * v[i, j] + w[k + 1] * v[i + 1, j])
                    + (w[k + 2] * v[i + 2, j] + w[k + 3] * v[i + 3, j])
                    + (w[k + 4] * v[i + 4, j] + w[k + 5] * v[i + 5, j])
                    + (w[k + 6] * v[i + 6, j] + w[k + 7] * v[i + 7, j])
                )
    for i in range(eights, rows):
        for head in range(len(output)):
            for j in range(dim):
                output[head, j] += weights[head, at + i] * v[i, j]


@loop
def turn(vector: Array, partner: Array, phases: Array, turned: Array) -> None:
    """Turn a vector (see `kvedit.rotary.RotaryGeometry.rotate`).

    partner  [width] what each dimension turns with
    phases   [2 * width] cosine, then signed sine
    """
    width = len(partner)
    for j in range(width):
        turned[j] = vector[j] * phases[j] + partner[j] * phases[width + j]
    for j in range(width, len(vector)):
        turned[j] = vector[j]


@loop
def starts_of(weight: Array, lengths: Array, end: Number, starts: Array) -> None:
    """Write where spans start, the most important one ending before `end` (see `kvedit.ranking`).

    weight, lengths, starts  [spans]
    """
    order = np.argsort(-weight, kind="mergesort")  # ties keep the canonical order
    for rank in range(len(order)):
        end -= lengths[order[rank]]
        starts[order[rank]] = end


class FewTask(Task):
    """A few rows of one sequence, and all they see: spans that stand still, and a ranked set.

    query             [heads, rows, dim]; not rotated, like all that comes in
    fixed             [fixed_count, FIXED] one record for each span that is not ranked:
                      - addresses of its buffers of keys and values, `room`: how many tokens from
                        head to head, the index there of its oldest token, and how many it holds;
                      - how many of these, the last ones, are to be written now, the addresses of
                        their keys and values, [kv_heads, fresh, dim], the steps of both from head
                        to head and token to token, and whether keys are turned;
                      - by row, `ROW` numbers each: the row of the table that turns it to the span,
                        the first token that it sees and the one after the last;
                      - by token to be written, the row of the table that turns it
    raw, framed, values  [kv_heads, slots, dim] of the set
    pieces, lengths   [inside, 3], [spans] of the set (see `kvedit.executors.cpu.pieces.Cut`)
    table             [positions, 2 * width] cosine and signed sine
    pairs             [width] the dimension that each one turns with
    output            [heads, rows, dim]; written
    weight            [heads, rows, spans] importance, float32; written
    scratch           `needed` numbers, float32
    asks, makes       steps of `query` and `output`: from head to head, and from row to row
    size              bytes of a number of `query`, `output` and all that is cached
    count             pieces of the set, then those of the other spans
    end, start        as in `kvedit.sight.Ranked`, and the position of the first row
    softcap           of the layer, or 0
    """

    _fields_ = (
        *integers("query", "fixed", "raw", "framed", "values", "pieces", "lengths"),
        *integers("table", "pairs", "output", "weight", "scratch"),
        *integers("asks_head", "asks_row", "makes_head", "makes_row", "size"),
        *integers("heads", "kv_heads", "rows", "dim", "width", "positions"),
        *integers("fixed_count", "slots", "spans", "inside", "count", "end", "start"),
        ("scaling", c_float),
        ("softcap", c_float),
    )

    @property
    def needed(self) -> int:
        """Return how many numbers the scratch must have room for."""
        per_row: int = self.dim + self.width + self.count * (2 + self.dim)
        per_row += (self.spans + self.fixed_count) * self.dim
        return int(self.heads * self.rows * per_row)


class ManyTask(Task):
    """Sequences that each have a few rows.

    tasks  [count] addresses of a `FewTask` each
    """

    _fields_ = (*integers("tasks", "count"),)


FEW, MANY = np.dtype(FewTask), np.dtype(ManyTask)
MOST_ROWS = 4  # and tokens to be written
KEYS_AT, VALUES_AT, ROOM, BEGIN, HELD, FRESH, KEY_AT, VALUE_AT = range(8)
KEY_HEAD, KEY_TOKEN, VALUE_HEAD, VALUE_TOKEN, TURNS = range(8, 13)
ROW = 3
ROWS_FROM = TURNS + 1
FRESH_FROM = ROWS_FROM + ROW * MOST_ROWS
FIXED = FRESH_FROM + MOST_ROWS


@loop
def laid(address: Number, shape: tuple[int, ...]) -> tuple[Array, Number]:
    """Return an array at an address, and the address after it."""
    made = floats(address, shape)
    return made, address + made.size * 4


@loop
def scratch_of(task: Array) -> tuple[Array, ...]:
    """Return a task's scratch: what all phases share.

    asked    [rows, heads, dim] scaled queries
    partner  [rows, heads, width] what they turn with
    most     [rows, heads, pieces] the greatest score in each piece,
    shares   [rows, heads, pieces] the sum of its weights over that one's,
    read     [rows, pieces, heads, dim] and of its values by those weights
    turned   [rows, spans, heads, dim] queries, turned to each span
    """
    rows, heads, count, dim = task.rows, task.heads, task.count, task.dim
    asked, place = laid(task.scratch, (rows, heads, dim))
    partner, place = laid(place, (rows, heads, task.width))
    most, place = laid(place, (rows, heads, count))
    shares, place = laid(place, (rows, heads, count))
    read, place = laid(place, (rows, count, heads, dim))
    turned, place = laid(place, (rows, task.spans + task.fixed_count, heads, dim))
    return asked, partner, most, shares, read, turned


@loop
def ask(task: Array, first: Number, last: Number, kind: Kind) -> None:
    """Scale queries, and take their partners, for some of the key heads."""
    asked, partner, _, _, _, _ = scratch_of(task)
    pairs, group = whole(task.pairs, (task.width,)), task.heads // task.kv_heads
    for row in range(task.rows):
        for head in range(first * group, last * group):
            place = task.query + task.size * (head * task.asks_head + row * task.asks_row)
            query = stored(place, (task.dim,), kind)
            for j in range(task.dim):
                asked[row, head, j] = widened(query[j]) * task.scaling
            for j in range(task.width):
                partner[row, head, j] = asked[row, head, pairs[j]]


@loop
def write(task: Array, first: Number, last: Number, kind: Kind) -> None:
    """Turn keys of some heads that are not cached yet, and cache them with their values."""
    width, dim, size = task.width, task.dim, task.size
    fixed = whole(task.fixed, (task.fixed_count, FIXED))
    table, pairs = floats(task.table, (task.positions, 2 * width)), whole(task.pairs, (width,))
    vector, other, turned = np.empty(dim, FLOAT), np.empty(width, FLOAT), np.empty(dim, FLOAT)
    for span in range(task.fixed_count):
        own = fixed[span]
        fresh, shape = own[FRESH], (task.kv_heads, own[ROOM], dim)
        keys, values = stored(own[KEYS_AT], shape, kind), stored(own[VALUES_AT], shape, kind)
        at = own[BEGIN] + own[HELD] - fresh
        for head in range(first, last):
            for token in range(fresh):
                key_at = own[KEY_AT] + size * (head * own[KEY_HEAD] + token * own[KEY_TOKEN])
                key = stored(key_at, (dim,), kind)
                value_at = head * own[VALUE_HEAD] + token * own[VALUE_TOKEN]
                value = stored(own[VALUE_AT] + size * value_at, (dim,), kind)
                copy(value, values[head, at + token])
                if not own[TURNS]:
                    copy(key, keys[head, at + token])
                    continue
                for j in range(dim):
                    vector[j] = widened(key[j])
                for j in range(width):
                    other[j] = vector[pairs[j]]
                turn(vector, other, table[own[FRESH_FROM + token]], turned)
                narrow(turned, keys[head, at + token], kind)


@loop
def score_all(
    task: Array,
    queries: Array,
    address: Number,
    scores: Array,
    count: Number,
    buffer: Array,
    kind: Kind,
) -> None:
    """Score keys that lie at an address, block by block.

    queries  [group, dim]
    scores   [group, ...]; the first `count` are written
    buffer   [BLOCK, dim]
    """
    token = task.size * task.dim
    for first in range(0, count, BLOCK):
        place = address + first * token
        call(place + BLOCK * token, BLOCK * token)
        keys = widely(place, (min(BLOCK, count - first), task.dim), kind, buffer)
        score(queries, keys, scores, first)
    if task.softcap > FLOAT(0):
        for each in range(len(queries)):
            cap(scores[each, :count], task.softcap)


@loop
def weigh_all(
    task: Array,
    scores: Array,
    address: Number,
    output: Array,
    count: Number,
    buffer: Array,
    kind: Kind,
) -> None:
    """Sum values that lie at an address by weights, block by block; the rest as in `score_all`."""
    token = task.size * task.dim
    for each in range(len(output)):
        clear(output[each])
    for first in range(0, count, BLOCK):
        place = address + first * token
        call(place + BLOCK * token, BLOCK * token)
        values = widely(place, (min(BLOCK, count - first), task.dim), kind, buffer)
        weigh(scores, values, output, first)


@loop
def look(task: Array, first: Number, last: Number, kind: Kind) -> None:
    """Weigh some pieces of the set without positions."""
    asked, _, most, shares, _, _ = scratch_of(task)
    pieces, group = whole(task.pieces, (task.inside, 3)), task.heads // task.kv_heads
    scores, buffer = np.empty((group, PIECE), FLOAT), np.empty((BLOCK, task.dim), FLOAT)
    for part in range(first, last):
        kv_head, piece = part // task.inside, part % task.inside
        slot, slots, one = pieces[piece, 1], pieces[piece, 2], kv_head * group
        keys_at = task.raw + (kv_head * task.slots + slot) * task.dim * task.size
        for row in range(task.rows):
            queries = asked[row, one : one + group]
            score_all(task, queries, keys_at, scores, slots, buffer, kind)
            for each in range(group):
                own, head = scores[each, :slots], one + each
                most[row, head, piece] = greatest(own)
                shares[row, head, piece] = total(own, most[row, head, piece])


@loop
def rank(task: Array, row: Number, head: Number, most: Array, shares: Array, starts: Array) -> None:
    """Write how important the spans of the set are to a row and head, and where they start."""
    pieces, lengths = whole(task.pieces, (task.inside, 3)), whole(task.lengths, (task.spans,))
    own = floats(task.weight, (task.heads, task.rows, task.spans))[head, row]
    highest, summed = greatest(most[row, head, : task.inside]), FLOAT(0)
    clear(own)
    for piece in range(task.inside):
        factor = exp2((most[row, head, piece] - highest) * LOG2_E)
        own[pieces[piece, 0]] += factor * shares[row, head, piece]
        summed += factor * shares[row, head, piece]
    for span in range(task.spans):
        own[span] /= summed * lengths[span]
    starts_of(own, lengths, task.end, starts)


@loop
def turn_queries(task: Array, first: Number, last: Number) -> None:
    """Rank the set, and turn queries to where they see each of its spans, and the others."""
    asked, partner, most, shares, _, turned = scratch_of(task)
    spans = task.spans
    table = floats(task.table, (task.positions, 2 * task.width))
    fixed = whole(task.fixed, (task.fixed_count, FIXED))
    starts = np.empty(spans, np.int64)
    for part in range(first, last):
        head, row = part // task.rows, part % task.rows
        vector, other = asked[row, head], partner[row, head]
        if spans > 0:
            rank(task, row, head, most, shares, starts)
        for span in range(spans):
            phases = table[task.start + row - starts[span]]
            turn(vector, other, phases, turned[row, span, head])
        for span in range(task.fixed_count):
            phases = table[fixed[span, ROWS_FROM + ROW * row]]
            turn(vector, other, phases, turned[row, spans + span, head])


@loop
def read_pieces(task: Array, first: Number, last: Number, kind: Kind) -> None:
    """Read some pieces: the set's from where its spans appear, then the other spans'."""
    _, _, most, shares, read, turned = scratch_of(task)
    dim, count, token = task.dim, task.count, task.size * task.dim
    fixed = whole(task.fixed, (task.fixed_count, FIXED))
    pieces, group = whole(task.pieces, (task.inside, 3)), task.heads // task.kv_heads
    scores, buffer = np.empty((group, PIECE), FLOAT), np.empty((BLOCK, dim), FLOAT)
    for part in range(first, last):
        kv_head, piece = part // count, part % count
        one, span, slot = kv_head * group, 0, (piece - task.inside) * PIECE
        if piece < task.inside:
            span, slot = pieces[piece, 0], pieces[piece, 1]
            skipped = kv_head * task.slots * token
            keys_at, values_at = task.framed + skipped, task.values + skipped
        else:
            while slot >= fixed[span, HELD]:
                slot -= (fixed[span, HELD] + PIECE - 1) // PIECE * PIECE
                span += 1
            skipped = (kv_head * fixed[span, ROOM] + fixed[span, BEGIN]) * token
            keys_at, values_at = fixed[span, KEYS_AT] + skipped, fixed[span, VALUES_AT] + skipped
        for row in range(task.rows):
            low, high, asked = slot, slot, span
            if piece < task.inside:
                high += pieces[piece, 2]
            else:
                asked += task.spans
                low = max(low, fixed[span, ROWS_FROM + ROW * row + 1])
                high = min(high + PIECE, fixed[span, ROWS_FROM + ROW * row + 2])
            if low >= high:
                for each in range(group):
                    most[row, one + each, piece] = -np.inf
                continue
            queries, seen = turned[row, asked, one : one + group], high - low
            score_all(task, queries, keys_at + low * token, scores, seen, buffer, kind)
            for each in range(group):
                own, head = scores[each, :seen], one + each
                most[row, head, piece] = greatest(own)
                shares[row, head, piece] = soften(own, most[row, head, piece])
            made = read[row, piece, one : one + group]
            weigh_all(task, scores, values_at + low * token, made, seen, buffer, kind)


@loop
def merge(task: Array, first: Number, last: Number, kind: Kind) -> None:
    """Merge what was read from all pieces (see `kvedit.state`)."""
    _, _, most, shares, read, _ = scratch_of(task)
    made = np.empty(task.dim, FLOAT)
    for part in range(first, last):
        head, row = part // task.rows, part % task.rows
        highest, summed = greatest(most[row, head]), FLOAT(0)
        clear(made)
        for piece in range(task.count):
            if most[row, head, piece] > -np.inf:
                factor = exp2((most[row, head, piece] - highest) * LOG2_E)
                summed += factor * shares[row, head, piece]
                for j in range(task.dim):
                    made[j] += factor * read[row, piece, head, j]
        place = task.output + task.size * (head * task.makes_head + row * task.makes_row)
        output = stored(place, (task.dim,), kind)
        for j in range(task.dim):
            output[j] = narrowed(made[j] / summed, kind)


ASK, LOOK, TURN, READ, MERGE = range(5)
PHASES = 5


@loop
def parts_in(task: Array, phase: Number) -> Number:
    """Return in how many parts a phase is done: no thread does a part of a part."""
    if phase == ASK:
        return task.kv_heads
    if phase == LOOK:
        return task.kv_heads * task.inside
    if phase == READ:
        return task.kv_heads * task.count
    return task.heads * task.rows


@loop
def do_parts(task: Array, phase: Number, first: Number, last: Number, kind: Kind) -> None:
    """Do some parts of a phase."""
    if phase == ASK:
        ask(task, first, last, kind)
        write(task, first, last, kind)
    elif phase == LOOK:
        look(task, first, last, kind)
    elif phase == TURN:
        turn_queries(task, first, last)
    elif phase == READ:
        read_pieces(task, first, last, kind)
    else:
        merge(task, first, last, kind)


@loop
def read_rows(address: Array, kind: Kind) -> None:
    """Cache what is new of some sequences, and write what their few rows read.

    Phase by phase, the parts of all sequences stand in one line, of which each thread takes its
    share: a part is computed alike whoever computes it and whatever else is in the line.
    """
    many = carray(address, 1, MANY)[0]
    tasks = whole(many.tasks, (many.count,))
    for phase in range(PHASES):
        parts = 0
        for each in range(many.count):
            parts += parts_in(record(tasks[each], FEW), phase)
        if parts == 0:
            continue
        first, last = share(parts)
        done = 0
        for each in range(many.count):
            task = record(tasks[each], FEW)
            own = parts_in(task, phase)
            begin, end = max(first - done, 0), min(last - done, own)
            if begin < end:
                do_parts(task, phase, begin, end, kind)
            done += own
        meet()


def _reads(dtype: torch.dtype) -> Callable[[Task], None]:
    """Return the kernel for one dtype."""
    kind = KINDS[dtype]

    def read_few(address: Array) -> None:
        read_rows(address, kind)

    return kernel(read_few)


# by the dtype of queries, keys and values
READS = {dtype: _reads(dtype) for dtype in KINDS}


class ImportanceTask(Task):
    """Scores without positions of some rows of consecutive asking spans.

    product  [heads, asking, rows, slots]
    begins   [spans + 1] first slot of each span
    lengths  [spans] tokens
    weight   [heads, asking, spans]; added to, but for the asking spans' own
    own      the first asking span
    first    the index, in their spans, of the first rows
    """

    _fields_ = (
        *integers("product", "begins", "lengths", "weight"),
        *integers("heads", "asking", "rows", "slots", "spans", "own", "first"),
    )


IMPORTANCE = np.dtype(ImportanceTask)


@kernel
def importance(address: Array) -> None:
    """Add the importance of spans to rows of asking spans (PINE, section 3.3)."""
    task = carray(address, 1, IMPORTANCE)[0]
    asking, spans = task.asking, task.spans
    product = floats(task.product, (task.heads, asking, task.rows, task.slots))
    weight = floats(task.weight, (task.heads, asking, spans))
    begins, lengths = whole(task.begins, (spans + 1,)), whole(task.lengths, (spans,))
    summed, shares = np.empty(spans, FLOAT), np.empty(spans, FLOAT)
    first, last = share(task.heads * asking)
    for part in range(first, last):
        head, place = part // asking, part % asking
        own = task.own + place
        clear(summed)
        for row in range(min(task.rows, lengths[own] - task.first)):
            scores = product[head, place, row]
            most = FLOAT(-np.inf)
            for span in range(spans):
                begin = begins[span]
                if span != own:
                    most = max(most, greatest(scores[begin : begin + lengths[span]]))
            all_shares = FLOAT(0)
            for span in range(spans):
                begin = begins[span]
                if span != own:
                    shares[span] = total(scores[begin : begin + lengths[span]], most)
                    all_shares += shares[span]
            for span in range(spans):
                if span != own:
                    summed[span] += shares[span] / all_shares
        for span in range(spans):
            weight[head, place, span] += summed[span] / lengths[span]


class WeightsTask(Task):
    """Scores of some rows of asking spans with all that they may see.

    product  [heads, asking, rows, slots]; scores, then weights that `factor` makes a softmax
    rounded  [heads, asking, rows, slots] bfloat16, the same weights; written, unless it is 0
    factor   [heads, asking, rows] one over the sum of the weights; written
    own      [asking, 2] where the asking span's slots begin, and end; rows see their own span up
             to themselves
    gaps     [gap_count, 2] where padding begins, and ends
    first    the index, in their spans, of the first rows
    """

    _fields_ = (
        *integers("product", "rounded", "factor", "own", "gaps"),
        *integers("heads", "asking", "rows", "slots", "gap_count", "first"),
    )


WEIGHTS = np.dtype(WeightsTask)


@kernel
def weights(address: Array) -> None:
    """Turn scores of asking spans into weights."""
    task = carray(address, 1, WEIGHTS)[0]
    asking, rows = task.asking, task.rows
    product = floats(task.product, (task.heads, asking, rows, task.slots))
    factor = floats(task.factor, (task.heads, asking, rows))
    own, gaps = whole(task.own, (asking, 2)), whole(task.gaps, (task.gap_count, 2))
    first, last = share(task.heads * asking * rows)
    for part in range(first, last):
        row, place, head = part % rows, part // rows % asking, part // rows // asking
        scores = product[head, place, row]
        begin, end = own[place, 0], own[place, 1]
        hide(scores[min(begin + task.first + row + 1, end) : end])
        for gap in range(len(gaps)):
            hide(scores[gaps[gap, 0] : gaps[gap, 1]])
        factor[head, place, row] = FLOAT(1) / soften(scores, greatest(scores))
        if task.rounded:
            skipped = ((head * asking + place) * rows + row) * task.slots
            narrow(scores, stored(task.rounded + 2 * skipped, (task.slots,), BFLOAT), BFLOAT)


class KeysTask(Task):
    """Keys that stand where they are and keys of a set, to be laid out for some asking spans.

    fixed    [kv_heads, before, dim]
    framed   [kv_heads, slots, dim]
    partner  [kv_heads, slots, width] what each dimension turns with
    table    [positions, 2 * width]
    appears  [heads, asking, spans] position of each span's first token
    begins   [spans + 1] first slot of each span
    targets  [spans] where that is among the keys
    keys     [heads, asking, before + slots, dim]; written
    """

    _fields_ = (
        *integers("fixed", "framed", "partner", "table", "appears", "begins", "targets", "keys"),
        *integers("heads", "kv_heads", "asking", "before", "slots", "dim", "width"),
        *integers("spans", "positions"),
    )


KEYS = np.dtype(KeysTask)


@kernel
def turn_keys(address: Array) -> None:
    """Write keys where they appear for each asking span."""
    task = carray(address, 1, KEYS)[0]
    asking, spans, before = task.asking, task.spans, task.before
    slots, dim = task.slots, task.dim
    fixed = floats(task.fixed, (task.kv_heads, before, dim))
    framed = floats(task.framed, (task.kv_heads, slots, dim))
    partner = floats(task.partner, (task.kv_heads, slots, task.width))
    table = floats(task.table, (task.positions, 2 * task.width))
    appears = whole(task.appears, (task.heads, asking, spans))
    begins = whole(task.begins, (spans + 1,))
    targets = whole(task.targets, (spans,))
    keys = floats(task.keys, (task.heads, asking, before + slots, dim))
    first, last = share(task.heads * asking * spans)
    for part in range(first, last):
        span, place = part % spans, part // spans % asking
        head = part // spans // asking
        kv_head, made = head // (task.heads // task.kv_heads), keys[head, place]
        if span == 0:
            for i in range(before):
                copy(fixed[kv_head, i], made[i])
        phases = table[appears[head, place, span]]
        shift = targets[span] - begins[span]
        for slot in range(begins[span], begins[span + 1]):
            turn(framed[kv_head, slot], partner[kv_head, slot], phases, made[slot + shift])
