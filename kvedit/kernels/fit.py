"""Fitting a model's linear layers to the machine, once, at load."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kvedit.kernels import memory
from kvedit.kernels.attention import Attend, Attention
from kvedit.kernels.choice import MOST_FEW, ROUNDINGS, Choice, choose
from kvedit.kernels.gated import Gated
from kvedit.kernels.linear import Embedding, Linear
from kvedit.kernels.norm import SHARED, Norm
from kvedit.kernels.weights import DTYPES, Packed, Stock, Unpacked, Weights, packed_order

logger = logging.getLogger(__name__)

SMALL = 32 * 2**20  # bytes of all layers together: a model that caches hold has nothing to win


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A layer of the model, and who holds it under which name."""

    parent: nn.Module
    name: str
    layer: nn.Module


@dataclass(slots=True, eq=False)
class _Shared:
    """One weight, and the modules that were replaced since they read it.

    packing  whether it may be packed: not if something that stays reads it too
    """

    weight: Tensor
    modules: list[Linear | Embedding]
    packing: bool

    def hold(self, weights: Weights) -> None:
        """Give the modules their weights."""
        for module in self.modules:
            module.hold(weights)


def fit(
    model: nn.Module, run: Callable[[], object], attend: Attend, head: nn.Module | None = None
) -> Mapping[str, str]:
    """Choose a kernel for each shape of linear layers, and give it their weights.

    run      a short forward, to see that the model reads no weight behind its layers' backs
    attend   the attention function of `kvedit.hf`
    head     the layer whose outputs are logits, or None
    returns  the kernel by shape, as it is shown; empty where all layers stay as they are
    """
    found = list(_found(model))
    if sum(weight.nbytes for weight, _, _ in found) < SMALL:
        return {}
    shared = [_exchange(*each, head) for each in found]
    try:
        run()
    except Exception as error:
        logger.warning("kernel 'stock' multiplies: layers cannot be exchanged: %s", error)
        for _, places, _ in found:
            for place in places:
                setattr(place.parent, place.name, place.layer)
        return {}
    del found
    groups = _by_shape(shared)
    del shared
    chosen: dict[str, str] = {}
    looped = False
    for group in groups:
        outputs, inputs = group[0].weight.shape
        choice = choose([one.weight for one in group], group[0].packing)
        chosen[f"{outputs} x {inputs}"] = str(choice)
        looped = looped or choice.few > 0
        logger.info("kernel '%s' multiplies %d x %d", choice, outputs, inputs)
        while group:
            _settle(group.pop(), choice)
    if looped:  # else the loops may not even be compiled here
        _join(model, attend)
    return chosen


@torch.inference_mode()
def _join(model: nn.Module, attend: Attend) -> None:
    """Do in one call what a step does in several, where it comes to the same."""
    right: dict[object, bool] = {}
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            made: nn.Module | None = Attention.of(layer, attend)
            if made is None:
                made = Norm.of(layer) or Gated.of(layer)
                if made is not None and not _same(layer, made, right):
                    continue
            if made is not None and _unhooked(layer):
                setattr(parent, name, made.train(layer.training))


def _same(layer: nn.Module, made: Norm | Gated, known: dict[object, bool]) -> bool:
    """Return whether a module of ours gives what a layer gives; found once for each kind."""
    kind = type(layer), made.width, made.dtype
    if kind not in known:
        generator = torch.Generator().manual_seed(0)
        known[kind] = True
        for count in (1, 2, MOST_FEW + SHARED):
            rows = torch.randn((1, count, made.width), generator=generator).to(made.dtype)
            expected = layer(rows).double()
            off = float((made(rows).double() - expected).abs().max())
            allowed = ROUNDINGS * torch.finfo(made.dtype).eps
            known[kind] &= off <= max(allowed, 1e-5) * float(expected.abs().max())
    return known[kind]


def _by_shape(shared: list[_Shared]) -> list[list[_Shared]]:
    """Return those together that one choice is made for."""
    groups: dict[tuple[object, ...], list[_Shared]] = defaultdict(list)
    for one in shared:
        groups[*one.weight.shape, one.weight.dtype, one.packing].append(one)
    # the largest first, since there are two of a weight for a moment
    return sorted(groups.values(), key=lambda group: -group[0].weight.nbytes)


def _settle(one: _Shared, choice: Choice) -> None:
    """Let a kernel hold a weight; what was loaded is forgotten if it has a copy."""
    held = choice.make(one.weight)
    if isinstance(held, Packed):
        if not held.ordered and any(isinstance(module, Embedding) for module in one.modules):
            held = Unpacked(one.weight)
        else:
            memory.forget(one.weight.data_ptr(), one.weight.nbytes)
    one.hold(held)


def _found(model: nn.Module) -> Iterator[tuple[Tensor, list[_Place], bool]]:
    """Yield each weight that a kernel may hold, its layers, and whether it may be packed."""
    places: dict[int, list[_Place]] = defaultdict(list)
    weights: dict[int, Tensor] = {}
    for parent in model.modules():
        for name, layer in parent.named_children():
            weight = getattr(layer, "weight", None)
            if isinstance(weight, Tensor):
                places[id(weight)].append(_Place(parent, name, layer))
                weights[id(weight)] = weight
    for key, own in places.items():
        weight, plain = weights[key], [place for place in own if _plain(place.layer)]
        linear = [place for place in plain if type(place.layer) is nn.Linear]
        if not linear or weight.device.type != "cpu" or weight.dtype not in DTYPES:
            continue
        packing = len(plain) == len(own)
        if len(linear) < len(plain):  # an embedding reads it too
            packing = packing and packed_order(weight.dtype) is not None
        yield weight.detach(), plain if packing else linear, packing


def _plain(layer: nn.Module) -> bool:
    """Return whether a layer does what its class says, and nothing is hooked into it."""
    known = type(layer) is nn.Linear or (type(layer) is nn.Embedding and layer.max_norm is None)
    return known and _unhooked(layer)


def _unhooked(layer: nn.Module) -> bool:
    hooked = layer._forward_hooks or layer._forward_pre_hooks or hasattr(layer, "_hf_hook")
    return not hooked


def _exchange(
    weight: Tensor, places: list[_Place], packing: bool, head: nn.Module | None
) -> _Shared:
    """Put modules of ours in the layers' places.

    head  the layer whose outputs are logits
    """
    held, modules = Stock(weight), list[Linear | Embedding]()
    for place in places:
        module: Linear | Embedding
        if isinstance(place.layer, nn.Linear):
            shape = (weight.shape[0], weight.shape[1])
            module = Linear(held, place.layer.bias, shape, head=place.layer is head)
        else:
            module = Embedding(held, (weight.shape[0], weight.shape[1]))
        setattr(place.parent, place.name, module.train(place.layer.training))
        modules.append(module)
    return _Shared(weight, modules, packing)
