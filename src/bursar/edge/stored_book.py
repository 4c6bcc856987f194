"""Where a newer price book is kept: beside the books of the ledger, so that whoever uses the one finds the other."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

NAME = "prices.json"
BYTES_MAX = 67_108_864
_SQLITE = "sqlite:///"


def place(ledger_url: str) -> Path:
    """Give the path of the stored book: in the folder of a ledger file, else under the XDG data directory."""
    if ledger_url.startswith(_SQLITE):
        return Path(ledger_url.removeprefix(_SQLITE)).parent / NAME
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG rules say that a relative value is to be ignored.
    folder = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return folder / "bursar" / NAME


def previous(path: Path) -> Path:
    """Give the path of the book before this one."""
    return path.with_name(f"previous-{path.name}")


def read(path: Path) -> bytes | None:
    """Give the stored book, or None where there is none; raises OSError."""
    try:
        with path.open("rb") as file:
            return file.read(BYTES_MAX)
    except FileNotFoundError:
        return None


def keep(path: Path, data: bytes) -> None:
    """Put a book in the place of the stored one, whole or not at all; the one before is kept. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    spare = fresh.with_name(f"{fresh.name}-previous")
    try:
        with fresh.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            # A copy of the name, not of the bytes: there is a book at the path at every instant.
            os.link(path, spare)
            spare.replace(previous(path))
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
        spare.unlink(missing_ok=True)
    _sync_folder(path.parent)


def back(path: Path) -> bool:
    """Take the book before the stored one, or none (the bundled one then); False where none is stored."""
    if not path.exists():
        return False
    if previous(path).exists():
        previous(path).replace(path)
    else:
        path.unlink()
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
