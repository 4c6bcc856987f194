"""The servers of the tests do what the tests of the ledger rely on, and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import bursar.drill.cluster as kit
from bursar.drill.cluster import Cluster

CHILD = """
import sys
from bursar.drill.cluster import Cluster
one = Cluster()
one.start()
print(one.folder, one.pid, flush=True)
sys.stdin.read()
"""


def count(server: Cluster, name: str) -> int:
    return int(server.sql("SELECT count(*) FROM t", name)[0][0])


def test_databases_are_made_and_dropped(postgres: Cluster) -> None:
    with postgres.database() as url:
        name = url.rpartition("/")[2]
        postgres.sql("CREATE TABLE t AS SELECT 1 AS a, NULL::text AS b", name)
        assert postgres.sql("SELECT * FROM t", name) == [["1", ""]]
        with postgres.database(name) as copy:
            assert count(postgres, copy.rpartition("/")[2]) == 1
    assert [name] not in postgres.sql("SELECT datname FROM pg_database")
    with pytest.raises(RuntimeError, match="nothing"):
        postgres.sql("SELECT * FROM nothing")


def test_what_was_committed_survives_every_kind_of_end() -> None:
    with Cluster(durable=True) as server:
        name = server.new_database()
        server.sql("CREATE TABLE t (a int)", name)
        for number, end in enumerate([server.stop, lambda: server.stop("immediate"), server.kill9], 1):
            server.sql("INSERT INTO t VALUES (1)", name)
            end()
            assert not server.is_running
            server.start()
            assert count(server, name) == number
        assert server.sql("SHOW fsync") == [["on"]]
    assert not server.folder.exists()


def test_a_synchronous_standby_has_what_was_committed() -> None:
    with Cluster(durable=True) as primary:
        name = primary.new_database()
        standby = primary.standby()
        primary.sql("CREATE TABLE t AS SELECT 1", name)
        assert count(standby, name) == 1
        primary.kill9()
        standby.promote()
        standby.sql("INSERT INTO t VALUES (2)", name)
        assert count(standby, name) == 2
    assert not standby.folder.exists()


def test_a_paused_server_answers_nobody_until_it_goes_on() -> None:
    with Cluster() as server:
        server.pause()
        with pytest.raises(subprocess.TimeoutExpired):
            server.sql("SELECT 1", timeout=0.2)
        server.unpause()
        assert server.sql("SELECT 1") == [["1"]]


def test_a_server_goes_with_the_process_that_started_it() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    folder, pid = child.stdout.readline().split()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    kit._wait_until(lambda: not kit._runs(int(pid)) and not Path(folder).exists(), "something is left")


def test_where_postgresql_is_missing_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kit.Path, "glob", lambda *_: iter(()))
    with pytest.raises(kit.MissingError, match="apt-get install postgresql"):
        kit.binaries.__wrapped__()
