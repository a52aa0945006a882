"""The base of this room's exceptions."""


class ProtocolViolation(Exception):
    """The peer sent what the protocol does not allow; the connection ends with close code 1002."""
