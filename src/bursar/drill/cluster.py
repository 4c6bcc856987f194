"""PostgreSQL servers for the drill and the tests: in a folder of their own, ended and removed whatever happens.

    with Cluster(durable=True) as primary:
        standby = primary.standby()             # synchronous, remote_apply; `close` of the primary closes it too
        url = primary.url(primary.new_database())
        primary.kill9()
        standby.promote()

Everything here blocks and takes up to some seconds; inside a coroutine it goes through `asyncio.to_thread`.
Nothing is shared with a server of the machine: socket, port, data and log are in the folder.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

OWNER = "bursar"
"""The superuser of a cluster; from this machine it needs no password, all others do."""
APT_PACKAGE = "postgresql"
SECONDS_MAX = 60.0
"""No step of a server takes so long unless something hangs."""

FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on"}
COMMON = {
    "autovacuum_naptime": "10s",
    "checkpoint_timeout": "5min",
    "log_line_prefix": "%m %p %q%u@%d ",
    "log_statement": "none",
    "max_connections": "60",
    "max_wal_senders": "4",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "shared_buffers": "32MB",
    "unix_socket_permissions": "0777",
    "wal_level": "replica",
}
ACCESS = f"""
local all         {OWNER}               trust
host  all         {OWNER} 127.0.0.1/32  trust
host  replication {OWNER} 127.0.0.1/32  trust
local all         all                   scram-sha-256
host  all         all     127.0.0.1/32  scram-sha-256
"""
# Reads until this process is gone, however it went, and then leaves nothing of the server.
WATCHDOG = """
cat >/dev/null
for file in "$0"/*/postmaster.pid; do [ -f "$file" ] && kill -QUIT "$(head -n 1 "$file")"; done
sleep 1
rm -rf "$0"
"""


class MissingError(Exception):
    """PostgreSQL is not installed on this machine."""


@cache
def binaries() -> Path:
    """Give the folder of the server's programs, the newest version first; raises MissingError."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: -int(path.parts[-3]))
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        said = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True).stdout
        found.append(Path(said.strip()) / "initdb")
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve())
    for path in found:
        if path.exists() and (path.parent / "pg_ctl").exists():
            return path.parent
    raise MissingError(f"no PostgreSQL server on this machine: apt-get install {APT_PACKAGE}")


class ClusterError(RuntimeError):
    """A step of a server failed; the message has what it said."""


class Cluster:
    """One server: started by `with` or `start`, removed by `close`."""

    def __init__(self, *, durable: bool = False, settings: dict[str, str] | None = None) -> None:
        """Describe a server; one that is not durable is fast, and loses what a power cut would catch."""
        self.folder = Path(tempfile.mkdtemp(prefix="bursar-postgres-"))
        self._reserved = _reserved_port()
        self.port = int(self._reserved.getsockname()[1])
        self._settings = COMMON | ({} if durable else FAST) | (settings or {})
        self._data = self.folder / "data"
        self._standbys: list[Cluster] = []
        self._count = 0
        self._user = _unprivileged()
        if self._user:
            shutil.chown(self.folder, self._user, self._user)
        self.folder.chmod(0o755)
        self._watchdog = subprocess.Popen(
            ["sh", "-c", WATCHDOG, str(self.folder)], stdin=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it takes connections; what it lacks is made before."""
        if not self._data.exists():
            self._make()
        self._tell("pg_ctl", "start", "-w", "-t", str(int(SECONDS_MAX)), "-l", str(self.folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart` waits for clients, `fast` rolls them back, `immediate` is a crash that ends at once."""
        self._tell("pg_ctl", "stop", "-w", "-m", mode)

    def restart(self, mode: str = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """Kill the server and all its processes in the way a power cut does; `start` recovers it."""
        server = self.pid
        processes = [server, *_children(server)]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        _wait_until(lambda: not any(map(_runs, processes)), "a server survived kill -9")
        # Where the first process of a container reaps nobody, the dead server would pass for a running one.
        (self._data / "postmaster.pid").unlink()
        (self.folder / f".s.PGSQL.{self.port}.lock").unlink()

    def pause(self) -> None:
        """Stop the processes of the server where they are; nobody gets an answer until `unpause`."""
        server = self.pid
        for process in (server, *_children(server)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)

    def unpause(self) -> None:
        """Let them go on."""
        server = self.pid
        for process in (*_children(server), server):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def close(self) -> None:
        """End the server and its standbys and remove their folders; a second time does nothing."""
        for standby in self._standbys:
            standby.close()
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self.unpause()
            self.stop("immediate")
        if self._watchdog.poll() is None:
            self._watchdog.kill()
            self._watchdog.wait()
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
        self._reserved.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """Say whether the server's first process is there."""
        try:
            return _runs(self.pid)
        except (FileNotFoundError, ValueError, IndexError):
            return False

    @property
    def pid(self) -> int:
        """Give the id of the server's first process."""
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    @property
    def log(self) -> str:
        """Give what the server has logged."""
        return (self.folder / "log").read_text(errors="replace")

    # ---- databases -----------------------------------------------------------------------------------------------

    def new_database(self, template: str = "template0") -> str:
        """Make a database, a copy of the template, and give its name."""
        self._count += 1
        name = f"test_{os.getpid()}_{self._count}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Give the URL of a database that lives as long as the block."""
        name = self.new_database(template)
        try:
            yield self.url(name)
        finally:
            if self.is_running:
                self.drop_database(name)

    def url(self, database: str, user: str = OWNER, password: str = "") -> str:
        """Give the URL of a database over TCP."""
        secret = f":{quote(password, safe='')}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str) -> str:
        """Give the URL of a database over the socket in the folder."""
        return f"postgresql://{OWNER}@/{database}?host={self.folder}&port={self.port}"

    def sql(self, statement: str, database: str = "postgres", *, timeout: float = SECONDS_MAX) -> list[list[str]]:
        """Run SQL as the superuser in a connection of its own and give the rows as texts."""
        command = [str(binaries() / "psql"), "-X", "-q", "-A", "-t", "-F", "\x1f", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", str(self.folder), "-p", str(self.port), "-U", OWNER, "-d", database, "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode:
            raise ClusterError(f"{statement}: {done.stderr.strip()}")
        return [line.split("\x1f") for line in done.stdout.splitlines() if line]

    def set(self, name: str, value: str) -> None:
        """Change a setting of the running server."""
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")
        _wait_until(lambda: self.sql(f"SELECT current_setting('{name}') <> ''") == [["t"]], f"{name} was not set")

    def reset(self, name: str) -> None:
        """Take the change of a setting back."""
        self.sql(f"ALTER SYSTEM RESET {name}")
        self.sql("SELECT pg_reload_conf()")

    def cut(self, database: str = "") -> int:
        """Cut all connections of clients (to one database), as a network or an administrator does; say how many."""
        of = f" AND datname = '{database}'" if database else ""
        text = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        return int(self.sql(f"{text} AND pid <> pg_backend_pid(){of}")[0][0])

    def cut_off(self, process: int) -> int:
        """Cut the connections of one client process of this machine, though it may stand still; say how many."""
        ports = ", ".join(map(str, _local_ports(process))) or "NULL"
        return int(
            self.sql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                f" WHERE backend_type = 'client backend' AND client_port IN ({ports})"
            )[0][0]
        )

    # ---- standbys ------------------------------------------------------------------------------------------------

    def standby(self, *, synchronous: str = "remote_apply") -> Cluster:
        """Start a standby; commits wait for it in this way (`on`, `remote_write`, `remote_apply`), or not: `""`."""
        name = f"standby{len(self._standbys) + 1}"
        other = Cluster(settings=self._settings)
        self._standbys.append(other)
        source = f"host=127.0.0.1 port={self.port} user={OWNER} application_name={name}"
        other._tell("pg_basebackup", "-d", source, "-R", "-X", "stream", "-c", "fast")
        other._configure()
        other.start()
        _wait_until(
            lambda: (
                self.sql(f"SELECT state FROM pg_stat_replication WHERE application_name = '{name}'") == [["streaming"]]
            ),
            "the standby does not stream",
        )
        if synchronous:
            self.set("synchronous_commit", synchronous)
            self.set("synchronous_standby_names", name)
            _wait_until(
                lambda: (
                    self.sql(f"SELECT sync_state FROM pg_stat_replication WHERE application_name = '{name}'")
                    == [["sync"]]
                ),
                "the standby is not synchronous",
            )
        return other

    def promote(self) -> None:
        """Make a standby the primary; it waits for no other standby."""
        self._tell("pg_ctl", "promote", "-w", "-t", str(int(SECONDS_MAX)))
        self.reset("synchronous_standby_names")

    # ---- how -----------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        self._tell("initdb", "-U", OWNER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions", "-N")
        self._configure()

    def _configure(self) -> None:
        own = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder)}
        lines = [f"{name} = '{value}'\n" for name, value in (self._settings | own).items()]
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(lines)
        (self._data / "pg_hba.conf").write_text(ACCESS)

    def _tell(self, program: str, *arguments: str) -> None:
        command = [str(binaries() / program), "-D", str(self._data), *arguments]
        if self._user:
            command = ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--init-groups", *command]
        with tempfile.TemporaryFile() as said:
            # Not a pipe: the server inherits it and would keep it open.
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(self.folder)},
                timeout=SECONDS_MAX * 2,
                check=False,
            )
            if done.returncode:
                said.seek(0)
                text = said.read().decode(errors="replace")
                log = self.log[-4000:] if (self.folder / "log").exists() else ""
                raise ClusterError(f"{program} {' '.join(arguments)}: {text}\n{log}")


@cache
def shared() -> Cluster:
    """Give the fast server that all tests of this process share; it ends with the process."""
    cluster = Cluster()
    atexit.register(cluster.close)
    cluster.start()
    return cluster


def _unprivileged() -> str:
    """Give the user that the server has to run as, for it refuses to be root; empty for whom we are."""
    if os.geteuid() != 0:
        return ""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise MissingError("no user to run PostgreSQL as")


def _reserved_port() -> socket.socket:
    """Give a socket that nobody listens on: while it is open the kernel gives its port to nobody who asks for any."""
    reserved = socket.socket()
    # The server sets this too, and so may listen on the same port.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _local_ports(process: int) -> list[int]:
    """Give the ports of the TCP connections that a process has, from its end."""
    sockets = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(descriptor))
    lines = Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return [int(field[1].rpartition(":")[2], 16) for field in fields if f"socket:[{field[9]}]" in sockets]


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_until(is_so: Callable[[], bool], why: str) -> None:
    until = time.monotonic() + SECONDS_MAX
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(why)
        time.sleep(0.02)
