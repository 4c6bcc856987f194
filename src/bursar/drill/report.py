"""A verdict as people read it and as programs read it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bursar.drill.timeline import timeline
from bursar.drill.verdict import Figures, Verdict, percent_of, shown, usd

FORMAT = 1
NOT_SEEN = "what is held, and whether the books balance and cover the bill: the books of this gateway are not seen here"
_PACKAGES = ("bursar", "aiohttp", "genai-prices", "httptools", "uvicorn", "uvloop")


def facts(verdict: Verdict) -> list[tuple[str, str]]:
    """Give what was measured, line by line: what it is, and the figure."""
    figures = verdict.figures
    lines = [
        ("cap", shown(figures.cap, figures.unit)),
        ("the provider billed", f"{usd(figures.till_nanodollars)} for {shown(figures.till_calls, 'calls')}"),
        ("over the cap", shown(figures.over, figures.unit) + (f", {figures.calls_over} calls" if figures.over else "")),
        ("first refusal", _first_refusal(figures)),
        ("used in the end", percent_of(figures.used, figures.cap)),
        ("refusals", _refusals(figures)),
    ]
    if verdict.measured.has_books:
        lines += [
            ("still held", f"{usd(figures.held)}, {figures.holds_open} holds"),
            ("booked", _booked(figures)),
        ]
    else:
        lines.append(("not checked", NOT_SEEN))
    if verdict.scenario.has_trouble:
        trouble = {name: count for name, count in figures.outcomes.items() if name not in ("answered", "exhausted")}
        happened = [f"{count} {name.replace('_', ' ')}" for name, count in sorted(trouble.items())]
        happened += [f"{count} {name}" for name, count in figures.blows.items()]
        lines.append(("trouble, by order", ", ".join(happened) or "none"))
        lines.append(("holds of the dead", f"{figures.holds_expired}, captured whole"))
    return lines


def as_json(verdicts: Sequence[Verdict], settings: dict[str, object]) -> dict[str, Any]:
    """Give everything: verdicts, figures, settings, versions, machine."""
    return {
        "format": FORMAT,
        "passed": all(verdict.passed for verdict in verdicts),
        "settings": settings,
        "versions": {**{name: _version(name) for name in _PACKAGES}, "python": platform.python_version()},
        "machine": _machine(),
        "scenarios": [
            {
                "name": verdict.scenario.name,
                "passed": verdict.passed,
                "checks": [asdict(check) for check in verdict.checks],
                "figures": asdict(verdict.figures),
                "scenario": asdict(verdict.scenario),
                "timeline": asdict(timeline(verdict.scenario, verdict.measured)),
            }
            for verdict in verdicts
        ],
    }


def _booked(figures: Figures) -> str:
    unknown = figures.captured_nanodollars - figures.till_nanodollars
    if unknown <= 0:
        return usd(figures.captured_nanodollars)
    return f"{usd(figures.captured_nanodollars)}, {usd(unknown)} of it for calls whose bill the gateway cannot know"


def _first_refusal(figures: Figures) -> str:
    if figures.used_before_refusal is None:
        return "none"
    percent = percent_of(figures.used_before_refusal, figures.cap)
    return f"after call {figures.first_refusal_after_calls}, with {percent} of the cap used"


def _refusals(figures: Figures) -> str:
    if not figures.refusals:
        return "none"
    most = figures.attempts_per_refused_agent_max
    speed = ""
    if figures.refusal_us_median is not None:
        tenths = figures.refusal_us_median // 100
        speed = f"; asked again, refused in {tenths // 10}.{tenths % 10} ms (median)"
    return f"{figures.refusals}, {most} attempt{'s' * (most != 1)} per refused agent{speed}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, object]:
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processors": os.cpu_count(),
        "implementation": sys.implementation.name,
    }
