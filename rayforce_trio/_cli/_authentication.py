"""The clients that `serve` lets in."""

import secrets
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import auth
from ..errors import RayforceValueError
from ._console import UsageError
from ._secrets import PASSWORD_VARIABLE, TOKEN_VARIABLE, add_secrets, all_lines, secrets_of

_TOKEN_SIZE = 32  # bytes


def add_authentication(parser: ArgumentParser) -> None:
    """Add the options that say which clients are let in."""
    group = parser.add_argument_group(
        "clients to let in (choose one; default: all clients on this machine)"
    ).add_mutually_exclusive_group()
    add_secrets(group, "let in clients that know the {}")
    group.add_argument(
        "--users-file",
        metavar="FILE",
        help="let in users that know their own password; FILE has lines NAME:HASH, with hashes from rayforce-trio "
        "hash-password",
    )
    group.add_argument(
        "--generate-token",
        action="store_true",
        help="let in clients that know a new token, which is written to standard error",
    )
    group.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="let in all clients that can reach the port; they can run any code in the engine",
    )


@dataclass(frozen=True, slots=True, repr=False)
class Authentication:
    """The clients that are let in.

    Attributes:
        authenticate: the argument of `WSServer`; `None` means that clients are not authenticated.
        generated_token: the token to show to the user, if one was generated.
    """

    authenticate: Callable[[auth.Request], object] | None = None
    generated_token: str | None = None


def authentication_of(options: Namespace) -> Authentication:
    """Return the clients that the options and the environment let in.

    Raises:
        UsageError: the options contradict each other, or a file is not valid.
    """
    password, token = secrets_of(options)
    try:
        if options.users_file is not None:
            return Authentication(auth.users(_read_users(options.users_file)))
        if options.generate_token:
            generated = secrets.token_urlsafe(_TOKEN_SIZE)
            return Authentication(auth.token(generated), generated)
        if options.allow_unauthenticated:
            _check_that_nothing_authenticates(options, password, token)
            return Authentication()
        if password is not None:
            return Authentication(auth.password(password))
        if token is not None:
            return Authentication(auth.token(token))
    except RayforceValueError as error:
        raise UsageError(f"{options.users_file}: {error}" if options.users_file else error) from None
    return Authentication(None if options.tls_client_authority is None else by_certificate)


def by_certificate(request: auth.Request) -> auth.Principal | None:
    """Let in a client that has shown a certificate, under the name in the certificate."""
    if request.certificate is None:
        return None
    return auth.Principal(_certificate_name(request.certificate))


def _certificate_name(certificate: Any) -> str:
    """Return the common name in a certificate of the `ssl` module, or else the first of its alternative names."""
    names = [pair for part in certificate.get("subject", ()) for pair in part if pair[0] == "commonName"]
    for _, name in [*names, *certificate.get("subjectAltName", ())]:
        if isinstance(name, str) and name:
            return name
    return "certificate"


def _check_that_nothing_authenticates(options: Namespace, password: str | None, token: str | None) -> None:
    for is_given, what in (
        (password is not None, f"{PASSWORD_VARIABLE} is set"),
        (token is not None, f"{TOKEN_VARIABLE} is set"),
        (options.tls_client_authority is not None, "--tls-client-authority asks clients for certificates"),
    ):
        if is_given:
            raise UsageError(f"{what}, which contradicts --allow-unauthenticated; leave out one of the two")


def _read_users(path: str) -> dict[str, str]:
    """Return the hashes of the users in a file, by the users' names."""
    users: dict[str, str] = {}
    for number, line in enumerate(all_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hash_ = line.partition(":")
        if not colon:
            # The line is not shown, because it may be a password.
            raise UsageError(f"{path}, line {number} is not of the form NAME:HASH")
        if name in users:
            raise UsageError(f"{path}, line {number}: the user {name!r} appears twice")
        users[name] = hash_
    return users
