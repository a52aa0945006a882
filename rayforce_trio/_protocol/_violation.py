"""The exceptions of `_protocol`."""


class ProtocolViolation(Exception):
    """The peer sent something that the protocol does not allow. The connection is closed with code 1002."""


class CredentialsRejected(ProtocolViolation):
    """A native server rejected the user name or the password."""
