"""TLS over another stream, on both event loops.

`trio.SSLStream` cannot be used after a cancelled send, and it sends only with `send_all`. Here the `ssl` module works
on two buffers in memory, and the other stream carries the encrypted bytes.
"""

import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from typing import Any

from anyio import BrokenResourceError, ClosedResourceError

from .._addresses import os_error_text
from ..errors import HandshakeError, RayforceValueError
from ._base import READ_SIZE, STREAM_ERRORS, ByteStream, closed_error

_PLAINTEXT_CHUNK = 64 * 1024  # bytes; encrypted at once, and then offered to the network
_CIPHERTEXT_CHUNK = 16 * 1024  # bytes; decrypted at once: TLS may answer each record, and a record takes 27 bytes
_MAX_RECORDS = 64  # decrypted at once: a record may have a single byte, and takes microseconds whatever its size
_MAX_UNSENT_ANSWERS = 64 * 1024  # bytes; the limit on TLS's answers that a peer does not read
_NOTHING = memoryview(b"")
_NO_LIMIT = nullcontext()

_PLAINTEXT_REASONS = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTPS_PROXY_REQUEST"})

_REASON_TEXTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it requires a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the certificate of this side",
    "NO_SHARED_CIPHER": "no shared cipher (does the server's context have a certificate? See load_cert_chain)",
}
"""Explanations of some of OpenSSL's reasons; "it" is the peer."""


def check_tls_context(context: object, *, server_side: bool) -> None:
    """Raise `RayforceValueError` unless this is an `ssl.SSLContext` for a server or for a client, as required."""
    wrong = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
    if not isinstance(context, ssl.SSLContext) or context.protocol is wrong:
        side, purpose = ("server", "CLIENT_AUTH") if server_side else ("client", "SERVER_AUTH")
        raise RayforceValueError(
            f"Invalid TLS context: {context!r}. Must be an ssl.SSLContext for a {side}, such as "
            f"ssl.create_default_context(ssl.Purpose.{purpose})"
        )


def is_plaintext_error(error: BaseException | None) -> bool:
    """Return whether a TLS handshake failed because the peer does not speak TLS."""
    return isinstance(error, ssl.SSLError) and error.reason in _PLAINTEXT_REASONS


def is_certificate_error(error: BaseException | None) -> bool:
    """Return whether a TLS handshake failed because one side does not trust the certificate of the other."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    reason = error.reason or "" if isinstance(error, ssl.SSLError) else ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def tls_error_text(error: BaseException) -> str:
    """Return why a TLS handshake failed, as a text for people, in which "it" is the peer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {error.verify_message}"
    if is_plaintext_error(error):
        return "it does not speak TLS"
    if isinstance(error, ssl.SSLError) and error.reason:
        return _REASON_TEXTS.get(error.reason) or error.reason.lower().replace("_", " ")
    return os_error_text(error)


