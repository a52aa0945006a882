"""Certificates for servers and clients of this machine, made for each run."""

import ssl
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import trustme

AUTHORITY, SERVER, CLIENT = "authority.pem", "server.pem", "client.pem"

_kept: list[TemporaryDirectory[str]] = []  # until the run ends


@cache
def certificates(*names: str) -> Path:
    """Return a directory with an authority's certificate, a server's for `names`, and a client's, with their keys."""
    temporary = TemporaryDirectory()
    _kept.append(temporary)
    directory = Path(temporary.name)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / AUTHORITY)
    for name, identities in (SERVER, names), (CLIENT, ("client@example.org",)):
        (directory / name).touch(mode=0o600)
        authority.issue_cert(*identities).private_key_and_cert_chain_pem.write_to_path(directory / name)
    return directory


def local_certificates() -> Path:
    """Return the directory with the certificates of this machine."""
    return certificates("localhost", "127.0.0.1", "::1")


def server_context(directory: str | Path) -> ssl.SSLContext:
    """Return a server's context, which requests client certificates and also accepts clients without one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=Path(directory, AUTHORITY))
    context.load_cert_chain(Path(directory, SERVER))
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(directory: str | Path, *, shows_itself: bool = False) -> ssl.SSLContext:
    """Return the context of a client that trusts only this authority and may show a certificate of its own."""
    context = ssl.create_default_context(cafile=Path(directory, AUTHORITY))
    if shows_itself:
        context.load_cert_chain(Path(directory, CLIENT))
    return context
