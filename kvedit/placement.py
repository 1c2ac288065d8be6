"""Where a model's parts lie: one device, several, or elsewhere until they are needed.

Accelerate puts hooks on the modules of a model that is spread. They move what a module is given to
where it computes; and an offloaded module has its tensors for its forward alone, and stands on the
device `meta` in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def entrance(model: nn.Module) -> torch.device:
    """Return the device where token ids are wanted: that of the embeddings.

    model  with `get_input_embeddings`, as transformers' models have it
    """
    embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    for module in (embeddings, model):
        for hook in _hooks(module):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
    return next(chain(embeddings.parameters(), model.parameters())).device


def content(
    model: nn.Module, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer by name; what is shared comes under each of its names.

    wanted  is given a full name, and says whether to yield it: the others are not fetched

    A tensor that lies elsewhere is here until the next one is asked for.
    """
    return _below(model, "", wanted)


def _below(
    module: nn.Module, prefix: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    absent = any(each.is_meta for name, each in _tensors(module, prefix) if wanted(name))
    with _present(module) if absent else nullcontext():
        for name, tensor in _tensors(module, prefix, recurse=False):
            if wanted(name):
                yield name, tensor
        for name, child in module._modules.items():
            if child is not None:
                yield from _below(child, f"{prefix}{name}.", wanted)


def _tensors(module: nn.Module, prefix: str, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    for each in (module.named_parameters, module.named_buffers):
        for name, tensor in each(recurse=recurse, remove_duplicate=False):
            yield prefix + name, tensor


@contextmanager
def _present(module: nn.Module) -> Iterator[None]:
    """Have a module's own tensors where it computes, as for a forward."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def _hooks(module: nn.Module) -> Iterator[Any]:
    """Yield the hook of a module, or those that it is made of."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
