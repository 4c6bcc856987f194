"""Reads what a provider says it billed: the reports of OpenAI and Anthropic, strictly, day by day and model by model.

Pure: text in, rows out. The shapes are those of the providers' SDKs and reference pages.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bursar.pricing.limits import undated

CENTS_PER_USD = 100
DAY = datetime.timedelta(days=1)
_ANY_DAY = "9999-12-31"
# `gpt-5-2026-01-01, cached input`, `priority | gpt-5, output, long context`, `gpt-image-1 text, input`
_LINE_ITEM = re.compile(r"(?:[\w ]+ \| )?(?P<model>[\w.:/-]+)(?: (?:text|audio|image))?, .+")


class ReportError(Exception):
    """The text is not the report that it should be, or only a part of it; the message says where."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one row of a usage report, by the classes that are billed apart."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    @property
    def all(self) -> int:
        """Give all of them."""
        return self.input + self.output + self.cache_read + self.cache_write_5m + self.cache_write_1h


@dataclass(frozen=True, slots=True)
class Billed:
    """One row: an amount in USD, or tokens that have yet to be priced."""

    day: datetime.date
    model: str
    """Without the date of a snapshot; what is not for a model keeps the provider's words."""
    usd: Decimal | None = None
    tokens: Tokens | None = None
    named: str = ""
    """The model as the provider names it, where the row is to be priced."""
    tier: str = ""
    """As the provider says it, with `@us` where the call ran in the US only."""
    input_tokens_min: int = 0
    """Each call of the row had more input tokens than that."""


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of one report, and the days that it is about: also those on which nothing was billed."""

    kind: str
    days: frozenset[datetime.date]
    rows: tuple[Billed, ...]


# ---- shapes ---------------------------------------------------------------------------------------------------------


class _Shape(BaseModel):
    # Providers add fields; one that is not known here is none of ours.
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Amount(_Shape):
    value: Decimal
    currency: str


class _OpenAiCost(_Shape):
    object: Literal["organization.costs.result"]
    amount: _Amount
    line_item: str | None = None
    project_id: str | None = None


class _OpenAiUsage(_Shape):
    object: Literal["organization.usage.completions.result", "organization.usage.embeddings.result"]
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(default=0, ge=0)
    input_cached_tokens: int | None = None
    input_cache_write_tokens: int | None = None
    model: str | None = None
    service_tier: str | None = None
    batch: bool | None = None
    project_id: str | None = None


class _AnthropicCost(_Shape):
    amount: Decimal
    """In cents."""
    currency: str
    cost_type: str | None = None
    description: str | None = None
    model: str | None = None
    workspace_id: str | None = None


class _CacheCreation(_Shape):
    ephemeral_5m_input_tokens: int = Field(default=0, ge=0)
    ephemeral_1h_input_tokens: int = Field(default=0, ge=0)


class _ServerTools(_Shape):
    web_search_requests: int = Field(default=0, ge=0)


class _AnthropicUsage(_Shape):
    uncached_input_tokens: int = Field(ge=0)
    cache_read_input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    cache_creation: _CacheCreation = _CacheCreation()
    server_tool_use: _ServerTools | None = None
    model: str | None = None
    service_tier: str | None = None
    context_window: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    workspace_id: str | None = None


class _Bucket(Protocol):
    @property
    def results(self) -> Sequence[Any]: ...
    @property
    def day(self) -> datetime.date: ...


class _OpenAiBucket(_Shape):
    start_time: int
    end_time: int
    results: tuple[dict[str, Any], ...]

    @property
    def day(self) -> datetime.date:
        start = datetime.datetime.fromtimestamp(self.start_time, datetime.UTC)
        return _whole_day(start, start + datetime.timedelta(seconds=self.end_time - self.start_time))


class _AnthropicBucket(_Shape):
    starting_at: datetime.datetime
    ending_at: datetime.datetime
    results: tuple[dict[str, Any], ...]

    @property
    def day(self) -> datetime.date:
        return _whole_day(self.starting_at, self.ending_at)


def _whole_day(start: datetime.datetime, end: datetime.datetime) -> datetime.date:
    start = start.astimezone(datetime.UTC) if start.tzinfo else start.replace(tzinfo=datetime.UTC)
    end = end.astimezone(datetime.UTC) if end.tzinfo else end.replace(tzinfo=datetime.UTC)
    if end - start != DAY or start.time() != datetime.time():
        raise ReportError(f"the bucket from {start:%Y-%m-%dT%H:%M} is not one UTC day; ask for bucket_width=1d")
    return start.date()


class _Page(_Shape):
    data: tuple[dict[str, Any], ...]
    has_more: bool = False
    next_page: str | None = None


# ---- kinds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of report: what it is called, where its API is, and how its rows are read."""

    name: str
    provider: str
    path: str
    groups: tuple[str, ...]
    """What the API is asked to tell apart."""
    buckets_max: int
    """Most days in one page."""
    bucket: type[_OpenAiBucket] | type[_AnthropicBucket]
    row: type[_Shape]
    read: Callable[[Any, datetime.date], Iterator[Billed]]
    part_of: str
    """The field of a row that names its project or workspace."""

    @property
    def has_usd(self) -> bool:
        """Whether the provider itself says what it charged."""
        return self.name.endswith("costs")


