import copy
import pickle

import pytest
import rayforce.errors as theirs

from rayforce_trio import errors
from rayforce_trio._codec import decode
from rayforce_trio._protocol import Failure
from rayforce_trio.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    ConnectionRejected,
    EngineError,
    HandshakeError,
    ListenError,
    MessageTooLarge,
    NoColumns,
    ProtocolError,
    QueryTimeout,
    RayforceError,
    RayforceUserError,
    RayforceWSError,
    ResultTooLarge,
    ServerBusy,
    ServerClosing,
    SlowSubscriber,
    SubscriptionGap,
    UnsupportedByServer,
    UnsupportedQuery,
)


@pytest.mark.parametrize(
    ("cls", "bases"),
    [
        (RayforceWSError, (RayforceError,)),
        (ConnectError, (RayforceWSError,)),
        (HandshakeError, (ConnectError,)),
        (ConnectionRejected, (ConnectError,)),
        (ListenError, (RayforceWSError,)),
        (EngineError, (RayforceWSError,)),
        (ConnectionClosed, (RayforceWSError,)),
        (ConnectionLost, (RayforceWSError,)),
        (MessageTooLarge, (RayforceWSError,)),
        (ProtocolError, (RayforceWSError,)),
        (QueryTimeout, (RayforceWSError,)),
        (ResultTooLarge, (RayforceWSError,)),
        (ServerBusy, (RayforceWSError,)),
        (ServerClosing, (RayforceWSError,)),
        (SlowSubscriber, (RayforceWSError,)),
        (SubscriptionGap, (RayforceWSError,)),
        (UnsupportedQuery, (RayforceWSError, TypeError)),
    ],
)
def test_the_hierarchy(cls: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    assert cls.__bases__ == bases


def test_every_exception_of_rayforce_py_is_here_as_it_is_there() -> None:
    for name, value in vars(theirs).items():
        if isinstance(value, type) and issubclass(value, RayforceError):
            assert getattr(errors, name) is value
            assert name in errors.__all__


EXAMPLES = [
    (ConnectError("nobody answers"), "nobody answers"),
    (HandshakeError("no handshake"), "no handshake"),
    (ConnectionRejected(403), "the server refused the connection with HTTP status 403"),
    (ConnectionRejected(403, " \n"), "the server refused the connection with HTTP status 403"),
    (ConnectionRejected(401, "who?\n"), "the server refused the connection with HTTP status 401: who?"),
    (ListenError("port in use"), "port in use"),
    (EngineError("the engine is gone"), "the engine is gone"),
    (ConnectionClosed(1000), "the peer closed the connection with code 1000"),
    (ConnectionClosed(1001, "bye"), "the peer closed the connection with code 1001: bye"),
    (ConnectionClosed(1000, by_peer=False), "the connection is closed"),
    (ConnectionClosed(1001, "bye", by_peer=False), "the connection is closed"),
    (ConnectionLost("the peer fell silent"), "the peer fell silent"),
    (MessageTooLarge("too large"), "too large"),
    (NoColumns("the result is null", None), "the result is null"),
    (ProtocolError("text that is no JSON"), "text that is no JSON"),
    (ProtocolError("no UTF-8", 1007), "no UTF-8"),
    (QueryTimeout("timeout: too long"), "timeout: too long"),
    (ResultTooLarge("toobig: too long"), "toobig: too long"),
    (ServerBusy("busy: too many"), "busy: too many"),
    (ServerClosing("closing: too late"), "closing: too late"),
    (SlowSubscriber("topic 'a': too slow"), "topic 'a': too slow"),
    (SubscriptionGap("topic 'a': a new epoch"), "topic 'a': a new epoch"),
    (UnsupportedByServer("no streams"), "no streams"),
    (UnsupportedQuery("cannot send int"), "cannot send int"),
    (RayforceWSError("anything else"), "anything else"),
]


def test_every_exception_of_ours_has_an_example() -> None:
    ours = {cls for cls in vars(errors).values() if isinstance(cls, type) and cls.__module__ == errors.__name__}
    assert ours <= {type(error) for error, _ in EXAMPLES}


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_the_text_of_an_exception(error: Exception, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES], ids=lambda error: type(error).__name__)
def test_an_exception_can_be_copied_and_pickled(error: Exception) -> None:
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert twin is not error
        assert type(twin) is type(error)
        assert (twin.args, vars(twin), str(twin)) == (error.args, vars(error), str(error))


def test_the_attributes_of_an_exception() -> None:
    rejected = ConnectionRejected(401, "who?")
    assert (rejected.status, rejected.body) == (401, "who?")
    closed = ConnectionClosed(1001, "bye", by_peer=False)
    assert (closed.code, closed.reason, closed.by_peer) == (1001, "bye", False)
    assert ConnectionClosed(1000).by_peer
    assert [ConnectionClosed(code).going_away for code in (1000, 1001, 1011)] == [False, True, False]
    assert not closed.going_away
    assert ProtocolError("text").code == 1002
    assert ProtocolError("text", 1007).code == 1007


def raised_for(failure: Failure) -> RayforceError:
    with pytest.raises(RayforceError) as raised:
        decode(failure)
    return raised.value


@pytest.mark.parametrize(("code", "cls"), theirs.CORE_EXC_CODE_MAPPING.items())
def test_an_engine_error_is_of_rayforce_pys_class_for_its_code(code: str, cls: type[RayforceError]) -> None:
    error = raised_for(Failure(code, "why"))
    assert type(error) is cls
    assert str(error) == f"{code}: why"


def test_an_error_of_the_servers_own_has_a_class_of_its_own() -> None:
    for code, cls in (
        ("timeout", QueryTimeout),
        ("busy", ServerBusy),
        ("toobig", ResultTooLarge),
        ("closing", ServerClosing),
    ):
        error = raised_for(Failure(code, "why"))
        assert type(error) is cls
        assert str(error) == f"{code}: why"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("cancel", "cancel: the query was stopped"),
        ("access", "access: read-only clients may not do this"),
        ("name", "name: undefined name"),
        ("", ""),
        ("unheard", "unheard"),
        ("Type", "Type"),
    ],
)
def test_an_engine_error_of_another_code_is_a_user_error(code: str, text: str) -> None:
    error = raised_for(Failure(code, ""))
    assert type(error) is RayforceUserError
    assert str(error) == text
