"""Kernels of Jupyter, which run the cells of notebooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from jupyter_client.manager import start_new_kernel

from .commands import BOUND, environment


class Run(Protocol):
    """Runs a cell."""

    def __call__(self, code: str, *, until: Callable[[], object] | None = None) -> str:
        """Return what a notebook shows below a cell.

        Args:
            code: the cell.
            until: the kernel is interrupted when this has returned.
        """
        ...


@contextmanager
def kernel() -> Iterator[Run]:
    """Run a kernel for the block, with this very package."""
    manager, client = start_new_kernel(env=environment(PYTHONWARNINGS="ignore"))

    def run(code: str, *, until: Callable[[], object] | None = None) -> str:
        cell, shown = client.execute(code), ""
        if until is not None:
            until()
            manager.interrupt_kernel()
        while True:
            message = client.get_iopub_msg(timeout=BOUND)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != cell:
                continue
            if kind == "status" and content["execution_state"] == "idle":
                return shown
            if kind == "stream":
                shown += content["text"]
            elif kind == "execute_result":
                shown += content["data"]["text/plain"] + "\n"
            elif kind == "error":
                shown += content["ename"] + "\n"

    try:
        yield run
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
