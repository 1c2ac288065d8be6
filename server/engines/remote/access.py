"""How another server is reached: where, with which key, how patiently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai

from server.engines.remote import faults
from server.errors import PlanError

CONNECT = 10.0  # seconds: a server that is there accepts a connection at once
NO_KEY = "none"  # the client insists on one; servers without keys do not look at it


@dataclass(frozen=True, slots=True)
class Access:
    """The way to another server.

    url      base of its API: `/chat/completions` is added to it
    key      None = it asks for none
    timeout  seconds of silence before it counts as gone
    retries  after the first try; the client waits between them, as long as `Retry-After` says
    raises   PlanError  if the URL carries what logs would show, or the key cannot be sent
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 300.0
    retries: int = 2

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if "@" in parts.netloc or parts.query:
            raise PlanError(
                f"remote URL cannot carry a password or a query, got one behind {self.shown}; "
                "give the key as EVENHAND_REMOTE_KEY"
            )
        # said here, since a header's own fault would be told with its value
        if self.key is not None and not (self.key and all("!" <= char <= "~" for char in self.key)):
            raise PlanError(
                "remote key must be of visible ASCII characters, got another or none; copy it again"
            )

    @property
    def shown(self) -> str:
        """Return the URL without what might be a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"

    def options(self) -> dict[str, Any]:
        """Return what OpenAI's client, waiting or not, is made with."""
        return {
            "base_url": self.url,
            "api_key": self.key or NO_KEY,
            "timeout": openai.Timeout(self.timeout, connect=min(self.timeout, CONNECT)),
            "max_retries": self.retries,
        }

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the client's errors as ours; the key is in none of them."""
        try:
            yield
        except (openai.APIError, ValueError) as error:  # no JSON, no UTF-8, no answer: ValueError
            ours = faults.translated(error, self.shown, self.timeout)
            if self.key is not None:
                ours.message = ours.message.replace(self.key, "***")
                ours.args = (ours.message,)
            raise ours from None
