"""The loops, in one file, since what is compiled is kept until its own file changes.

Arrays are contiguous float32, or int64. Scores are natural; exponentials are taken in base 2. Each
thread takes whole parts, and what a part is depends on the prompt alone: the number of threads
changes no bit.
"""

from __future__ import annotations

from ctypes import c_float
from typing import Any

import numpy as np

from pine.cpu.cut import PIECE
from pine.cpu.team import (
    Task,
    carray,
    fetch,
    floats,
    formula,
    integers,
    kernel,
    loop,
    meet,
    share,
    thread_number,
    whole,
)

Array = Any  # numba gives arrays and numbers their types when it compiles
Number = Any

FLOAT: Any = np.float32
INT: Any = np.int32
LOG2_E = FLOAT(1.4426950408889634)
SHIFT = FLOAT(1.5 * 2**23)  # added to a small number, it leaves the nearest integer in the low bits
AHEAD = 32  # keys: memory is asked for so long before it is read
PER_LINE = 16  # numbers of a line of cache
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
def score(queries: Array, keys: Array, scores: Array) -> None:
    """Multiply the queries of a group with keys, which are read once.

    queries  [group, dim]
    keys     [kv, dim]
    scores   [group, kv]
    """
    rows, dim = keys.shape
    fours = rows // 4 * 4
    for i in range(0, fours, 4):
        for j in range(0, 4 * dim, PER_LINE):
            fetch(keys, (i + AHEAD) * dim + j)
        for head in range(len(queries)):
            a, b, c, d = FLOAT(0), FLOAT(0), FLOAT(0), FLOAT(0)
            for j in range(dim):
                number = queries[head, j]
                a += number * keys[i, j]
                b += number * keys[i + 1, j]
                c += number * keys[i + 2, j]
                d += number * keys[i + 3, j]
            scores[head, i] = a
            scores[head, i + 1] = b
            scores[head, i + 2] = c
            scores[head, i + 3] = d
    for i in range(fours, rows):
        for head in range(len(queries)):
            a = FLOAT(0)
            for j in range(dim):
                a += queries[head, j] * keys[i, j]
            scores[head, i] = a


@loop
def weigh(weights: Array, values: Array, output: Array) -> None:
    """Sum values by the weights of a group, eight at a time, so that output is rarely stored.

    weights  [group, kv]
    values   [kv, dim]
    output   [group, dim]
    """
    rows, dim = values.shape
    v, eights = values, rows // 8 * 8
    for head in range(len(output)):
        clear(output[head])
    for i in range(0, eights, 8):
        for j in range(0, 8 * dim, PER_LINE):
            fetch(values, (i + AHEAD) * dim + j)
        for head in range(len(output)):
            w, made = weights[head], output[head]
            for j in range(dim):
                made[j] += (
                    (w[i] * v[i, j] + w[i + 1] * v[i + 1, j])
                    + (w[i + 2] * v[i + 2, j] + w[i + 3] * v[i + 3, j])
                    + (w[i + 4] * v[i + 4, j] + w[i + 5] * v[i + 5, j])
                    + (w[i + 6] * v[i + 6, j] + w[i + 7] * v[i + 7, j])
                )
    for i in range(eights, rows):
        for head in range(len(output)):
            for j in range(dim):
                output[head, j] += weights[head, i] * v[i, j]


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
    """Write where documents start, the most important one ending before `end` (see `pine.order`).

    weight, lengths, starts  [documents]
    """
    order = np.argsort(-weight, kind="mergesort")  # ties keep the canonical order
    for rank in range(len(order)):
        end -= lengths[order[rank]]
        starts[order[rank]] = end


