"""Tasks: the event loop they run in, time slices, tasks that end together, and single exceptions instead of groups."""

import asyncio
import contextvars
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import sniffio
import trio

from .errors import RayforceWSError

TIME_SLICE = 100e-6
"""How long a task may run before it yields to other tasks, in seconds.

Measured: a shorter slice spends too much time on switching tasks; a longer one delays other tasks noticeably.
"""

FLUSH_INTERVAL = 1e-3
"""How long a busy task may buffer messages, in seconds, so that they are sent together.

A single step of the task may take longer: an evaluation in this process, for example.

Measured: sending takes as long as answering a small request, and longer if it wakes the peer up.
"""

EventLoop = trio.lowlevel.TrioToken | asyncio.AbstractEventLoop
"""A run of trio, or an event loop of asyncio."""

Event = trio.Event | asyncio.Event
"""An event of the running loop's own class. anyio's events are slower.

On asyncio, waiting for an event that is set is not a checkpoint.
"""

P = ParamSpec("P")
T = TypeVar("T")

_detached_tasks: set[asyncio.Task[None]] = set()  # asyncio keeps only weak references to tasks


def in_trio() -> bool:
    """Return whether trio runs the calling code.

    In guest mode `trio.lowlevel.in_trio_run` is also true for the code of the host loop; this function is not.
    """
    return sniffio.thread_local.name == "trio"


async def load_anyio() -> None:
    """Have anyio import its code for the running event loop. A checkpoint; cancelling it changes nothing.

    Otherwise anyio would do so on first use, and delay the connections of a server by tens of milliseconds.
    """
    await anyio.lowlevel.checkpoint()


def running_loop() -> EventLoop | None:
    """Return the event loop that runs the calling code, or `None` outside of event loops."""
    if sniffio.thread_local.name == "trio":  # `in_trio` without a function call: every request needs this
        return trio.lowlevel.current_trio_token()
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def event_class() -> type[trio.Event] | type[asyncio.Event]:
    """Return the class of the running loop's own events."""
    return trio.Event if in_trio() else asyncio.Event


def checkpoint_if_cancelled_function() -> Callable[[], Awaitable[None]]:
    """Return anyio's `checkpoint_if_cancelled` of the running loop. Calling it does not look for the loop again."""
    if in_trio():
        return trio.lowlevel.checkpoint_if_cancelled
    return anyio.lowlevel.current_token().backend_class.checkpoint_if_cancelled


enable_ki_protection = trio.lowlevel.enable_ki_protection
"""Decorates a function in which Ctrl-C raises no KeyboardInterrupt; trio raises it at a checkpoint of its main task.

Decorate every function that a task begins with, since a task does not inherit this, and every public function that
opens or closes something. Otherwise the exception could lose a resource between two instructions. Changes nothing on
asyncio, where Ctrl-C cancels the main task.
"""


