"""Who is let in by `serve`, by its arguments."""

import secrets
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import auth
from ..errors import RayforceValueError
from ._exits import UsageError
from ._secrets import PASSWORD_VARIABLE, TOKEN_VARIABLE, add_secrets, all_lines, secrets_of

_TOKEN_SIZE = 32  # bytes


def add_authentication(parser: ArgumentParser) -> None:
    """Add the arguments that say who is let in."""
    who = parser.add_argument_group("who is let in; one of these")
    choice = who.add_mutually_exclusive_group()
    add_secrets(choice, "those who know the")
    choice.add_argument(
        "--users-file", metavar="FILE", help="users with a password each: lines of NAME:HASH, by `hash-password`"
    )
    choice.add_argument(
        "--generate-token", action="store_true", help="those who know a new token, which is shown on standard error"
    )
    choice.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="everybody who can reach the port; they can run any code in the engine",
    )


@dataclass(frozen=True, slots=True, repr=False)
class Authentication:
    """Who is let in.

    Attributes:
        authenticate: for `WSServer`; `None`: nobody is asked.
        generated: the token that was made, to be shown; `None`: there is none.
    """

    authenticate: Callable[[auth.Request], object] | None = None
    generated: str | None = None


def authentication_of(options: Namespace) -> Authentication:
    """Return what the arguments and the environment say about who is let in.

    Raises:
        UsageError: they contradict each other, or there is nothing such in a file.
    """
    password, token = secrets_of(options)
    try:
        if options.users_file is not None:
            return Authentication(auth.users(_users(options.users_file)))
        if options.generate_token:
            generated = secrets.token_urlsafe(_TOKEN_SIZE)
            return Authentication(auth.token(generated), generated)
        if options.allow_unauthenticated:
            _refuse_contradiction(options, password, token)
            return Authentication()
        if password is not None:
            return Authentication(auth.password(password))
        if token is not None:
            return Authentication(auth.token(token))
    except RayforceValueError as error:
        raise UsageError(f"{options.users_file}: {error}" if options.users_file else error) from None
    return Authentication(None if options.tls_client_authority is None else by_certificate)


def by_certificate(request: auth.Request) -> auth.Principal | None:
    """Let in who has shown a certificate, by the name that stands in it."""
    if request.certificate is None:
        return None
    return auth.Principal(_name_in(request.certificate))


def _name_in(certificate: Any) -> str:
    """Return the common name in a certificate, as the `ssl` module tells it; else the first of its other names."""
    names = [pair for part in certificate.get("subject", ()) for pair in part if pair[0] == "commonName"]
    for _, name in [*names, *certificate.get("subjectAltName", ())]:
        if isinstance(name, str) and name:
            return name
    return "certificate"


def _refuse_contradiction(options: Namespace, password: str | None, token: str | None) -> None:
    for there, what in (
        (password is not None, f"{PASSWORD_VARIABLE} is in the environment"),
        (token is not None, f"{TOKEN_VARIABLE} is in the environment"),
        (options.tls_client_authority is not None, "--tls-client-authority asks clients for certificates"),
    ):
        if there:
            raise UsageError(f"{what}, which --allow-unauthenticated contradicts; leave out one")


def _users(path: str) -> dict[str, str]:
    """Return the hashes of the users in a file, each by its name."""
    users: dict[str, str] = {}
    for number, line in enumerate(all_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hash_ = line.partition(":")
        if not colon:
            raise UsageError(f"{path}, line {number}: no NAME:HASH")  # not shown: it may be a password
        if name in users:
            raise UsageError(f"{path}, line {number}: the user {name!r} is there already")
        users[name] = hash_
    return users
