"""The one exception of this room."""


class ProtocolViolation(Exception):
    """The peer sent what the protocol does not allow; the connection ends with close code 1002."""
