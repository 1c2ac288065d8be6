"""Natural-log probabilities of the raw logits, in float32: before any penalty or temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from server.chunk import Scored
from server.text.vocabulary import Vocabulary

ROWS = 256  # prompt positions scored at once: the float32 copy stays small


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the natural-log probabilities, float32, of logits [..., vocab]."""
    return torch.log_softmax(logits.float(), -1)


class Scorer:
    """Writes tokens down with their scores; the chosen token's is the same float as in `top`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def token(
        self, token_id: int, logprob: float | None = None, top: tuple[Scored, ...] = ()
    ) -> Scored:
        """Return one token, scored or not."""
        data = self._vocabulary.data[token_id]
        return Scored(token_id, data.decode("utf-8", "replace"), logprob, data, top)

    def rows(self, logits: Tensor, ids: Sequence[int], alternatives: int) -> tuple[Scored, ...]:
        """Score the token that follows each row.

        logits        [rows, vocab]
        ids           rows of them: what came after each row
        alternatives  how many of the most likely tokens to report per row
        """
        scored: list[Scored] = []
        for start in range(0, len(ids), ROWS):
            scored += self._block(
                logits[start : start + ROWS], ids[start : start + ROWS], alternatives
            )
        return tuple(scored)

    def _block(self, logits: Tensor, ids: Sequence[int], alternatives: int) -> list[Scored]:
        logprobs = log_probabilities(logits[: len(ids)])
        chosen = torch.tensor(ids, device=logprobs.device)[:, None]
        values: list[float] = logprobs.gather(1, chosen)[:, 0].tolist()
        best, places = logprobs.topk(min(alternatives, logprobs.shape[1]), dim=1)
        return [
            self.token(token_id, value, tuple(map(self.token, others, other_values)))
            for token_id, value, others, other_values in zip(
                ids, values, places.tolist(), best.tolist(), strict=True
            )
        ]

    def labels(self, logits: Tensor, labels: Sequence[str]) -> Mapping[str, float]:
        """Return the natural-log probability of each label, all its token spellings summed.

        logits  [vocab]
        labels  each with at least one spelling in the vocabulary
        """
        spellings = [self._vocabulary.spellings[label.strip()] for label in labels]
        found = log_probabilities(logits)[[spelling for ids in spellings for spelling in ids]]
        sums = [
            own[0] if len(own) == 1 else own.logsumexp(0)
            for own in found.split_with_sizes([*map(len, spellings)])
        ]
        return dict(zip(labels, torch.stack(sums).tolist(), strict=True))
