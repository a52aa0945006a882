"""Certificates for servers and clients of this machine, made anew for every run."""

import ssl

import trustme


class Certificates:
    """An authority, a server's certificate for this machine, and a client's.

    Args:
        names: what the server's certificate is for.
    """

    def __init__(self, *names: str) -> None:
        self._authority = trustme.CA()
        self._server = self._authority.issue_cert(*names)
        self._client = self._authority.issue_cert("client@example.org", common_name="client")

    def server_context(self, *, asks_clients: bool = False) -> ssl.SSLContext:
        """Return what a server needs; it may ask its clients for a certificate of the same authority."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._server.configure_cert(context)
        if asks_clients:
            self._authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self, *, shows_itself: bool = False) -> ssl.SSLContext:
        """Return what a client needs that trusts this authority alone; it may show a certificate of its own."""
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        if shows_itself:
            self._client.configure_cert(context)
        return context


LOCALHOST = Certificates("localhost", "127.0.0.1", "::1")
