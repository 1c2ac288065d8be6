"""PINE (arXiv 2407.01100): documents read as a set.

Wang et al., "Eliminating Position Bias of Language Models: A Mechanistic Approach", ICLR 2025.
"""