class SuffixTask(Task):
    """A few suffix tokens, not cached yet, and all that they see.

    query, output                 [heads, rows, dim] not rotated; written
    key, value                    [kv_heads, rows, dim] not rotated
    raw, framed, values           [kv_heads, slots, dim] of the documents (`pine.cache.Cached`)
    outside_keys, outside_values  [kv_heads, room, dim] of prefix and suffix; the rows' are written
    pieces                        [count, 3] document or -1, first slot, slots: what one thread
                                  reads at a time, `inside` of documents, then of what is outside
    lengths                       [documents] tokens
    table                         [positions, 2 * width] cosine and signed sine
    pairs                         [width] the dimension that each one turns with
    weight                        [heads, rows, documents] importance; written
    scratch                       `needed` numbers
    end, start, before            positions of the first suffix token and of the first row, and how
                                  many tokens outside are before that
    """

    _fields_ = (
        *integers("query", "key", "value", "raw", "framed", "values"),
        *integers("outside_keys", "outside_values", "pieces", "lengths", "table", "pairs"),
        *integers("output", "weight", "scratch"),
        *integers("heads", "kv_heads", "rows", "dim", "width", "slots", "room", "documents"),
        *integers("inside", "count", "end", "start", "before", "positions"),
        ("scaling", c_float),
    )

    @property
    def needed(self) -> int:
        """Return how many numbers the scratch must have room for."""
        per_row: int = self.dim + self.width + self.count * (2 + self.dim)
        per_row += (self.documents + 1) * self.dim
        return int(self.heads * self.rows * per_row)


SUFFIX = np.dtype(SuffixTask)


@loop
def laid(address: Number, shape: tuple[int, ...]) -> tuple[Array, Number]:
    """Return an array at an address, and the address after it."""
    made = floats(address, shape)
    return made, address + made.size * 4


@loop
def ask(task: Array, asked: Array, partner: Array) -> None:
    """Scale queries, take their partners, and cache keys and values."""
    width, place = task.width, task.before
    query = floats(task.query, (task.heads, task.rows, task.dim))
    key = floats(task.key, (task.kv_heads, task.rows, task.dim))
    value = floats(task.value, (task.kv_heads, task.rows, task.dim))
    keys = floats(task.outside_keys, (task.kv_heads, task.room, task.dim))
    values = floats(task.outside_values, (task.kv_heads, task.room, task.dim))
    table = floats(task.table, (task.positions, 2 * width))
    pairs, other = whole(task.pairs, (width,)), np.empty(width, FLOAT)
    for row in range(task.rows):
        for head in range(task.heads):
            for j in range(task.dim):
                asked[row, head, j] = query[head, row, j] * task.scaling
            for j in range(width):
                partner[row, head, j] = asked[row, head, pairs[j]]
        for head in range(task.kv_heads):
            for j in range(width):
                other[j] = key[head, row, pairs[j]]
            turn(key[head, row], other, table[task.start + row], keys[head, place + row])
            copy(value[head, row], values[head, place + row])


@loop
def look(task: Array, asked: Array, most: Array, shares: Array) -> None:
    """Weigh the documents' pieces without positions."""
    raw = floats(task.raw, (task.kv_heads, task.slots, task.dim))
    pieces, group = whole(task.pieces, (task.count, 3)), task.heads // task.kv_heads
    scores = np.empty((group, PIECE), FLOAT)
    first, last = share(task.kv_heads * task.inside)
    for part in range(first, last):
        kv_head, piece = part // task.inside, part % task.inside
        slot, slots, one = pieces[piece, 1], pieces[piece, 2], kv_head * group
        for row in range(task.rows):
            score(asked[row, one : one + group], raw[kv_head, slot : slot + slots], scores)
            for each in range(group):
                own, head = scores[each, :slots], one + each
                most[row, head, piece] = greatest(own)
                shares[row, head, piece] = total(own, most[row, head, piece])


@loop
def place_documents(
    task: Array, asked: Array, partner: Array, most: Array, shares: Array, turned: Array
) -> None:
    """Sort the documents, and turn queries to where they see each of them, and what is outside."""
    documents, inside, width = task.documents, task.inside, task.width
    pieces, lengths = whole(task.pieces, (task.count, 3)), whole(task.lengths, (documents,))
    weight = floats(task.weight, (task.heads, task.rows, documents))
    table = floats(task.table, (task.positions, 2 * width))
    starts = np.empty(documents, np.int64)
    first, last = share(task.heads * task.rows)
    for part in range(first, last):
        head, row = part // task.rows, part % task.rows
        highest, own, summed = greatest(most[row, head, :inside]), weight[head, row], FLOAT(0)
        clear(own)
        for piece in range(inside):
            factor = exp2((most[row, head, piece] - highest) * LOG2_E)
            own[pieces[piece, 0]] += factor * shares[row, head, piece]
            summed += factor * shares[row, head, piece]
        for document in range(documents):
            own[document] /= summed * lengths[document]
        starts_of(own, lengths, task.end, starts)
        position, vector, other = task.start + row, asked[row, head], partner[row, head]
        for document in range(documents):
            phases = table[position - starts[document]]
            turn(vector, other, phases, turned[row, document, head])
        turn(vector, other, table[position], turned[row, documents, head])


