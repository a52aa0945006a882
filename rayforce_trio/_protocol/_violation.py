"""The base class of the exceptions of this package."""


class ProtocolViolation(Exception):
    """The peer sent what the protocol does not allow; the connection ends with close code 1002."""
