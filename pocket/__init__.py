"""The embedded model: a small Llama that this repository trains from a seed and commits.

pocket.data       the generated small world: documents, questions, answers to judge
pocket.tokenizer  byte-level BPE with a chat template and fill-in-the-middle tokens
pocket.train      `python -m pocket.train` makes the weights again
pocket.teach      its second phase, judging
pocket.incline    the initial values of the second phase
pocket.evaluate   `python -m pocket.evaluate` prints the tables of MODEL_CARD.md
"""

from pathlib import Path

WEIGHTS: Path = Path(__file__).parent / "weights"