def _openai_cost(row: _OpenAiCost, day: datetime.date) -> Iterator[Billed]:
    if row.amount.currency.lower() != "usd":
        raise ReportError(f"an amount of {day} is in {row.amount.currency}, and the books are in USD")
    if row.line_item is None:
        raise ReportError(f"the costs of {day} are not by line item; ask for group_by=line_item")
    found = _LINE_ITEM.fullmatch(row.line_item)
    yield Billed(day, folded(found["model"]) if found else row.line_item, usd=row.amount.value)


def _openai_usage(row: _OpenAiUsage, day: datetime.date) -> Iterator[Billed]:
    if row.model is None:
        raise ReportError(f"the usage of {day} is not by model; ask for group_by=model")
    cached, written = row.input_cached_tokens or 0, row.input_cache_write_tokens or 0
    if cached + written > row.input_tokens:
        raise ReportError(f"the usage of {row.model} on {day} has more cached tokens than tokens")
    tokens = Tokens(row.input_tokens - cached - written, row.output_tokens, cached, written)
    tier = "batch" if row.batch else row.service_tier or ""
    yield Billed(day, _label(row.model, tier), tokens=tokens, named=row.model, tier=tier)


def _anthropic_cost(row: _AnthropicCost, day: datetime.date) -> Iterator[Billed]:
    if row.currency.lower() != "usd":
        raise ReportError(f"an amount of {day} is in {row.currency}, and the books are in USD")
    words = row.model or row.description or row.cost_type
    if words is None:
        raise ReportError(f"the costs of {day} are not by model; ask for group_by[]=description")
    yield Billed(day, folded(words) if row.model else words, usd=row.amount / CENTS_PER_USD)


def _anthropic_usage(row: _AnthropicUsage, day: datetime.date) -> Iterator[Billed]:
    if row.model is None:
        raise ReportError(f"the usage of {day} is not by model; ask for group_by[]=model")
    cache, tier = row.cache_creation, _anthropic_tier(row)
    yield Billed(
        day,
        _label(row.model, tier),
        tokens=Tokens(
            row.uncached_input_tokens,
            row.output_tokens,
            row.cache_read_input_tokens,
            cache.ephemeral_5m_input_tokens,
            cache.ephemeral_1h_input_tokens,
        ),
        named=row.model,
        tier=tier,
        input_tokens_min=_window_start(row.context_window),
    )
    if row.server_tool_use and row.server_tool_use.web_search_requests:
        # No tokens and no amount: the costs report has what they cost.
        yield Billed(day, "web search", tokens=Tokens(), tier="requests")


def _label(model: str, tier: str) -> str:
    # The gateway makes no batches: these are somebody else's, and would blur the line of the model.
    return f"{folded(model)} (batch)" if tier == "batch" else folded(model)


