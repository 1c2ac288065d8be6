"""Evenhand's server: what was asked, in which order, whether it is possible, and who answers."""
