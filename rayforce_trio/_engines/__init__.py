"""The engines that evaluate queries, behind one interface."""

from ._base import Client, ClientMustWait, Engine, Feed, FeedHandler, Session
from ._in_process import InProcessEngine
from ._native import NativeEngine
from ._process import NativeProcess
from ._round_robin import RoundRobinEngine

__all__ = [
    "Client",
    "ClientMustWait",
    "Engine",
    "Feed",
    "FeedHandler",
    "InProcessEngine",
    "NativeEngine",
    "NativeProcess",
    "RoundRobinEngine",
    "Session",
]
