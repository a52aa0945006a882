"""What evaluates queries, behind one interface."""

from ._base import Engine, Session
from ._in_process import InProcessEngine

__all__ = ["Engine", "InProcessEngine", "Session"]
