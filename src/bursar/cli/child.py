"""The command that `bursar run` wraps: started with the terminal, told of signals, ended with us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NOT_EXECUTABLE = 126
NOT_FOUND = 127
KILL_AFTER_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
# The terminal sends these to the whole foreground group, so the child has them already.
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


class CannotStartError(Exception):
    """The command cannot be started; `status` is what a shell would exit with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def ensure_startable(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raise CannotStartError for a command that is not there, before anything is opened for it."""
    program, path = argv[0], environ.get("PATH", os.defpath)
    if shutil.which(program, path=path):
        return
    if shutil.which(program, mode=os.F_OK, path=path):
        raise CannotStartError(f"{program}: is there, but cannot be executed", NOT_EXECUTABLE)
    raise CannotStartError(f"{program}: command not found", NOT_FOUND)


class Child:
    """One running command."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        try:
            # It stays in our process group, and so keeps the terminal.
            self._process = subprocess.Popen(argv, env=environ, preexec_fn=_die_with_parent())  # noqa: S603,PLW1509
        except FileNotFoundError as error:
            raise CannotStartError(f"{argv[0]}: {error.strerror}", NOT_FOUND) from None
        except (OSError, subprocess.SubprocessError) as error:
            raise CannotStartError(f"{argv[0]}: {error}", NOT_EXECUTABLE) from None
        self._ended = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._ended.is_set()

    async def wait(self) -> int:
        """Give the exit status as a shell does: 128 + n when signal n ended it."""
        status = await asyncio.to_thread(self._reap)
        self._ended.set()
        return 128 - status if status < 0 else status

    def _reap(self) -> int:
        pid = self._process.pid
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                # Popen must know, or a late signal could reach a stranger who got the same pid.
                self._process.returncode = os.waitstatus_to_exitcode(status)
                return self._process.returncode
            if _has_terminal() and _is_stopped(pid):
                # It suspended itself; the shell waits for us, so it gets its prompt only when we stop, too.
                os.kill(os.getpid(), signal.SIGSTOP)

    async def stop(self) -> None:
        """Ask it to end, and make it when it does not."""
        self._send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_AFTER_SECONDS):
                await self._ended.wait()
        self._send(signal.SIGKILL)

    def pass_signals_on(self) -> None:
        """From now on our signals are the child's."""
        loop = asyncio.get_running_loop()
        for number in _PASSED_ON:
            loop.add_signal_handler(number, self._send, number)
        for number in _FROM_TERMINAL:
            loop.add_signal_handler(number, self._pass_on_unless_terminal, number)

    def _pass_on_unless_terminal(self, number: int) -> None:
        if not _has_terminal():
            self._send(number)

    def _send(self, number: int) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _has_terminal() -> bool:
    """Whether our process group is in the foreground of a terminal, which then signals all of it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _is_stopped(pid: int) -> bool:
    """Whether the process is stopped now; where that cannot be seen, it counts as running."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def _die_with_parent() -> Callable[[], None] | None:
    """Give what makes the kernel kill the child when we die: then nobody would settle its calls."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(NOT_EXECUTABLE)

    return ask
