"""Exchanges with a native server, in the states that tests begin with."""

from rayforce_trio._protocol import MessageType, NativeExchange, query_frame

REQUEST = query_frame("(+ 1 2)", MessageType.SYNC, 0)


def send_all(exchange: NativeExchange) -> bytes:
    """Write all bytes that are due; return them."""
    sent = b""
    while data := exchange.data_to_send():
        sent += data
        exchange.bytes_sent(len(data))
    return sent


def idle_exchange() -> NativeExchange:
    exchange = NativeExchange(b"\x02:\0")
    send_all(exchange)
    exchange.receive_data(b"\3\0")
    return exchange


def send_request(exchange: NativeExchange) -> None:
    """Begin a request and write all of it."""
    exchange.request(REQUEST)
    send_all(exchange)


def waiting_exchange() -> NativeExchange:
    """Return an exchange that waits for the reply to a request."""
    exchange = idle_exchange()
    send_request(exchange)
    return exchange
