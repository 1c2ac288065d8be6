"""The reference engine: a transformers model in one worker thread, step by step."""

from server.engines.hf.engine import HfEngine

__all__ = ["HfEngine"]
