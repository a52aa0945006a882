"""The base class of the exceptions of `_protocol`."""


class ProtocolViolation(Exception):
    """The peer sent something that the protocol does not allow. The connection is closed with code 1002."""
