"""Texts that are edited while they are asked about: their versions, caches and budget."""
