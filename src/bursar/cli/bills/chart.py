"""Draws by how much a provider's bill and the ledger are apart, day by day: in the terminal, and as one SVG file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from bursar.cli.bills.compare import Line
from bursar.cli.common import signed_usd

BAR_CHARACTERS = 20
WIDTH, ROW, LABEL = 960, 26, 190
MORE, LESS, LEDGER = "#c2410c", "#1d4ed8", "#94a3b8"


def by_day(lines: Iterable[Line]) -> dict[str, tuple[int, int]]:
    """Give the nanodollars of the ledger and of the provider of each day, lines that cannot be compared left out."""
    days: dict[str, tuple[int, int]] = {}
    for line in lines:
        if line.provider_usd is not None:
            ours, theirs = days.get(line.day.isoformat(), (0, 0))
            days[line.day.isoformat()] = (ours + line.ledger_usd, theirs + line.provider_usd)
    return days


def bar(difference: int, most: int) -> str:
    """Give a bar around a middle line: to the left where the provider billed less, to the right where more."""
    length = 0 if not most else -(-abs(difference) * BAR_CHARACTERS // most)
    left, right = ("▇" * length, "") if difference < 0 else ("", "▇" * length)
    return f"{left:>{BAR_CHARACTERS}}│{right}"


def svg(titles: Mapping[str, dict[str, tuple[int, int]]]) -> str:
    """Give a drawing that needs nothing else: under each title a row per day, ledger and provider side by side."""
    parts: list[str] = []
    top = 20
    for title, days in titles.items():
        most = max((max(pair) for pair in days.values()), default=0)
        parts.append(f'<text x="10" y="{top + 14}" font-size="16" font-weight="bold">{escape(title)}</text>')
        top += 2 * ROW - 16
        for day, (ours, theirs) in days.items():
            parts += _row(top, day, ours, theirs, most)
            top += ROW
        top += ROW
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
        'font-family="sans-serif" font-size="13" fill="#0f172a">\n'
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _row(top: int, day: str, ours: int, theirs: int, most: int) -> list[str]:
    room = WIDTH - LABEL - 200
    thin = ROW // 2 - 3
    colour = MORE if theirs > ours else LESS if theirs < ours else LEDGER
    end = LABEL + room + 10
    return [
        f'<text x="10" y="{top + 14}">{day}</text>',
        f'<rect x="{LABEL - 80}" y="{top}" width="{_width(ours, most, room)}" height="{thin}" fill="{LEDGER}">'
        f"<title>ledger {signed_usd(ours)}</title></rect>",
        f'<rect x="{LABEL - 80}" y="{top + thin}" width="{_width(theirs, most, room)}" height="{thin}" '
        f'fill="{colour}"><title>provider {signed_usd(theirs)}</title></rect>',
        f'<text x="{end}" y="{top + 14}" fill="{colour}">{signed_usd(theirs - ours)}</text>',
    ]


def _width(amount: int, most: int, room: int) -> int:
    return max(0, amount) * room // most if most else 0
