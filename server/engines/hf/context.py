"""What one sequence has read, and what it is to read next."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from kvedit.segments import Ids
from server.engines.hf.forward import Forward


class Context:
    """The tokens of one sequence; it takes memory when its first ones are read.

    forward  the model, with what was read
    device   where the model wants its ids
    cached   tokens that were read before what was fed last
    failed   True = a forward of it has failed, so that what it holds means nothing
    """

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self.forward = forward
        self.cached = 0
        self.failed = False
        self.ids: list[int] = []
        self.device = device
        self._prompt: Ids | None = None  # fed, but not cut yet
        self._pieces: deque[Tensor] = deque()

    def feed(self, ids: Ids) -> None:
        """Add tokens at the end; the first ones are a prompt, which its reading may want cut."""
        if not self.ids:
            self._prompt = ids
        else:
            self.begin()
            unread = sum(piece.shape[1] for piece in self._pieces)
            self.cached = len(self.ids) - unread
            self._append(torch.tensor([ids], device=self.device))
        self.ids += ids

    def become(self, ids: Ids, pending: Tensor) -> None:
        """Make it another text, of which these tokens are to be read next, [1, query] int64."""
        self._prompt, self.ids = None, list(ids)
        self.cached = len(ids) - pending.shape[1]
        self._pieces = deque([pending.to(self.device)])

    def again(self, ids: Ids) -> None:
        """Make it another prompt; what its forward holds of it, it leaves out of its pieces."""
        self._prompt, self.ids = ids, list(ids)
        self._pieces.clear()

    def begin(self) -> None:
        """Cut the prompt where its reading says, once; what is cached already is left out."""
        if self._prompt is None:
            return
        ids, self._prompt = self._prompt, None
        pieces = self.forward.pieces(len(ids))
        self.cached = len(ids) - sum(map(len, pieces))
        self._pieces += [
            torch.tensor([ids[piece.start : piece.stop]], device=self.device) for piece in pieces
        ]

    @property
    def unread(self) -> bool:
        """Return whether there is anything to read."""
        return self._prompt is not None or bool(self._pieces)

    @property
    def pending(self) -> Tensor:
        """Return what it reads next, [1, query] int64: a piece of the prompt, or one token."""
        return self._pieces[0]

    @property
    def last(self) -> bool:
        """Return whether nothing comes after `pending`."""
        return len(self._pieces) == 1

    def done(self) -> bool:
        """Take note that `pending` was read; return whether that was all."""
        self._pieces.popleft()
        return not self._pieces

    def take(self, token: Tensor) -> int:
        """Add the answer's next token, [1, 1] int64, and return its id."""
        self._pieces.append(token.to(self.device))
        self.ids.append(int(token))
        return self.ids[-1]

    def _append(self, ids: Tensor) -> None:
        """Read new tokens with the answer's last one, which nobody has read yet."""
        if self._pieces:
            ids = torch.cat((self._pieces.pop(), ids), 1)
        self._pieces.append(ids)
