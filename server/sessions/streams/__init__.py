"""Streams: a target is written while its source is read."""
