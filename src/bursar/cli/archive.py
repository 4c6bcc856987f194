"""The file that entries go to before they are folded away: JSON lines in gzip, a whole member for every step."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from bursar.cli.common import FailedError, at

if TYPE_CHECKING:
    from bursar.ledger.store import Entry

CHUNK_BYTES = 1_048_576
_GZIP = 31


class ArchiveFile:
    """An archive of one ledger; one that is there is continued, and what a crash left half written is cut off."""

    def __init__(self, path: Path, ledger: str) -> None:
        self._path = path
        self._ledger = ledger
        self._last = 0
        """The number of the last entry in the file."""
        self._descriptor = -1

    def __enter__(self) -> ArchiveFile:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            whole = self._read()
            os.ftruncate(self._descriptor, whole)
            os.lseek(self._descriptor, 0, os.SEEK_END)
            if not whole:
                self._append([json.dumps({"ledger": self._ledger})])
        except OSError as error:
            self.__exit__()
            raise FailedError(f"{self._path}: cannot be written: {error.strerror}") from error
        except FailedError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def add(self, entries: list[Entry]) -> None:
        """Write entries durably; those that are in the file already are left out. Raises OSError."""
        lines = [json.dumps(entry_facts(entry)) for entry in entries if entry.seq > self._last]
        if lines:
            self._append(lines)
            self._last = entries[-1].seq

    def _append(self, lines: list[str]) -> None:
        data = memoryview(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def _read(self) -> int:
        """Find the last entry and check whose they are; give how many bytes of the file are whole."""
        whole = 0
        data = b""
        while True:
            member = zlib.decompressobj(_GZIP)
            text, fed = b"", 0
            while not member.eof:
                data = data or os.read(self._descriptor, CHUNK_BYTES)
                if not data:
                    return whole
                try:
                    text += member.decompress(data)
                except zlib.error:
                    if not whole:
                        raise FailedError(f"{self._path} is no archive of a ledger; name another file") from None
                    return whole
                fed += len(data) - len(member.unused_data)
                data = member.unused_data
            self._note(text)
            whole += fed

    def _note(self, text: bytes) -> None:
        last = json.loads(text.splitlines()[-1])
        if last.get("ledger", self._ledger) != self._ledger:
            raise FailedError(f"{self._path} is the archive of another ledger; name another file")
        self._last = last.get("seq", self._last)


def entry_facts(entry: Entry) -> dict[str, object]:
    """Give an entry as JSON takes it."""
    return {
        "seq": entry.seq,
        "at": at(entry.at),
        "at_microseconds": entry.at,
        "kind": entry.kind,
        "call": entry.call_id,
        "worker": entry.worker,
        "usd_nanodollars": entry.usd,
        "calls": entry.calls,
        "tokens": entry.tokens,
        "accounts": list(entry.accounts),
        "detail": entry.detail,
    }