@loop
def read_pieces(task: Array, turned: Array, most: Array, shares: Array, read: Array) -> None:
    """Read every piece, the documents' from where they appear."""
    kv_heads, dim, count = task.kv_heads, task.dim, task.count
    framed = floats(task.framed, (kv_heads, task.slots, dim))
    values = floats(task.values, (kv_heads, task.slots, dim))
    outside_keys = floats(task.outside_keys, (kv_heads, task.room, dim))
    outside_values = floats(task.outside_values, (kv_heads, task.room, dim))
    pieces, group = whole(task.pieces, (count, 3)), task.heads // kv_heads
    scores = np.empty((group, PIECE), FLOAT)
    first, last = share(kv_heads * count)
    for part in range(first, last):
        kv_head, piece = part // count, part % count
        document, slot, slots = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2]
        keys, held, one = framed[kv_head], values[kv_head], kv_head * group
        if document < 0:
            document = task.documents
            keys, held = outside_keys[kv_head], outside_values[kv_head]
        for row in range(task.rows):
            seen = slots if piece < task.inside else min(slots, task.before + row + 1 - slot)
            if seen <= 0:
                for head in range(one, one + group):
                    most[row, head, piece] = -np.inf
                continue
            score(turned[row, document, one : one + group], keys[slot : slot + seen], scores)
            for each in range(group):
                own, head = scores[each, :seen], one + each
                most[row, head, piece] = greatest(own)
                shares[row, head, piece] = soften(own, most[row, head, piece])
            weigh(scores, held[slot : slot + seen], read[row, piece, one : one + group])


@loop
def merge(task: Array, most: Array, shares: Array, read: Array) -> None:
    """Merge what was read from all pieces (see `kvedit.state`)."""
    output = floats(task.output, (task.heads, task.rows, task.dim))
    first, last = share(task.heads * task.rows)
    for part in range(first, last):
        head, row = part // task.rows, part % task.rows
        highest, summed, made = greatest(most[row, head]), FLOAT(0), output[head, row]
        clear(made)
        for piece in range(task.count):
            if most[row, head, piece] > -np.inf:
                factor = exp2((most[row, head, piece] - highest) * LOG2_E)
                summed += factor * shares[row, head, piece]
                for j in range(task.dim):
                    made[j] += factor * read[row, piece, head, j]
        for j in range(task.dim):
            made[j] /= summed


@kernel
def read_suffix(address: Array) -> None:
    """Cache a few suffix tokens, and write what they read (PINE, section 3.3)."""
    task = carray(address, 1, SUFFIX)[0]
    rows, heads, count, dim = task.rows, task.heads, task.count, task.dim
    asked, place = laid(task.scratch, (rows, heads, dim))
    partner, place = laid(place, (rows, heads, task.width))
    most, place = laid(place, (rows, heads, count))  # the greatest score in each piece,
    shares, place = laid(place, (rows, heads, count))  # the sum of its weights over that one's,
    read, place = laid(place, (rows, count, heads, dim))  # and of its values by those weights
    turned, place = laid(place, (rows, task.documents + 1, heads, dim))
    if thread_number() == 0:
        ask(task, asked, partner)
    meet()
    look(task, asked, most, shares)
    meet()
    place_documents(task, asked, partner, most, shares, turned)
    meet()
    read_pieces(task, turned, most, shares, read)
    meet()
    merge(task, most, shares, read)


class ImportanceTask(Task):
    """Scores without positions of some rows of consecutive query documents.

    product  [heads, asking, rows, slots]
    begins   [documents + 1] first slot of each document
    lengths  [documents] tokens
    weight   [heads, asking, documents]; added to, but for the query documents' own
    own      the first query document
    first    the index, in their documents, of the first rows
    """

    _fields_ = (
        *integers("product", "begins", "lengths", "weight"),
        *integers("heads", "asking", "rows", "slots", "documents", "own", "first"),
    )


