"""Reads a provider's report from its API, page by page, with an admin key: a GET of one fixed path per kind."""

from __future__ import annotations

import datetime
from urllib.parse import urlencode

from bursar.cli.bills.reports import DAY, Kind, page_after
from bursar.upstream.reading import read_url

PAGES_MAX = 1_000
PAGE_BYTES_MAX = 33_554_432
PAGE_SECONDS_MAX = 120.0
ANTHROPIC_VERSION = "2023-06-01"


async def report_text(kind: Kind, base_url: str, key: str, first: datetime.date, last: datetime.date) -> str:
    """Give all pages for these days, one after another; raises ReadingError, ReportError."""
    pages: list[str] = []
    cursor: str | None = ""
    while cursor is not None and len(pages) < PAGES_MAX:
        url = f"{base_url.rstrip('/')}{kind.path}?{_query(kind, first, last, cursor)}"
        body = await read_url(url, _headers(kind, key), bytes_max=PAGE_BYTES_MAX, seconds_max=PAGE_SECONDS_MAX)
        pages.append(body.decode("utf-8", "replace"))
        cursor = page_after(kind, pages[-1])
    return "\n".join(pages)


def _query(kind: Kind, first: datetime.date, last: datetime.date, cursor: str) -> str:
    after = last + DAY
    if kind.provider == "openai":
        start, end = (str(int(_midnight(day).timestamp())) for day in (first, after))
        asked = [("start_time", start), ("end_time", end)]
    else:
        start, end = (_midnight(day).strftime("%Y-%m-%dT%H:%M:%SZ") for day in (first, after))
        asked = [("starting_at", start), ("ending_at", end)]
    asked += [("bucket_width", "1d"), *(("group_by[]", group) for group in kind.groups)]
    asked.append(("limit", str(min(kind.buckets_max, (after - first).days))))
    return urlencode(asked + ([("page", cursor)] if cursor else []))


def _midnight(day: datetime.date) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time(), datetime.UTC)


def _headers(kind: Kind, key: str) -> dict[str, str]:
    if kind.provider == "openai":
        return {"authorization": f"Bearer {key}"}
    return {"x-api-key": key, "anthropic-version": ANTHROPIC_VERSION}
