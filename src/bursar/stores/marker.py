"""What is known of a ledger outside its database, so that a database that went back in time is recognised."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from bursar.clock import Instant
from bursar.ledger.books import encode
from bursar.ledger.store import Adopted, LedgerLostError


@dataclass(frozen=True, slots=True)
class Marker:
    """How far a ledger had come when it was last seen."""

    ledger: str
    """The ledger's id, which it got when it was made."""
    entries: int
    """The number of its last entry."""
    epoch: int = 0
    """How often an operator has accepted a ledger that had gone back."""
    at: Instant = Instant(0)  # noqa: RUF009
    """The time of the last entry; 0 where it is not known."""
    place: str = ""
    """Where the ledger was found; a database that is emptied and filled anew has another id there."""


def check(marker: Marker | None, ledger: str, epoch: int, entries: int) -> str:
    """Say what is wrong with a ledger that is found in this state; empty when nothing is. Pure."""
    if marker is None:
        return ""
    if ledger != marker.ledger:
        return "is another ledger than before"
    if epoch > marker.epoch:
        # An operator has accepted the state that the new epoch began with.
        return ""
    if epoch < marker.epoch:
        return f"is older than before: it is in epoch {epoch} and was in epoch {marker.epoch}"
    if entries < marker.entries:
        return f"is older than before: it has {entries} entries and had {marker.entries}"
    return ""


def accepted(place: str, known: Marker | None, found: Marker, trouble: str) -> Adopted:
    """Give what a ledger that is found in this state becomes when it is accepted as it is. Pure.

    Raises LedgerLostError where there is no ledger and none is known to have been there.
    """
    if not found.ledger and not trouble:
        raise LedgerLostError(f"there is no ledger in {place}, and none is known to have been there: nothing to accept")
    same = known if known is not None and known.ledger == found.ledger else found
    return Adopted(
        ledger=found.ledger,
        epoch=max(found.epoch, same.epoch) + 1,
        entries=found.entries,
        at=found.at,
        missing=max(same.entries - found.entries, 0),
        trouble=trouble,
        known_at=known.at if known else Instant(0),
    )


def record(adopted: Adopted, now: Instant, who: str) -> str:
    """Give what a ledger remembers of having been accepted. Pure."""
    facts = {"entries": adopted.entries, "missing": adopted.missing, "trouble": adopted.trouble}
    return encode({"at": now, "who": who, **facts})


def is_ahead(marker: Marker, known: Marker | None) -> bool:
    """Say whether a marker tells more than the one that is there."""
    if known is None or known.ledger != marker.ledger or known.place != marker.place:
        return True
    return (marker.epoch, marker.entries) > (known.epoch, known.entries)


def read(path: Path) -> Marker | None:
    """Give the marker in a file, None where there is none; raises LedgerLostError when it cannot be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
        return Marker(
            ledger=str(found["ledger"]),
            entries=int(found["entries"]),
            epoch=int(found.get("epoch", 0)),
            at=Instant(int(found.get("at", 0))),
            place=str(found.get("place", "")),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerLostError(f"the marker {path} cannot be read: {error}") from error


def write(path: Path, marker: Marker) -> None:
    """Put a marker into a file, durably and at once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = {"ledger": marker.ledger, "epoch": marker.epoch, "entries": marker.entries, "at": marker.at}
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(facts | ({"place": marker.place} if marker.place else {})) + "\n")
        file.flush()
        # A marker that a power cut emptied would keep the next start from starting.
        os.fsync(file.fileno())
    os.replace(draft, path)


def at_place(folder: Path, place: str) -> Marker | None:
    """Give the newest marker of the ledger that was last found at a place; raises LedgerLostError."""
    found = [marker for path in sorted(folder.glob("*.json")) if (marker := read(path)) and marker.place == place]
    return max(found, key=lambda marker: (marker.at, marker.epoch, marker.entries), default=None)


def folder() -> Path:
    """Give where the markers of ledgers on servers are: in the state directory of this user."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG rules say that a relative value is to be ignored.
    home = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return home / "bursar" / "ledgers"