class TlsStream(ByteStream):
    """TLS over another stream. Call `do_handshake` before anything else.

    Args:
        stream: the stream for the encrypted bytes; use it only through this one from now on.
        context: the certificate to show and the authorities to trust.
        server_hostname: on the client, the name that the server's certificate must be valid for; on the server, `None`.
    """

    def __init__(self, stream: ByteStream, context: ssl.SSLContext, *, server_hostname: str | None) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._eof_sent = False
        # Sending
        self._unsent = _NOTHING  # encrypted bytes that the network has not taken
        self._encrypted = 0  # bytes of the caller that were encrypted and not all sent; the caller offers them again
        # Receiving
        self._received = _NOTHING  # encrypted bytes that were not yet given to TLS
        self._decrypted = b""  # bytes for the caller, put aside by `_send_close_notify`
        self._failure: ssl.SSLError | None = None  # raised once the bytes before it have been read
        self._needs_bytes = False  # TLS has decrypted all it can, until more bytes arrive

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate in the form of `ssl.SSLSocket.getpeercert`; `None` if the peer did not show one."""
        return self._tls.getpeercert() or None

    @property
    def closed(self) -> bool:
        return self._stream.closed

    async def do_handshake(
        self,
        limiter: AbstractAsyncContextManager[object] | None = None,
        waiting_for_peer: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Perform the TLS handshake. A checkpoint; if cancelled, close the stream. Raises what `waiting_for_peer` does.

        Args:
            limiter: entered for each step, because a step can take milliseconds of processor time.
            waiting_for_peer: returns a context for each wait for the peer.

        Raises:
            HandshakeError: the handshake failed; the cause is the `ssl.SSLError`, if there is one.
        """
        try:
            while True:
                try:
                    async with limiter or _NO_LIMIT:
                        self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    with waiting_for_peer():
                        await self._send_all_encrypted()
                        await (self._checkpoint() if self._received else self._stream.wait_readable())
                    self._take_encrypted()
                else:
                    with waiting_for_peer():
                        await self._send_all_encrypted()
                    return
        except ssl.SSLEOFError as error:
            raise HandshakeError("the peer disconnected during the TLS handshake") from error
        except (ssl.SSLError, ssl.CertificateError) as error:
            with suppress(BrokenResourceError, ClosedResourceError):
                self._send_encrypted()  # the alert that tells the peer
            raise HandshakeError(f"the TLS handshake failed: {tls_error_text(error)}") from error
        except STREAM_ERRORS as error:
            raise HandshakeError("the connection broke during the TLS handshake") from error

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        self._check_open()
        if self._eof_sent:
            raise ClosedResourceError("send_eof was called, so nothing more can be sent")
        sent = 0
        with memoryview(data) as view:
            while self._send_encrypted():
                sent += self._encrypted
                self._encrypted = 0
                assert sent <= len(view), "data must begin with the bytes that were not sent"
                if sent == len(view):
                    break
                with view[sent : sent + _PLAINTEXT_CHUNK] as chunk:
                    try:
                        self._encrypted = self._tls.write(chunk)
                    except ssl.SSLError as error:
                        raise BrokenResourceError("the connection broke") from error
        return sent

    async def wait_writable(self) -> None:
        await self._stream.wait_writable()

    async def wait_readable(self) -> None:
        if self._needs_bytes and not self.closed:
            await self._stream.wait_readable()
        else:
            await self._checkpoint()

    def wake_reader(self) -> None:
        self._stream.wake_reader()

    def peer_is_gone(self) -> bool:
        return self._stream.peer_is_gone()

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        buffer = memoryview(bytearray(max_bytes))
        count = self.receive_into_nowait(buffer)
        return None if count is None else bytes(buffer[:count])

    def receive_into_nowait(self, buffer: memoryview) -> int | None:
        self._check_open()
        count = self._decrypt(buffer)
        if count is None and self._take_encrypted():
            count = self._decrypt(buffer)
        return count

    def _decrypt(self, buffer: memoryview) -> int | None:
        """Fill the buffer with decrypted bytes and return their number.

        0 means that the peer sends no more, and `None` that more encrypted bytes must arrive first.
        """
        filled = min(len(buffer), len(self._decrypted))
        buffer[:filled], self._decrypted = self._decrypted[:filled], self._decrypted[filled:]
        for _ in range(_MAX_RECORDS):
            if filled == len(buffer) or self._failure is not None:
                break
            try:
                wanted = len(buffer) - filled
                count: int = self._tls.read(wanted, buffer[filled:])  # type: ignore[assignment]  # typeshed says bytes
            except ssl.SSLWantReadError:
                self._needs_bytes = not self._received
                with suppress(BrokenResourceError, ClosedResourceError):  # the bytes received so far can be read
                    self._send_encrypted()  # TLS answers some messages of the peer by itself
                if self._outgoing.pending > _MAX_UNSENT_ANSWERS:
                    raise BrokenResourceError("the peer does not read TLS's answers") from None
                return filled or None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return filled
            except ssl.SSLError as error:
                self._failure = error.with_traceback(None)  # whose frames refer to this stream and to the buffer
                break
            if not count:
                break
            filled += count
        if self._failure is not None and not filled:
            raise BrokenResourceError("the connection broke") from self._failure
        return filled

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._checkpoint()
        self.send_nowait(b"")  # raises an error if the stream is closed, even if there is nothing to send
        await super().send_all(data)

    async def send_eof(self) -> None:
        await self._checkpoint()
        self._check_open()
        if not self._eof_sent:
            self._send_close_notify()
        # Also if a call before this one encrypted the message, which may have been cancelled.
        await self._send_all_encrypted()
        await self._stream.send_eof()

    def close(self) -> None:
        if not self.closed and not self._eof_sent:
            with suppress(BrokenResourceError, ClosedResourceError):
                self._send_close_notify()
                self._send_encrypted()
        self._stream.close()

    def _send_close_notify(self) -> None:
        """Encrypt TLS's message that no more bytes follow."""
        self._eof_sent = True
        # `unwrap` looks for the peer's close_notify, and if it finds data instead, it ends the connection in both
        # directions. Hide the bytes that have arrived from it.
        with suppress(ssl.SSLError):
            self._decrypted += self._tls.read(self._tls.pending())
        arrived = self._incoming.read()
        with suppress(ssl.SSLError):  # the peer's close_notify is missing, as it should be
            self._tls.unwrap()
        with suppress(ssl.SSLError):  # nothing can be written after the peer's end
            self._incoming.write(arrived)
        self._needs_bytes = False

    def _check_open(self) -> None:
        if self.closed:
            raise closed_error()

    # Encrypted bytes

    def _send_encrypted(self) -> bool:
        """Send what the network takes without waiting, and return whether nothing is left to send."""
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            self._unsent = self._unsent[self._stream.send_nowait(self._unsent) :] or _NOTHING
            if self._unsent:
                return False
        return True

    async def _send_all_encrypted(self) -> None:
        """Send all encrypted bytes. A checkpoint if it waits; if cancelled, the rest of them can be sent later."""
        while not self._send_encrypted():
            await self._stream.wait_writable()

    def _take_encrypted(self) -> bool:
        """Give TLS more encrypted bytes; return whether there were any, or the stream has ended."""
        if not self._received:
            data = self._stream.receive_nowait(READ_SIZE)
            if data is None:
                return False
            self._received = memoryview(data)
        if self._received:
            self._incoming.write(self._received[:_CIPHERTEXT_CHUNK])
            self._received = self._received[_CIPHERTEXT_CHUNK:] or _NOTHING
        else:
            self._incoming.write_eof()
        self._needs_bytes = False
        return True
