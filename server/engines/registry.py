"""From settings to an engine; what an engine needs is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.engines.base import Engine
from server.errors import EngineError, EvenhandError, PlanError, told
from server.reference import refer
from server.settings import Settings

if TYPE_CHECKING:
    from server.engines.hf import HfEngine

MOST_SHOWN = 300  # characters of a library's message


def load(settings: Settings) -> Engine:
    """Load the model that the settings name; slow, so call it off the event loop.

    raises  PlanError    no model is there
            EngineError  the model is there and cannot be loaded, or its server is not there
    """
    return _remote(settings) if settings.engine == "remote" else load_here(settings)


def _remote(settings: Settings) -> Engine:
    if settings.remote_url is None:
        raise PlanError(
            "engine 'remote' must have the URL of a server, got none; "
            "give --remote-url (or EVENHAND_REMOTE_URL)"
        )
    if settings.model is not None:
        raise PlanError(
            f"engine 'remote' cannot load a model, got {settings.model}; "
            "name the other server's model with --remote-model instead of --model"
        )
    from server.engines.remote import Access, RemoteEngine

    key = settings.remote_key
    access = Access(
        url=str(settings.remote_url),
        key=key.get_secret_value() if key is not None else None,
        timeout=settings.remote_timeout,
        retries=settings.remote_retries,
    )
    return RemoteEngine.load(
        access,
        model=settings.remote_model,
        name=next(iter(settings.served_model_name), None),
        max_model_len=settings.max_model_len,
        concurrency=settings.remote_concurrency,
        logprobs=settings.remote_logprobs,
    )


def load_here(settings: Settings) -> HfEngine:
    """Load a model into this process (errors as `load`)."""
    if settings.remote_url is not None:
        raise PlanError(
            f"engine 'hf' cannot use another server, got one on {settings.remote_url.host}; "
            "give --engine remote, or leave --remote-url out"
        )
    from server.engines.hf import HfEngine
    from server.engines.hf.placement import Placement
    from server.engines.hf.source import find

    placement = Placement.read(
        settings.device, settings.dtype, settings.device_map, settings.max_memory
    )
    source = find(None if settings.model is None else refer(settings.model))
    try:
        return HfEngine.load(
            source.path,
            name=settings.names[0],
            root=source.root,
            placement=placement,
            threads=settings.threads or None,
            max_model_len=settings.max_model_len,
            reuse_bytes=settings.reuse_bytes,
            kernels=settings.kernels,
        )
    except EvenhandError:
        raise
    except Exception as error:  # libraries raise anything over a broken file
        said = told(error)[:MOST_SHOWN]
        raise EngineError(
            f"model must be one that can be loaded, got {source.root} ({said}); serve another model"
        ) from error