@trio.lowlevel.disable_ki_protection
def call_unprotected(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of the application, or a long one that holds no resources. Ctrl-C can interrupt it anywhere."""
    return function(*args, **kwargs)


@trio.lowlevel.disable_ki_protection
async def call_async_unprotected(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> object:
    """Call a function of the application, which may be async, and return its result. Ctrl-C can interrupt it anywhere.

    A checkpoint if the function is one. If cancelled, the function was cancelled.
    """
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def call_soon(loop: EventLoop, function: Callable[[], object]) -> bool:
    """Call a function in an event loop, from any thread. Return `False` if the loop has ended. No checkpoint."""
    try:
        if isinstance(loop, trio.lowlevel.TrioToken):
            loop.run_sync_soon(function)
        else:
            loop.call_soon_threadsafe(function)
    except RuntimeError:  # trio.RunFinishedError, or asyncio's loop is closed
        return False
    return True


class TimeSlice:
    """Limits how long a task runs, and buffers messages, before it lets other tasks run.

    Args:
        flush: sends the messages that the task has buffered.
    """

    def __init__(self, flush: Callable[[], None] = lambda: None) -> None:
        self._flush = flush
        self._end = 0.0
        self._flush_at = 0.0

    def start(self) -> None:
        """Start a time slice. Call this when the task has just waited, and has buffered nothing."""
        now = time.perf_counter()
        self._end = now + TIME_SLICE
        self._flush_at = now + FLUSH_INTERVAL

    @property
    def is_used_up(self) -> bool:
        """Whether the task should call `yield_if_due`. Saves the call if it would do nothing."""
        return time.perf_counter() >= self._end

    async def yield_if_due(self) -> None:
        """Yield to other tasks if the time slice is used up. A checkpoint only in that case.

        Call this between two steps of the task, neither of which may be lost if the checkpoint is cancelled. Raises
        what `flush` raises.
        """
        now = time.perf_counter()
        if now < self._end:
            return
        if now >= self._flush_at:
            self._flush()
            self._flush_at = now + FLUSH_INTERVAL
        await anyio.lowlevel.checkpoint()
        self._end = time.perf_counter() + TIME_SLICE


async def run_in_time_slices(steps: Generator[None, None, T]) -> T:
    """Take the steps of a long computation, and return its result. Raises what the steps raise.

    A checkpoint whenever the time slice is used up. If cancelled, the remaining steps are not taken.
    """
    time_slice = TimeSlice()
    time_slice.start()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if time_slice.is_used_up:
            await time_slice.yield_if_due()


class DetachedTask:
    """A task that no nursery holds. It runs until it returns, is cancelled, or the event loop ends.

    A nursery can only be left in the task that entered it, and in the reverse order of entering. A detached task can be
    joined anywhere in its event loop, which it must be started in. Starting it is not a checkpoint.

    Args:
        function: must raise nothing but cancellation.
        abort: ends the function at once. Called when the task has ended, in case that it never began, and if `join` is
            cancelled twice; idempotent.
    """

    def __init__(self, function: Callable[[], Awaitable[None]], abort: Callable[[], None]) -> None:
        self._function = function
        self._abort = abort
        self._scope = anyio.CancelScope()
        self._ended = event_class()()
        if in_trio():
            # A system task always begins. It gets the context that a task of a nursery would get.
            trio.lowlevel.spawn_system_task(self._run_on_trio, context=contextvars.copy_context())
        else:
            task = asyncio.get_running_loop().create_task(self._run())
            _detached_tasks.add(task)
            task.add_done_callback(self._done_on_asyncio)

    def cancel(self) -> None:
        """Cancel the task. No checkpoint."""
        self._scope.cancel()

    @enable_ki_protection  # or Ctrl-C would leave the task behind
    async def join(self, stop: Callable[[], None]) -> None:
        """Stop the task, and wait until it has ended. A checkpoint.

        If this is cancelled, or interrupted by Ctrl-C, cancel the task, wait for its end nevertheless, and then raise
        the exception. The function limits how long that takes.

        Args:
            stop: asks the function to return. It is not called if the caller is cancelled already.
        """
        interrupted = (anyio.get_cancelled_exc_class(), KeyboardInterrupt)
        try:
            await anyio.lowlevel.checkpoint()
            stop()
            await self._ended.wait()
        except interrupted:
            self.cancel()
            with anyio.CancelScope(shield=True):
                while not self._ended.is_set():
                    try:
                        await self._ended.wait()
                    except interrupted:  # a task of asyncio can be cancelled several times, and is not shielded
                        self._abort()
            raise

    async def _run(self) -> None:
        """Run the function. If cancelled, the function has ended; asyncio may cancel this before it begins."""
        with self._scope:
            await self._function()

    async def _run_on_trio(self) -> None:
        """Run the function, and report its end even if cancelled."""
        try:
            await self._run()
        finally:
            self._end()

    def _done_on_asyncio(self, task: asyncio.Task[None]) -> None:
        _detached_tasks.discard(task)
        self._end()

    def _end(self) -> None:
        self._abort()
        self._ended.set()


async def race(*functions: Callable[[], Awaitable[None]]) -> None:
    """Run functions concurrently until one of them returns or raises, then cancel the others and wait for their ends.

    A checkpoint. If cancelled, all functions are cancelled, and have ended when the cancellation is raised.

    Args:
        functions: on trio, the first one runs in the caller's task, and every other one in a task of its own.
            To resume a task, trio goes through all the calls that it is in, so a function that is resumed often should
            not be the first.

    Raises:
        Exception: a single exception, never a group: the first one that is not a `RayforceWSError`, since it is a bug
            that network errors must not hide; otherwise the first one.
    """
    if len(functions) == 1:
        await functions[0]()
        return
    errors: list[Exception] = []
    try:
        with collapse_groups():
            if in_trio():
                await _race_on_trio(functions, errors)
            else:
                await _race_on_asyncio(functions, errors)
        if errors:
            raise next((error for error in errors if not isinstance(error, RayforceWSError)), errors[0])
    finally:
        errors.clear()  # the traceback of an error refers to the frames that refer to this list


async def _race_on_trio(functions: Sequence[Callable[[], Awaitable[None]]], errors: list[Exception]) -> None:
    """Do what `race` does, and collect the exceptions. A checkpoint; if cancelled, as `race`.

    The first function runs in the caller's task: one more task, and anyio's task group, would double the time.
    """

    @enable_ki_protection
    async def run(function: Callable[[], Awaitable[None]]) -> None:
        """Run one function, then cancel the others. If cancelled, the others are cancelled already."""
        try:
            await function()
        except Exception as error:  # noqa: BLE001 - raised by `race`, outside the group
            errors.append(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for function in functions[1:]:
            nursery.start_soon(run, function)
        await run(functions[0])


async def _race_on_asyncio(functions: Sequence[Callable[[], Awaitable[None]]], errors: list[Exception]) -> None:
    """Do what `race` does, and collect the exceptions. A checkpoint; if cancelled, as `race`."""
    coroutines: list[Coroutine[object, object, None]] = []

    async def run(function: Callable[[], Awaitable[None]]) -> None:
        """Run one function, then cancel the others. If cancelled, the others are cancelled already."""
        try:
            await function()
        except Exception as error:  # noqa: BLE001 - raised by `race`, outside the group
            errors.append(error)
        task_group.cancel_scope.cancel()

    def start(function: Callable[[], Awaitable[None]]) -> Coroutine[object, object, None]:
        coroutines.append(run(function))
        return coroutines[-1]

    try:
        async with anyio.create_task_group() as task_group:
            for function in functions:
                task_group.start_soon(start, function)
    finally:
        for coroutine in coroutines:
            coroutine.close()  # asyncio never starts one whose task is cancelled at once, and would warn about it


@contextmanager
def collapse_groups(*minor: type[Exception]) -> Iterator[None]:
    """Raise a single exception instead of the group that a nursery raises. Put this around the nursery.

    Of several exceptions, the first one is raised. A cancellation is raised rather than network errors and errors of
    the classes `minor`. A cancellation together with any other exception remains a group, so that neither is lost.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = _collapsed(group, minor)
        try:
            if error is group:
                raise
            _raise_without_context(error)
        finally:
            del error  # its traceback refers to this frame


def _collapsed(group: BaseExceptionGroup[BaseException], minor: tuple[type[Exception], ...]) -> BaseException:
    """Return the exception to raise instead of a group, which may be the group itself."""
    cancelled, failed = group.split(anyio.get_cancelled_exc_class())
    if failed is None:
        return group
    if cancelled is None:
        return _first(failed)
    return cancelled if _all_of(failed, (RayforceWSError, *minor)) else group


def _raise_without_context(error: BaseException) -> NoReturn:
    """Raise an exception, and leave its context as it is.

    Its context would be the group that contains it: a cycle, which keeps alive what the tracebacks refer to.
    """
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context


def _all_of(group: BaseExceptionGroup[BaseException], classes: tuple[type[Exception], ...]) -> bool:
    return all(
        _all_of(error, classes) if isinstance(error, BaseExceptionGroup) else isinstance(error, classes)
        for error in group.exceptions
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
