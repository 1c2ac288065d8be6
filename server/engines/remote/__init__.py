"""The remote engine: any server that speaks OpenAI's protocol, through its own client."""

from server.engines.remote.access import Access
from server.engines.remote.engine import RemoteEngine

__all__ = ["Access", "RemoteEngine"]
