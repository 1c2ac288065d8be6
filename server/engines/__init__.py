"""Engines: the only part of the server that talks to models."""