IMPORTANCE = np.dtype(ImportanceTask)


@kernel
def importance(address: Array) -> None:
    """Add the importance of documents to rows of query documents (PINE, section 3.3)."""
    task = carray(address, 1, IMPORTANCE)[0]
    asking, documents = task.asking, task.documents
    product = floats(task.product, (task.heads, asking, task.rows, task.slots))
    weight = floats(task.weight, (task.heads, asking, documents))
    begins, lengths = whole(task.begins, (documents + 1,)), whole(task.lengths, (documents,))
    summed, shares = np.empty(documents, FLOAT), np.empty(documents, FLOAT)
    first, last = share(task.heads * asking)
    for part in range(first, last):
        head, place = part // asking, part % asking
        own = task.own + place
        clear(summed)
        for row in range(min(task.rows, lengths[own] - task.first)):
            scores = product[head, place, row]
            most = FLOAT(-np.inf)
            for document in range(documents):
                begin = begins[document]
                if document != own:
                    most = max(most, greatest(scores[begin : begin + lengths[document]]))
            all_shares = FLOAT(0)
            for document in range(documents):
                begin = begins[document]
                if document != own:
                    shares[document] = total(scores[begin : begin + lengths[document]], most)
                    all_shares += shares[document]
            for document in range(documents):
                if document != own:
                    summed[document] += shares[document] / all_shares
        for document in range(documents):
            weight[head, place, document] += summed[document] / lengths[document]


class WeightsTask(Task):
    """Scores of some rows of query documents with all that they may see.

    product  [heads, asking, rows, slots]; scores, then weights that `factor` makes a softmax
    factor   [heads, asking, rows] one over the sum of the weights; written
    own      [asking, 2] where the query document's slots begin, and end; rows see their own
             document up to themselves
    gaps     [gap_count, 2] where padding begins, and ends
    first    the index, in their documents, of the first rows
    """

    _fields_ = (
        *integers("product", "factor", "own", "gaps"),
        *integers("heads", "asking", "rows", "slots", "gap_count", "first"),
    )


WEIGHTS = np.dtype(WeightsTask)


@kernel
def weights(address: Array) -> None:
    """Turn scores of query documents into weights."""
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


class KeysTask(Task):
    """Keys of the prefix and of the documents, to be laid out for some query documents.

    prefix   [kv_heads, before, dim]
    framed   [kv_heads, slots, dim]
    partner  [kv_heads, slots, width] what each dimension turns with
    table    [positions, 2 * width]
    appears  [heads, asking, documents] position of each document's first token
    begins   [documents + 1] first slot of each document
    targets  [documents] where that is among the keys
    keys     [heads, asking, before + slots, dim]; written
    """

    _fields_ = (
        *integers("prefix", "framed", "partner", "table", "appears", "begins", "targets", "keys"),
        *integers("heads", "kv_heads", "asking", "before", "slots", "dim", "width"),
        *integers("documents", "positions"),
    )


KEYS = np.dtype(KeysTask)


@kernel
def turn_keys(address: Array) -> None:
    """Write keys where they appear for each query document."""
    task = carray(address, 1, KEYS)[0]
    asking, documents, before = task.asking, task.documents, task.before
    slots, dim = task.slots, task.dim
    prefix = floats(task.prefix, (task.kv_heads, before, dim))
    framed = floats(task.framed, (task.kv_heads, slots, dim))
    partner = floats(task.partner, (task.kv_heads, slots, task.width))
    table = floats(task.table, (task.positions, 2 * task.width))
    appears = whole(task.appears, (task.heads, asking, documents))
    begins = whole(task.begins, (documents + 1,))
    targets = whole(task.targets, (documents,))
    keys = floats(task.keys, (task.heads, asking, before + slots, dim))
    first, last = share(task.heads * asking * documents)
    for part in range(first, last):
        document, place = part % documents, part // documents % asking
        head = part // documents // asking
        kv_head, made = head // (task.heads // task.kv_heads), keys[head, place]
        if document == 0:
            for i in range(before):
                copy(prefix[kv_head, i], made[i])
        phases = table[appears[head, place, document]]
        shift = targets[document] - begins[document]
        for slot in range(begins[document], begins[document + 1]):
            turn(framed[kv_head, slot], partner[kv_head, slot], phases, made[slot + shift])
