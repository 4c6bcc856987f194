"""Keeps N worker processes alive: restarts what dies or hangs, and drains all on SIGTERM.

uvicorn brings a supervisor of its own. Ours differs where it matters for money: a worker ends when the supervisor is
gone (theirs serves on as an orphan), the event loop itself has to answer the ping (theirs answers from another thread,
so a stuck loop looks alive), and connections that wait for a dead worker are served by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from bursar.cli.common import say
from bursar.cli.worker import PING, PONG, READY
from bursar.edge.metrics import FOLDER_VARIABLE, forget_worker

PING_SECONDS = 5.0
SILENCE_SECONDS_MAX = 30.0
START_SECONDS_MAX = 60.0
BACKOFF_SECONDS_MAX = 10.0
# What a worker may take after its drain to write the last settlements.
CLOSE_SECONDS_MAX = 10.0


class Slot:
    """One place for a worker: a listening socket that outlives every process that serves it."""

    def __init__(self, listening: socket.socket, environ: Mapping[str, str]) -> None:
        self.is_ready = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self._listening = listening
        self._environ = environ
        self._heard = asyncio.Event()
        self._last_signal = 0

    async def live(self) -> int:
        """Start one worker and watch it to its end; give its exit status."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bursar.cli.worker", str(self._listening.fileno()), str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environ,
                pass_fds=(self._listening.fileno(), theirs.fileno()),
                # Ctrl-C is for the supervisor, which then lets the workers drain.
                start_new_session=True,
            )
        if self._last_signal:
            process.send_signal(self._last_signal)
        reader, writer = await asyncio.open_connection(sock=ours)
        watch = asyncio.gather(self._listen(reader), self._ping(writer, process))
        try:
            return await process.wait()
        finally:
            if folder := self._environ.get(FOLDER_VARIABLE):
                forget_worker(folder, process.pid)
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            writer.close()

    def end(self, number: int) -> None:
        """Take no more connections, and end the worker with this signal, even one that is just being started."""
        self._listening.close()
        self._last_signal = number
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    def reload(self) -> None:
        """Have the worker read its settings anew."""
        if self.is_ready.is_set() and self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGHUP)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while said := await reader.read(64):
                if READY in said:
                    self.is_ready.set()
                if PONG in said or READY in said:
                    self._heard.set()

    async def _ping(self, writer: asyncio.StreamWriter, process: asyncio.subprocess.Process) -> None:
        self._heard.clear()
        silence_seconds_max = START_SECONDS_MAX
        while True:
            try:
                async with asyncio.timeout(silence_seconds_max):
                    await self._heard.wait()
            except TimeoutError:
                say(f"worker {process.pid} has not answered for {silence_seconds_max:.0f} seconds; killing it")
                process.kill()
                return
            silence_seconds_max = SILENCE_SECONDS_MAX
            await asyncio.sleep(PING_SECONDS)
            self._heard.clear()
            writer.write(PING)


class Supervisor:
    """All slots, and the one decision that they share: whether to go on."""

    def __init__(self, sockets: Sequence[socket.socket], environ: Mapping[str, str], drain_seconds_max: float) -> None:
        self._slots = [Slot(listening, environ) for listening in sockets]
        self._drain_seconds_max = drain_seconds_max
        self._stopping = asyncio.Event()
        self.has_failed = False

    def stop(self) -> None:
        """Let every worker drain; a second time, kill them."""
        number = signal.SIGKILL if self._stopping.is_set() else signal.SIGTERM
        self._stopping.set()
        for slot in self._slots:
            slot.end(number)

    def reload(self) -> None:
        """Have every worker that serves read its settings anew; one that is just starting does so anyway."""
        for slot in self._slots:
            slot.reload()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Keep the workers alive until they are told to stop and have ended."""
        keepers = asyncio.gather(*(self._keep(slot) for slot in self._slots))
        announcer = asyncio.ensure_future(self._announce(on_ready))
        await self._stopping.wait()
        announcer.cancel()
        try:
            async with asyncio.timeout(self._drain_seconds_max + CLOSE_SECONDS_MAX):
                await asyncio.shield(keepers)
        except TimeoutError:
            say("workers did not end in time; killing them, what they held will be booked whole")
            self.stop()
            await keepers

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        for slot in self._slots:
            await slot.is_ready.wait()
        on_ready()

    async def _keep(self, slot: Slot) -> None:
        has_served, backoff_seconds = False, 0.0
        while not self._stopping.is_set():
            status = await slot.live()
            if self._stopping.is_set():
                return
            was_ready, has_served = slot.is_ready.is_set(), has_served or slot.is_ready.is_set()
            slot.is_ready.clear()
            if not has_served:
                # What never worked will not work by trying again; its reason is on stderr.
                self.has_failed = True
                self.stop()
                return
            backoff_seconds = 0.0 if was_ready else min(max(backoff_seconds, 0.25) * 2, BACKOFF_SECONDS_MAX)
            say(f"a worker died ({_cause(status)}); starting another")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_seconds):
                    await self._stopping.wait()


def _cause(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


async def supervise(
    sockets: Sequence[socket.socket],
    environ: Mapping[str, str],
    drain_seconds_max: float,
    on_ready: Callable[[], None],
    can_reload: Callable[[], bool] = lambda: True,
) -> bool:
    """Serve with one worker per socket until SIGTERM or SIGINT; give whether it could start.

    SIGHUP has every worker read its settings anew, where `can_reload` has found them to be right.
    """
    supervisor = Supervisor(sockets, environ, drain_seconds_max)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: supervisor.reload() if can_reload() else None)
    await supervisor.run(on_ready)
    return not supervisor.has_failed
