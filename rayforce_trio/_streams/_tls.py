"""TLS over a TCP connection, with the same promises: what the network takes at once is sent without a checkpoint.

`trio.SSLStream` cannot be used any more once a send was cancelled, which happens here to connections that live on, and
has nothing but `send_all` to send with. The TLS itself is the `ssl` module's, between two buffers in memory.
"""

import ssl
from contextlib import suppress
from typing import Any

import trio

from .._addresses import os_error_text
from ..errors import HandshakeError, RayforceValueError
from ._tcp import READ_SIZE, ByteStream

_PIECE = 64 * 1024  # bytes; so many are encrypted at once, and then offered to the network

_UNTAKEN = 64 * 1024  # bytes; so many answers of TLS's own may wait for a peer that reads nothing
_AT_ONCE = 16 * 1024  # bytes; so many are given to TLS, which may have an answer to each 27 of them

_PLAIN = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTPS_PROXY_REQUEST"})

_WORDS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of the client",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the certificate that it was shown",
    "NO_SHARED_CIPHER": "no shared cipher (has the server's context a certificate, by load_cert_chain?)",
}
"""What some of OpenSSL's reasons mean; `it` is the peer."""


def check_tls_context(context: object, *, server_side: bool) -> None:
    """Raise `RayforceValueError` if this is no `ssl.SSLContext` for a server, or a client."""
    wrong = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
    if not isinstance(context, ssl.SSLContext) or context.protocol is wrong:
        side, purpose = ("server", "CLIENT_AUTH") if server_side else ("client", "SERVER_AUTH")
        raise RayforceValueError(
            f"Invalid TLS context: {context!r}. Must be an ssl.SSLContext for a {side}, such as "
            f"ssl.create_default_context(ssl.Purpose.{purpose})"
        )


def is_plaintext_error(error: BaseException | None) -> bool:
    """Whether a TLS handshake failed because the peer does not speak TLS."""
    return isinstance(error, ssl.SSLError) and error.reason in _PLAIN


