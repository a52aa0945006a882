"""The exceptions of `_protocol`."""


class ProtocolViolation(Exception):
    """The peer did something that the protocol does not allow.

    Attributes:
        code: the code with which the connection is closed.
    """

    def __init__(self, message: str, code: int = 1002) -> None:
        super().__init__(message)
        self.code = code


class CredentialsRejected(ProtocolViolation):
    """A native server rejected the user name or the password."""
