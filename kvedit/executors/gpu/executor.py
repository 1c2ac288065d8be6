"""The executor of a GPU: for each kind of rows one launch."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor

from kvedit.executors import gpu, products
from kvedit.executors.gpu import joint, launch, sights, weighing
from kvedit.executors.gpu.records import Placed
from kvedit.executors.gpu.tiling import Tiling
from kvedit.executors.runs import as_specified, in_runs, whole_set
from kvedit.pages import Pages
from kvedit.reading import Layer
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import SpanSet


class GpuExecutor:
    """Reads by kernels that Triton compiles, and by SDPA where that is enough.

    joint   all spans of a set, ranked once each
    SDPA    a single sight that stands still
    sights  everything else
    """

    name = "gpu"

    def __init__(self) -> None:
        self._tilings: WeakKeyDictionary[Pages, Tiling] = WeakKeyDictionary()

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        """Attend (see `kvedit.executors.Executor`).

        raises  ValueError  if the kernels cannot read such heads, or not on this device
        """
        return in_runs(layer, _readable(query), rows, self._read)

    def mass(self, layer: Layer, query: Tensor, spans: SpanSet) -> Tensor:
        """Weigh spans (see `kvedit.executors.Executor`)."""
        return weighing.mass(layer, _readable(query), spans, self._tiling(spans.pages))

    def _read(self, layer: Layer, query: Tensor, run: Sequence[Rows]) -> Tensor:
        first = run[0]
        seen = [each for each in first.sights if isinstance(each, Ranked) or each.span.held]
        asked = next((each for each in seen if isinstance(each, Ranked)), None)
        if asked is not None and asked.own is not None:
            if not whole_set(run):
                return as_specified(layer, query, run)
            standing = [each for each in seen if isinstance(each, Sight)]
            return joint.read(layer, self._tiling(asked.spans.pages), query, standing, asked)
        if products.is_plain(layer, first):
            return products.read(layer, query, first)
        return sights.read(
            layer, query, first.place, [self._placed(layer, query, each) for each in seen]
        )

    def _placed(self, layer: Layer, query: Tensor, sight: Sight | Ranked) -> Sight | Placed:
        """Return a sight with its place, if it is a set that rows rank for themselves."""
        if isinstance(sight, Sight):
            return sight
        tiling = self._tiling(sight.spans.pages)
        appears = weighing.ranked_apart(layer, query, sight, tiling)
        return Placed(sight.spans, tiling, appears)

    def _tiling(self, pages: Pages) -> Tiling:
        tiling = self._tilings.get(pages)
        if tiling is None:
            tiling = self._tilings[pages] = Tiling.of(pages)
        return tiling


def _readable(query: Tensor) -> Tensor:
    """Return queries, [batch, heads, query, dim], as the kernels take them."""
    reason = gpu.refusal(query.dtype, query.shape[3])
    if reason is not None:
        raise ValueError(reason)
    if not (query.is_cuda or launch.interpreted()):
        raise ValueError(f"kernels must be given tensors on a GPU, got {query.device}")
    return query if query.stride(3) == 1 else query.contiguous()
