"""Both halves of the protocol, back to back: whatever happens in whatever order, they stay in step."""

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.frames import whole_frame

from rayforce_trio._protocol import (
    Action,
    CancelRequested,
    ClientProtocol,
    ClientRequest,
    Failure,
    Header,
    MessageType,
    Reply,
    RequestPipeline,
    RequestState,
    Result,
    string_frame,
)


@dataclass
class Call:
    """What the application knows of one request or post of its own."""

    serial: int
    request: ClientRequest
    is_post: bool
    cancelled: bool = False
    sent: bool = False
    reply: Reply | None = None


class Conversation(RuleBasedStateMachine):
    """A client and a server, the wires between them, and what both must have come to.

    Every frame carries a serial number, so each side can tell which call it belongs to without the protocol's help.
    """

    extended: bool

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientProtocol(extended=self.extended)
        self.server = RequestPipeline(extended=self.extended)
        self.to_server: deque[bytes | str] = deque()
        self.to_client: deque[bytes | str] = deque()
        self.calls: list[Call] = []
        self.running: Call | None = None
        self.evaluated: set[int] = set()
        self.cancelled_unstarted: set[int] = set()
        self.replies: dict[int, Reply] = {}

    # The client's application.

    @rule(is_post=st.booleans())
    def ask(self, is_post: bool) -> None:
        frame = self.next_frame(MessageType.ASYNC if is_post else MessageType.SYNC)
        request = self.client.post(frame) if is_post else self.client.submit(frame)
        self.calls.append(Call(len(self.calls), request, is_post))

    @rule()
    def ask_alone(self) -> None:
        frame = self.next_frame(MessageType.SYNC)
        request = self.client.submit_alone(frame)
        if request is not None:
            self.calls.append(Call(len(self.calls), request, False, sent=True))
            self.to_server.append(frame)

    def next_frame(self, message_type: MessageType) -> bytes:
        """Return the frame of the next call, with its serial number."""
        payload = b"\xfb\0" + len(self.calls).to_bytes(8, "little")
        return Header(0, message_type, len(payload)).pack() + payload

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.calls), "call")
        self.client.cancel(call.request)
        call.cancelled = True

    # The wires: every message arrives, in order, at any later time.

    @rule()
    def transmit(self) -> None:
        outgoing = self.client.next_outgoing()
        if outgoing is None:
            return
        if outgoing.request is not None:
            call = next(call for call in self.calls if call.request is outgoing.request)
            assert not call.cancelled
            assert not call.sent
            call.sent = True
        else:
            assert self.extended
            assert isinstance(outgoing.message, str)
        self.to_server.append(outgoing.message)

    @precondition(lambda self: self.to_server)
    @rule()
    def deliver_to_server(self) -> None:
        arrived = self.server.receive(self.to_server.popleft())
        if isinstance(arrived, CancelRequested):
            assert arrived.request.number is not None
            call = self.numbered(arrived.request.number)
            assert call.cancelled
            assert arrived.running == (call is self.running)
            if not arrived.running:
                self.cancelled_unstarted.add(call.serial)
        elif arrived is not None:
            call = self.calls[int.from_bytes(arrived.frame[-8:], "little")]
            assert arrived.number == call.request.number

    @precondition(lambda self: self.to_client)
    @rule()
    def deliver_to_client(self) -> None:
        received = self.client.receive(self.to_client.popleft())
        if received is not None:
            call = next(call for call in self.calls if call.request is received)
            assert not call.cancelled
            assert not call.is_post
            assert call.reply is None
            call.reply = received.reply

    # The server's application: one evaluation at a time, in order.

    @precondition(lambda self: self.server.due is Action.START)
    @rule()
    def start(self) -> None:
        assert self.server.current is not None
        call = self.calls[int.from_bytes(self.server.current.frame[-8:], "little")]
        assert call.serial not in self.evaluated
        self.evaluated.add(call.serial)
        self.running = call
        self.server.performing()

    @precondition(lambda self: self.running is not None)
    @rule(fails=st.booleans())
    def finish(self, fails: bool) -> None:
        call, self.running = self.running, None
        assert call is not None
        if call.request.number is None:
            self.server.post_done()
        else:
            self.server.replied(Failure("type", str(call.serial)) if fails else Result(string_frame(str(call.serial))))

    @precondition(lambda self: self.server.due is Action.SEND)
    @rule()
    def send(self) -> None:
        request, message = self.server.current, self.server.message
        assert request is not None
        assert message is not None
        assert request.state is RequestState.STREAMING
        assert request.number is not None
        self.to_client.append(message if isinstance(message, str) else whole_frame(message))
        reply: Reply | None = request.failure
        if reply is None or not self.extended:
            assert not isinstance(message, str)
            reply = Result(message)
        self.replies[self.numbered(request.number).serial] = reply
        self.server.sent()

    def numbered(self, number: int) -> Call:
        (call,) = (call for call in self.calls if call.request.number == number)
        return call

    # What must be true at any time, and in the end.

    @invariant()
    def every_reply_reached_its_own_request(self) -> None:
        for call in self.calls:
            assert call.reply is None or call.reply == self.replies[call.serial]

    @invariant()
    def a_cancelled_request_that_did_not_start_is_never_evaluated(self) -> None:
        assert not self.cancelled_unstarted & self.evaluated

    @invariant()
    def what_is_not_sent_is_not_numbered(self) -> None:
        numbers = [call.request.number for call in self.calls if call.request.number is not None]
        assert numbers == list(range(1, len(numbers) + 1))
        assert all(call.sent or call.request.number is None for call in self.calls)

    def teardown(self) -> None:
        for _ in range(2 * len(self.calls)):  # each at most one frame and one cancel
            self.transmit()
        while self.to_server:
            self.deliver_to_server()
        while self.running or self.server.due is not Action.NOTHING:
            if self.running:
                self.finish(fails=False)
            elif self.server.due is Action.START:
                self.start()
            else:
                self.send()
        while self.to_client:
            self.deliver_to_client()
        assert self.client.pending == 0
        for call in self.calls:
            assert call.sent or call.cancelled
            if call.is_post or (call.cancelled and call.reply is None):
                continue
            assert call.reply == self.replies[call.serial]
        for serial in self.cancelled_unstarted:
            reply = self.replies[serial]
            assert isinstance(reply, Failure)
            assert reply.code == "cancel"


@pytest.mark.parametrize("extended", [True, False], ids=["extended", "baseline"])
def test_both_sides_stay_in_step(extended: bool) -> None:
    machine = type("Conversation", (Conversation,), {"extended": extended})
    run_state_machine_as_test(machine, settings=settings())
