"""What of a text to fill in stays where the context is short.

What is cut grows in steps: typing then seldom moves the place where a prompt begins, and what was
read of it before stays of use.
"""

from __future__ import annotations

from dataclasses import dataclass

SUFFIX = 4  # 1/4 of the room is the suffix's where both texts are too long


@dataclass(frozen=True, slots=True)
class Shares:
    """Tokens that each gets.

    prefix, suffix  its last tokens, and its first ones
    others          for whatever else there is
    """

    prefix: int
    suffix: int
    others: int


def shares(prefix: int, suffix: int, free: int, step: int) -> Shares:
    """Share the room between the texts around the cursor; what they leave is for others.

    >>> shares(prefix=1000, suffix=20, free=110, step=16)
    Shares(prefix=88, suffix=20, others=0)  # 912 = 57 steps are cut

    prefix, suffix  tokens that there are
    free            tokens for all
    """
    wanted = prefix + suffix
    if wanted <= free:
        return Shares(prefix, suffix, max(free - up(wanted, step), 0))
    after = suffix
    least = free // SUFFIX
    if suffix > (room := max(least, free - prefix)):
        after = max(least, room - room % step)
    cut = min(up(max(prefix + after - free, 0), step), prefix)
    return Shares(prefix - cut, after, 0)


def up(number: int, step: int) -> int:
    """Return the next multiple of a step."""
    return -(-number // step) * step
