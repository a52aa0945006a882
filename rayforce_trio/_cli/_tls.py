"""What the options make of TLS, for servers and clients. No error here shows what is in a file."""

import ssl
from typing import NoReturn

from ._exits import UsageError
from ._secrets import warn_if_readable


def server_context(certificate: str, key: str | None, client_authority: str | None) -> ssl.SSLContext:
    """Return what a server needs that shows a certificate.

    Args:
        certificate: the file with it, and those above it.
        key: the file with its key; `None`: the same.
        client_authority: the file with the authority of clients, which then have to show a certificate.

    Raises:
        UsageError: a file is not what it should be.
    """
    context = _trusting(ssl.Purpose.CLIENT_AUTH, client_authority, "--tls-client-authority")
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    _show(context, certificate, key)
    return context


def client_context(authority: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """Return what a client needs.

    Args:
        authority: the file with the authority to trust; `None`: those that the system trusts.
        certificate: the file with a certificate to show to the server, and those above it.
        key: the file with its key; `None`: the same.

    Raises:
        UsageError: a file is not what it should be.
    """
    context = _trusting(ssl.Purpose.SERVER_AUTH, authority, "--tls-authority")
    if certificate is not None:
        _show(context, certificate, key)
    return context


def _trusting(purpose: ssl.Purpose, authority: str | None, option: str) -> ssl.SSLContext:
    if authority is not None:
        _check(option, authority)
    try:
        return ssl.create_default_context(purpose, cafile=authority)
    except ssl.SSLError:
        raise UsageError(f"{option}: there is no certificate, as PEM, in {authority}") from None


def _show(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    _check("--tls-certificate", certificate)
    if key is not None:
        _check("--tls-key", key)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_to_ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError("--tls-certificate: the key is not the one that belongs to the certificate") from None
        raise UsageError(
            f"--tls-certificate: there is no certificate in {certificate}, or no key in {key or certificate}, as PEM"
        ) from None
    warn_if_readable(key or certificate)


def _check(option: str, path: str) -> None:
    """See whether a file can be read: the `ssl` module tells it without the file's name."""
    try:
        with open(path, "rb"):  # noqa: PTH123 - the error names it as it was given
            pass
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be read: {error.strerror}") from None


def _refuse_to_ask() -> NoReturn:
    raise UsageError("--tls-certificate: its key is encrypted, and nobody is asked for the pass phrase; decrypt it")
