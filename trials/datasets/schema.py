"""A schema: how the records of one published data set become items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trials.datasets.item import Item
from trials.datasets.rows import Row


@dataclass(frozen=True, slots=True)
class Schema:
    """One way to write pairs down.

    fields  a file whose first record has all of these is of this schema
    items   makes items of a file's rows and a seed (PlanError for the first broken row)
    """

    name: str
    fields: frozenset[str]
    items: Callable[[Sequence[Row], int], list[Item]]

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Say whether a record is of this schema."""
        return self.fields <= fields.keys()


def rowwise(make: Callable[[Row, int, int], Item]) -> Callable[[Sequence[Row], int], list[Item]]:
    """Return a schema's `items` where every row is one item.

    make  called with the row, its index in the file counted from 0, and the seed
    """

    def items(rows: Sequence[Row], seed: int) -> list[Item]:
        return [make(row, index, seed) for index, row in enumerate(rows)]

    return items


def labelled(row: Row, name: str, meanings: Mapping[str | int, int]) -> int | None:
    """Return the label that a field says, by its possible values; null and "" mean none."""
    value = row.fields.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in meanings:
        said = ", ".join(str(each) for each in meanings if not isinstance(each, int))
        raise row.fault(name, f"be one of {said}")
    return meanings[value]


def about(row: Row, *names: str) -> dict[str, Any]:
    """Return the fields to keep for the record, where a row has them."""
    return {name: row.fields[name] for name in names if row.fields.get(name) is not None}
