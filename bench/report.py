"""The table of one run: printed, written as JSON to bench/results/, and as a page to docs/bench.md."""

from __future__ import annotations

import datetime
import json
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
WIDTH = 118
PAGE = ROOT / "docs" / "bench.md"


@dataclass(frozen=True)
class Figures:
    name: str
    version: str
    what_is_on: str
    calls_per_second: float
    cpu_us_per_call: float
    cpu_us_per_event: float
    added_ms_p50: float
    added_ms_p99: float
    idle_megabytes: float
    streaming_megabytes: float
    slow_streams_opened: int
    ready_seconds: float
    calls_past_a_cap_of_one: int | None
    has_cap: bool
    rounds: dict[str, list[float]]


def table(figures: list[Figures]) -> list[str]:
    by_name = {row.name: row for row in figures}
    proxies = [row for row in figures if row.name != "direct"]
    lines = [
        "| | " + " | ".join(f"{row.name} {row.version}" for row in proxies) + " |",
        "|---|" + "---|" * len(proxies),
    ]
    for label, attribute, form in ROWS:
        lines.append(f"| {label} | " + " | ".join(format(getattr(row, attribute), form) for row in proxies) + " |")
    mine = by_name.get("bursar")
    if mine:
        for label, attribute in (("call", "cpu_us_per_call"), ("event", "cpu_us_per_event")):
            own = getattr(mine, attribute)
            ratios = [f"{getattr(row, attribute) / own:.2f}" if own else "-" for row in proxies]
            lines.append(f"| CPU per {label}, bursar = 1 | " + " | ".join(ratios) + " |")
    return lines


ROWS = [
    ("calls per second, 64 connections", "calls_per_second", ",.0f"),
    ("CPU microseconds per call", "cpu_us_per_call", ",.0f"),
    ("CPU microseconds per streamed event", "cpu_us_per_event", ",.0f"),
    ("added latency p50, ms", "added_ms_p50", ".2f"),
    ("added latency p99, ms", "added_ms_p99", ".2f"),
    ("resident memory idle, MB", "idle_megabytes", ",.0f"),
    ("resident memory under open slow streams, MB", "streaming_megabytes", ",.0f"),
    ("slow streams that gave an event within 90 s", "slow_streams_opened", ",d"),
    ("start to first answer, s", "ready_seconds", ".1f"),
]


def write(figures: list[Figures], facts: dict[str, object]) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    result = {"date": today, "facts": facts, "figures": [asdict(row) for row in figures]}
    (RESULTS / f"{today}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines = table(figures)
    PAGE.write_text(page(today, figures, facts, lines), encoding="utf-8")


def page(today: str, figures: list[Figures], facts: dict[str, object], lines: list[str]) -> str:
    proxies = [row for row in figures if row.name != "direct"]
    direct = next(row for row in figures if row.name == "direct")
    text = [
        "# What enforcement costs",
        _paragraph(
            f"Written by `make bench` on {today}: {facts['cores']} cores ({facts['cpu']}), Python {facts['python']},"
            f" load by {facts['load']}. One machine carries the load, the proxy and the upstream, so read the CPU time"
            " and the ratios; calls per second are those of this machine"
            f" ({direct.calls_per_second:,.0f} with no proxy at all)."
        ),
        "\n".join(lines),
        "## What was on",
        "\n".join(_point(f"**{row.name} {row.version}**: {row.what_is_on}.") for row in proxies),
        "That each cap was live was tried first, in the same processes:",
        "\n".join(
            _point(f"**{row.name}**: a key whose first call uses up its cap got {_through(row)} through.")
            for row in proxies
            if row.has_cap
        ),
        _paragraph(f"After the load, bursar's ledger: {facts['books']}."),
        "## How it was measured",
        "\n".join(map(_point, _method(facts))),
    ]
    if facts["left_out"]:
        text.append(f"Left out, because it could not be installed: {facts['left_out']}.")
    return "\n\n".join(text) + "\n"


def _method(facts: dict[str, object]) -> list[str]:
    return [
        "Every stack stands in front of the same stub provider. Stacks take turns,"
        f" {facts['rounds']} rounds; the table has the medians. The rounds are in `bench/results/`.",
        f"Calls: a 4 kB chat body, a reply of about 1 kB, {facts['connections']} connections kept busy for"
        f" {facts['closed_seconds']} s.",
        f"Streams: {facts['streams']} at once, {facts['events']} events each, one every {facts['pause_ms']} ms. A proxy"
        " that falls behind reads several events at a time, which makes its figure per event better than it is.",
        f"Latency: {facts['open_per_second']} calls per second at a fixed pace, from the instant each was due, less the"
        " same without a proxy.",
        "CPU: user and system time of the proxy and all its processes, from /proc, divided by the work done.",
        f"Memory: of all its processes, idle after the first answer, and with {facts['slow_streams']} streams open that"
        " give one event a second.",
    ]


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _point(text: str) -> str:
    return textwrap.fill("- " + text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _through(row: Figures) -> str:
    if row.calls_past_a_cap_of_one is None:
        return "all of its calls"
    return f"{row.calls_past_a_cap_of_one} call" + ("" if row.calls_past_a_cap_of_one == 1 else "s")
