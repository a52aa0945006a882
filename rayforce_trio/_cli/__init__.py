"""The command line: `serve`, `query` and `repl`, built on the package's public names alone."""

from ._main import main

__all__ = ["main"]
