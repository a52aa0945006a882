"""Servers to attack, with the default options unless a test passes others to `harness.served`."""

from typing import Any

from rayforce_trio import InProcessEngine, NativeProcess, WSServer


def in_process(**options: Any) -> WSServer:
    """Return a server with an `InProcessEngine`, with these options of `WSServer`."""
    return WSServer(port=0, host="127.0.0.1", engine=InProcessEngine(), **options)


def child(engine: dict[str, Any] | None = None, **options: Any) -> WSServer:
    """Return a server with a `NativeProcess`.

    Args:
        engine: options of `NativeProcess`.
        options: options of `WSServer`.
    """
    return WSServer(port=0, host="127.0.0.1", engine=NativeProcess(**(engine or {})), **options)
