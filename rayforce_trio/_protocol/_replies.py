"""What a request comes to: the two shapes of an answer, shared by both sides and by the engines."""

from dataclasses import dataclass

CANCELLED = "cancel"
"""The error code of a request that was stopped because its client asked for it."""


@dataclass(frozen=True, slots=True)
class Result:
    """A request's value: a response frame."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in place of a value: the engine's code, of at most seven characters, and its message."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


Reply = Result | Failure
