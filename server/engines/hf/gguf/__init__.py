"""Models in one GGUF file: its header, and what transformers needs of it."""