def _anthropic_tier(row: _AnthropicUsage) -> str:
    tier = "fast" if row.speed == "fast" else row.service_tier or ""
    return tier + ("@us" if row.inference_geo == "us" else "")


def _window_start(window: str | None) -> int:
    """Give the input length above which a window such as `200k-1M` begins."""
    found = re.match(r"(\d+)k-", window or "")
    return int(found[1]) * 1000 if found else 0


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="openai-costs",
            provider="openai",
            path="/v1/organization/costs",
            groups=("line_item", "project_id"),
            buckets_max=180,
            bucket=_OpenAiBucket,
            row=_OpenAiCost,
            read=_openai_cost,
            part_of="project_id",
        ),
        Kind(
            name="openai-usage",
            provider="openai",
            path="/v1/organization/usage/completions",
            groups=("model", "service_tier", "batch", "project_id"),
            buckets_max=31,
            bucket=_OpenAiBucket,
            row=_OpenAiUsage,
            read=_openai_usage,
            part_of="project_id",
        ),
        Kind(
            name="anthropic-costs",
            provider="anthropic",
            path="/v1/organizations/cost_report",
            groups=("description", "workspace_id"),
            buckets_max=31,
            bucket=_AnthropicBucket,
            row=_AnthropicCost,
            read=_anthropic_cost,
            part_of="workspace_id",
        ),
        Kind(
            name="anthropic-usage",
            provider="anthropic",
            path="/v1/organizations/usage_report/messages",
            groups=("model", "service_tier", "context_window", "inference_geo", "workspace_id"),
            buckets_max=31,
            bucket=_AnthropicBucket,
            row=_AnthropicUsage,
            read=_anthropic_usage,
            part_of="workspace_id",
        ),
    )
}


# ---- reading --------------------------------------------------------------------------------------------------------


def read_report(kind: Kind, text: str, part: str = "") -> Report:
    """Read a report: one page, a list of pages, or pages one after another; `part` keeps one project or workspace.

    Raises ReportError, also where the last page says that there is more.
    """
    pages = [_checked(_Page, page, f"page {number}") for number, page in enumerate(_values(text), 1)]
    if not pages:
        raise ReportError("there is nothing in it")
    if pages[-1].has_more:
        raise ReportError("it is only a part: its last page says has_more; put all pages into the file")
    days: set[datetime.date] = set()
    rows: list[Billed] = []
    for page in pages:
        for bucket in (_checked(kind.bucket, one, "a bucket") for one in page.data):
            if bucket.day in days:
                raise ReportError(f"{bucket.day} is in it twice")
            days.add(bucket.day)
            rows += _rows(kind, bucket, part)
    return Report(kind.name, frozenset(days), tuple(rows))


def page_after(kind: Kind, text: str) -> str | None:
    """Give the cursor of the page after this one, or None at the end; raises ReportError."""
    values = list(_values(text))
    if len(values) != 1:
        raise ReportError(f"what {kind.path} said is not one answer")
    page = _checked(_Page, values[0], f"the answer of {kind.path}")
    if page.has_more and not page.next_page:
        raise ReportError("it says has_more and names no next_page")
    return page.next_page if page.has_more else None


def folded(model: str) -> str:
    """Give the name without the date of a snapshot: providers bill snapshots, and agents call the short name."""
    return undated(model.lower(), _ANY_DAY) or model.lower()


def _rows(kind: Kind, bucket: _Bucket, part: str) -> Iterable[Billed]:
    for result in bucket.results:
        row = _checked(kind.row, result, f"a result of {bucket.day}")
        if not part or getattr(row, kind.part_of) == part:
            yield from kind.read(row, bucket.day)


def _values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_float=Decimal)
    at = len(text) - len(text.lstrip())
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise ReportError(f"it is not JSON: {error}") from None
        yield from value if isinstance(value, list) else [value]
        at += len(text[at:]) - len(text[at:].lstrip())


def _checked(shape: type[Any], value: object, where: str) -> Any:
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ReportError(f"{where} is not as it should be: {place}: {first['msg']}".replace(": : ", ": ")) from None