def tls_error_text(error: BaseException) -> str:
    """Return why a TLS handshake failed, for the person who reads it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {error.verify_message}"
    if is_plaintext_error(error):
        return "it does not speak TLS"
    if isinstance(error, ssl.SSLError) and error.reason:
        return _WORDS.get(error.reason) or error.reason.lower().replace("_", " ")
    return os_error_text(error)


class TlsStream(ByteStream):
    """TLS over another stream. Shake hands before anything else.

    Args:
        stream: what it goes over; it is of no more use by itself.
        context: what is trusted, and which certificate is shown.
        server_hostname: as a client, the name that the server's certificate has to be for; `None`: as the server.
    """

    def __init__(self, stream: ByteStream, context: ssl.SSLContext, *, server_hostname: str | None) -> None:
        self._stream = stream
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._arrived, self._leaving, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._unsent = memoryview(b"")  # encrypted, and not yet taken by the network
        self._failure: ssl.SSLError | None = None  # of what arrived; what came before it can be read
        self._received = memoryview(b"")  # and not yet given to TLS
        self._decrypted = b""  # and not yet asked for
        self._encrypted = 0  # bytes whose encrypted form is, in part, still here: the caller offers them again
        self._eof_sent = False

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate, as `ssl.SSLSocket.getpeercert` tells it; `None` if none was asked for, or shown."""
        return self._tls.getpeercert() or None

    def fileno(self) -> int:
        return self._stream.fileno()

    async def do_handshake(self) -> None:
        """Shake hands. A checkpoint; if cancelled, close the stream.

        Raises:
            HandshakeError: the peers do not agree; its cause is the `ssl.SSLError`, if there is one.
        """
        while True:
            try:
                self._tls.do_handshake()
                await self._send_all_encrypted()
                return
            except ssl.SSLWantReadError:
                try:
                    await self._send_all_encrypted()
                    await self._receive_encrypted()
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise HandshakeError("the connection broke during the TLS handshake") from error
            except ssl.SSLEOFError as error:
                raise HandshakeError("the peer hung up during the TLS handshake") from error
            except (ssl.SSLError, ssl.CertificateError) as error:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    self._push()  # the alert, which tells the peer
                raise HandshakeError(f"the TLS handshake failed: {tls_error_text(error)}") from error
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise HandshakeError("the connection broke during the TLS handshake") from error

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        if self.fileno() < 0 or self._eof_sent:
            raise trio.ClosedResourceError("nothing can be sent on a stream that was closed")
        taken = 0
        with memoryview(data) as view:
            while self._push():
                taken += self._encrypted
                self._encrypted = 0
                assert taken <= len(view), "what is sent has to begin with what was not taken"
                if taken == len(view):
                    break
                with view[taken : taken + _PIECE] as piece:
                    try:
                        self._encrypted = self._tls.write(piece)
                    except ssl.SSLError as error:
                        raise trio.BrokenResourceError("the connection broke") from error
        return taken

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.send_nowait(b"")  # raises if the stream was closed, even if there is nothing to send
        await super().send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the network takes more. A checkpoint."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        buffer = memoryview(bytearray(max_bytes or READ_SIZE))
        return bytes(buffer[: await self.receive_into(buffer)])

    async def receive_into(self, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            if self.fileno() < 0:
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError("this stream was closed")
            count = self._decrypt(buffer)
            if count is not None:
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()  # what was decrypted is nowhere else
                return count
            await self._receive_encrypted()
            waited = True

    def _decrypt(self, buffer: memoryview) -> int | None:
        """Fill a buffer with what has arrived: how many bytes, 0 at the end; `None`: more has to arrive."""
        filled = min(len(buffer), len(self._decrypted))
        buffer[:filled], self._decrypted = self._decrypted[:filled], self._decrypted[filled:]
        while filled < len(buffer) and self._failure is None:
            try:
                # With a buffer it returns a number, which typeshed does not know.
                count: int = self._tls.read(len(buffer) - filled, buffer[filled:])  # type: ignore[assignment]
            except ssl.SSLWantReadError:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # what has arrived can be read
                    self._push()  # an answer to the peer, of the kind that TLS gives by itself
                if self._leaving.pending > _UNTAKEN:
                    raise trio.BrokenResourceError("the peer takes no answers") from None
                return filled or None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return filled
            except ssl.SSLError as error:
                self._failure = error
                break
            if not count:
                break
            filled += count
        if self._failure is not None and not filled:
            raise trio.BrokenResourceError("the connection broke") from self._failure
        return filled

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        if not self._eof_sent:
            self._say_goodbye()
            await self._send_all_encrypted()
            await self._stream.send_eof()

    def close(self) -> None:
        if self.fileno() >= 0 and not self._eof_sent:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                self._say_goodbye()
                self._push()
        self._stream.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def _say_goodbye(self) -> None:
        self._eof_sent = True
        # What has arrived is put aside: where it looks for the peer's goodbye, data would end the whole connection.
        with suppress(ssl.SSLError):
            self._decrypted += self._tls.read(self._tls.pending())
        arrived = self._arrived.read()
        with suppress(ssl.SSLError):  # it asks for the peer's goodbye, which nobody waits for
            self._tls.unwrap()
        with suppress(ssl.SSLError):  # if its end is in there, too, nothing can follow it
            self._arrived.write(arrived)

    # What is encrypted

    def _push(self) -> bool:
        """Send what the network takes at once of what is encrypted; returns whether that was all."""
        while self._unsent or self._leaving.pending:
            if not self._unsent:
                self._unsent = memoryview(self._leaving.read())
            self._unsent = self._unsent[self._stream.send_nowait(self._unsent) :]
            if self._unsent:
                return False
        return True

    async def _send_all_encrypted(self) -> None:
        while not self._push():
            await self._stream.wait_send_all_might_not_block()

    async def _receive_encrypted(self) -> None:
        if self._received:
            await trio.lowlevel.checkpoint()
        else:
            self._received = memoryview(await self._stream.receive_some())
        if self._received:
            self._arrived.write(self._received[:_AT_ONCE])
            self._received = self._received[_AT_ONCE:]
        else:
            self._arrived.write_eof()
