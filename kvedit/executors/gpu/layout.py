"""The numbers of a record, int64: of one span, or of all spans of a set, as rows look at it.

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

from __future__ import annotations

import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

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
