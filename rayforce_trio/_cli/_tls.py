"""TLS contexts from options. No error here shows the contents of a file."""

import ssl
from typing import Any, NoReturn

from ._console import UsageError
from ._secrets import warn_if_readable


def add_certificate(group: Any, help_: str) -> None:
    """Add the options for a certificate and its key.

    Args:
        group: the group of arguments.
        help_: the help text for the certificate.
    """
    group.add_argument("--tls-certificate", metavar="FILE", help=f"{help_}; PEM")
    group.add_argument("--tls-key", metavar="FILE", help="the certificate's key, PEM; default: in the same file")


def server_context(certificate: str, key: str | None, client_authority: str | None) -> ssl.SSLContext:
    """Return the context for a server.

    Args:
        certificate: the file with the server's certificate and its chain.
        key: the file with the certificate's key; `None` means the same file.
        client_authority: the file with the authority of the certificates that clients must show; `None` means that
            clients need no certificate.

    Raises:
        UsageError: a file cannot be read, or lacks the certificate or the key.
    """
    context = _create_context(ssl.Purpose.CLIENT_AUTH, client_authority, "--tls-client-authority")
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    _load_certificate(context, certificate, key)
    return context


def client_context(authority: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """Return the context for a client.

    Args:
        authority: the file with the authority to trust; `None` means the authorities that the system trusts.
        certificate: the file with the client's certificate and its chain; `None` means no certificate.
        key: the file with the certificate's key; `None` means the same file.

    Raises:
        UsageError: a file cannot be read, or lacks the certificate or the key.
    """
    context = _create_context(ssl.Purpose.SERVER_AUTH, authority, "--tls-authority")
    if certificate is not None:
        _load_certificate(context, certificate, key)
    return context


def _create_context(purpose: ssl.Purpose, authority: str | None, option: str) -> ssl.SSLContext:
    if authority is not None:
        _check_readable(option, authority)
    try:
        return ssl.create_default_context(purpose, cafile=authority)
    except ssl.SSLError:
        raise UsageError(f"{option}: {authority} does not contain a PEM certificate") from None


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    _check_readable("--tls-certificate", certificate)
    if key is not None:
        _check_readable("--tls-key", key)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_pass_phrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError("--tls-certificate: the key does not belong to the certificate") from None
        raise UsageError(
            f"--tls-certificate: {certificate} does not contain a PEM certificate, or {key or certificate} does not "
            "contain a PEM key"
        ) from None
    warn_if_readable(key or certificate)


def _check_readable(option: str, path: str) -> None:
    """Open a file, because errors of the `ssl` module do not name it."""
    try:
        with open(path, "rb"):  # noqa: PTH123 - an error then names the path as the user wrote it
            pass
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be read: {error.strerror}") from None


def _refuse_pass_phrase() -> NoReturn:
    raise UsageError("--tls-certificate: the key is encrypted, and pass phrases are not supported; decrypt the key")
