"""An event loop with virtual time and many processes in one thread; a seed gives the same schedule again.

Every callback belongs to a process, which it inherits with its context. A process runs its callbacks first in, first
out, as a real loop does; between processes the next one is drawn at random. A process can be killed (nothing of it
runs any more, not even its `finally` blocks) or paused (its callbacks and timers wait), between any two callbacks,
which is: at any await. Time jumps to the next timer when nobody can run.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

STEPS_MAX = 3_000_000
"""A schedule that needs more callbacks than this runs in a circle."""
CLOSES_MAX = 50

_HERE: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


class StuckError(Exception):
    """Nothing can run any more, or everything runs for ever, and the schedule has not ended."""


class Process:
    """What one operating system process would be: its callbacks, its tasks, its death."""

    def __init__(self, loop: SimLoop, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_paused = False
        self.ready: deque[asyncio.Handle] = deque()
        self.late: list[asyncio.Handle] = []
        """Timers that came due while the process was paused."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.steps = 0
        self.context = contextvars.copy_context()
        self.context.run(_HERE.set, self)
        self._loop = loop
        self._fuses: list[tuple[int, Callable[[], None]]] = []

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task in this process."""
        return self._loop.create_task(work, context=self.context)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in this process."""
        self._loop.call_soon(function, *args, context=self.context)

    def after_steps(self, steps: int, do: Callable[[], None]) -> None:
        """Have something done (in nobody's process) when this process has run so many more callbacks."""
        self._fuses.append((self.steps + steps, do))

    def defuse(self) -> None:
        """Forget what was planned."""
        self._fuses.clear()

    def kill(self) -> None:
        """End the process as kill -9 does."""
        self.is_dead = True
        self.defuse()
        self._loop.forget(self)

    def pause(self) -> None:
        """Stop the process as SIGSTOP does."""
        self.is_paused = True
        self._loop.forget(self, keep=True)

    def resume(self) -> None:
        """Let a paused process go on; the timers that came due meanwhile fire now."""
        self.is_paused = False
        if not self.is_dead:
            self.ready.extend(self.late)
            self.late.clear()
            self._loop.remember(self)

    def stepped(self) -> None:
        """Count a callback, and do what was planned for this moment."""
        self.steps += 1
        due = [fuse for fuse in self._fuses if fuse[0] <= self.steps]
        if due:
            self._fuses = [fuse for fuse in self._fuses if fuse[0] > self.steps]
            for _, do in due:
                if not self.is_dead:
                    self._loop.world.context.run(do)

    @property
    def has_fuses(self) -> bool:
        """Whether something is planned."""
        return bool(self._fuses)


class SimLoop(asyncio.AbstractEventLoop):
    """Runs the processes of one schedule; only what asyncio's tasks, futures, events and timeouts need is there."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process]] = []
        self._timer_count = 0
        self._runnable: list[Process] = []
        self._processes: list[Process] = []
        self._is_closed = False
        self.steps = 0
        self.errors: list[str] = []
        """What no task or callback has caught."""
        self.on_idle: Callable[[], None] = lambda: None
        """Called when nobody can run, before time jumps."""
        self.world = self.process("world")

    def process(self, name: str) -> Process:
        """Make a process."""
        process = Process(self, name)
        self._processes.append(process)
        return process

    # ---- what asyncio asks of a loop ---------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._is_closed

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        context = context if context is not None else contextvars.copy_context()
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "sim", context=context)
        context[_HERE].tasks.append(task)
        return task

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        context = context if context is not None else contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        process = context[_HERE]
        if not process.is_dead:
            if not process.ready and not process.is_paused:
                self._runnable.append(process)
            process.ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = context if context is not None else contextvars.copy_context()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, handle, context[_HERE]))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._is_closed:
            self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    # ---- running -----------------------------------------------------------------------------------------------------

    def forget(self, process: Process, *, keep: bool = False) -> None:
        """Take a process off the list of those that can run, with its callbacks or without."""
        if process in self._runnable:
            self._runnable.remove(process)
        if not keep:
            process.ready.clear()
            process.late.clear()

    def remember(self, process: Process) -> None:
        """Put a process on the list of those that can run, if it has something to run."""
        if process.ready and process not in self._runnable:
            self._runnable.append(process)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a task of the world to its end, then bury whatever has not ended; raises StuckError."""
        asyncio.events._set_running_loop(self)
        try:
            task = self.world.spawn(work)
            while not task.done():
                self._turn()
            return task.result()
        finally:
            self._bury()
            asyncio.events._set_running_loop(None)

    def _turn(self) -> None:
        if not self._runnable:
            self.on_idle()
        if not self._runnable:
            self._jump()
            return
        runnable = self._runnable
        process = runnable[self._rng.randrange(len(runnable))] if len(runnable) > 1 else runnable[0]
        handle = process.ready.popleft()
        if not process.ready:
            runnable.remove(process)
        if handle.cancelled():
            return
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise StuckError(f"more than {STEPS_MAX} callbacks")
        handle._run()
        if process.has_fuses:
            process.stepped()
        else:
            process.steps += 1

    def _jump(self) -> None:
        """Go to the next timer, and make everything ready that is due by then."""
        timers = self._timers
        has_any = False
        while timers and (not has_any or timers[0][0] <= self._now):
            when, _, handle, process = heapq.heappop(timers)
            if handle.cancelled() or process.is_dead:
                continue
            self._now = max(self._now, when)
            if process.is_paused:
                process.late.append(handle)
                continue
            has_any = True
            process.ready.append(handle)
            self.remember(process)
        if not has_any:
            raise StuckError("everybody waits for something that will never happen")

    def _bury(self) -> None:
        """Close what is left of every process, unheard: a killed process runs no `finally`, but Python insists."""
        self._is_closed = True
        for process in self._processes:
            process.is_dead = True
            self.forget(process)
        for process in self._processes:
            # Closing may make new tasks, which end up here as well.
            for task in process.tasks:
                if not task.done():
                    process.context.run(_close, task)
            process.tasks.clear()
        self._timers.clear()


def _close(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    for _ in range(CLOSES_MAX):
        with contextlib.suppress(Exception):
            coroutine.close()
            return
