"""The command line: `serve`, `query`, `load`, `repl` and `hash-password`, built on the package's public names alone."""

from ._main import main

__all__ = ["main"]
