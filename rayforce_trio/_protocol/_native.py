"""Constants and credentials of the native server's protocol. The exchange itself is in `_native_exchange`."""

NATIVE_MAX_REQUEST = 256 * 1024 * 1024
"""The longest payload that a native server accepts, in bytes. It closes the connection if a request is longer."""

NATIVE_MAX_REPLY = 16 * 1024**3
"""The longest reply payload that is accepted from a native server, in bytes. Unread replies may be kept in a file."""

_CREDENTIALS_LIMIT = 255  # bytes, including the zero byte: the length is sent as one byte


def dump_credentials(user: str, password: str) -> bytes:
    """Return the bytes that answer a native server's request for credentials.

    Raises:
        ValueError: the protocol cannot express them. The text says why and does not quote them.
    """
    if not all(isinstance(text, str) for text in (user, password)):
        raise ValueError("Must be str")
    try:
        data = f"{user}:{password}\0".encode()
    except UnicodeEncodeError:  # its text would quote them
        raise ValueError("Must be text that UTF-8 can encode") from None
    if ":" in user or b"\0" in data[:-1]:
        raise ValueError("Must not contain NUL, and the user name no colon")
    if len(data) > _CREDENTIALS_LIMIT:
        raise ValueError(f"Must have at most {_CREDENTIALS_LIMIT - 2} bytes together")
    return bytes([len(data)]) + data
