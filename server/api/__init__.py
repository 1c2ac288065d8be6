"""The HTTP endpoints, one file per family; nothing below this package knows of HTTP."""
