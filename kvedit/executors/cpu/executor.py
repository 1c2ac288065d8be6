"""The executor of a CPU: for each kind of rows the way that is fastest there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from torch import Tensor

from kvedit.executors import Pack, products
from kvedit.executors.cpu import few, joint, packed
from kvedit.executors.cpu.pieces import Cut
from kvedit.executors.runs import as_specified, in_runs, whole_set
from kvedit.pages import Pages
from kvedit.reading import Layer
from kvedit.sight import Ranked, Rows
from kvedit.spans import SpanSet


class CpuExecutor:
    """Reads by loops that Numba compiles, and by torch's products where those are faster.

    few     some rows, above all one that decodes: one call of a compiled loop, which reads for
            many sequences at once, and to the same bits for each of them as alone
    joint   all spans of a set, ranked once each: keys are turned, and products read them
    packed  short prompts of several sequences: one pass
    else    products with one softmax, or SDPA
    """

    name = "cpu"

    def __init__(self) -> None:
        self._cuts: WeakKeyDictionary[Pages, Cut] = WeakKeyDictionary()

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        """Attend (see `kvedit.executors.Executor`)."""
        if len(rows) == 1 and (layer.tail is None or layer.tail >= query.shape[2]):
            return self._read(layer, query, rows)  # decoding feels what it takes to look further
        return in_runs(layer, query, rows, self._read)

    def mass(self, layer: Layer, query: Tensor, spans: SpanSet) -> Tensor:
        """Weigh spans (see `kvedit.executors.Executor`)."""
        return products.mass(layer, query, spans)

    def packs(
        self, rows: Mapping[int, Sequence[Rows]], tokens: Sequence[slice], query: Tensor
    ) -> Sequence[Pack]:
        """Put short prompts together (see `kvedit.executors.Packer`)."""
        return list(packed.packs(rows, tokens, query))

    def step(
        self,
        layer: Layer,
        query: Tensor,
        rows: Mapping[int, Sequence[Rows]],
        tokens: Sequence[slice],
        output: Tensor,
    ) -> Mapping[int, Exception | None]:
        """Read what decodes in one call (see `kvedit.executors.Packer`)."""
        step, weights = few.Step(layer, query, output), dict[int, Tensor]()
        failed: dict[int, Exception | None] = {}
        for index, own in rows.items():
            if len(own) == 1 and few.fits(query, own[0]):
                try:
                    cut = self._cut_of(own[0])
                    weights[index] = step.add(own[0], cut, tokens[index].start)
                except Exception as error:
                    failed[index] = error
        try:
            step.run()
        except Exception as error:
            return {**dict.fromkeys(weights, error), **failed}
        for index, weight in weights.items():
            try:
                few.tell(rows[index][0], weight)
                failed[index] = None
            except Exception as error:
                failed[index] = error
        return failed

    def _read(self, layer: Layer, query: Tensor, run: Sequence[Rows]) -> Tensor:
        cut, ranked = self._cut_of(run[0]), _ranked(run[0])
        if ranked is not None and cut is not None and ranked.own is not None:
            if whole_set(run):
                return joint.read(layer, cut, query, run[0])
            return as_specified(layer, query, run)
        if few.fits(query, run[0]):
            return few.read(layer, cut, query, run[0])
        return products.read(layer, query, run[0])

    def _cut_of(self, rows: Rows) -> Cut | None:
        """Return the cut of the set that rows rank, or None."""
        ranked = _ranked(rows)
        if ranked is None:
            return None
        pages = ranked.spans.pages
        cut = self._cuts.get(pages)
        if cut is None:
            cut = self._cuts[pages] = Cut.of(pages)
        return cut


def _ranked(rows: Rows) -> Ranked | None:
    return next((each for each in rows.sights if isinstance(each, Ranked)), None)
