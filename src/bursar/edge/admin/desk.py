"""What the routes of the HTTP API work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bursar.clock import Clock
from bursar.edge.admin.access import Access
from bursar.ledger.account import Limits
from bursar.ledger.store import Store
from bursar.pricing.book import Book

DESK = "bursar.desk"
"""Where a request carries it."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Books, prices and who may look at them."""

    store: Store
    access: Access
    book: Book
    clock: Clock
    upstreams: tuple[str, ...]
    timezone: str
    """Of budgets by the calendar that name no other."""
    templates: Callable[[str], Limits]
    """The caps that the settings give the runs of a key."""
