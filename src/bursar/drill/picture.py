"""The picture of a storm as SVG: spend against the cap over time, what was in flight, refused, or went wrong; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from bursar.drill.timeline import Mark, Moment, Timeline
from bursar.drill.verdict import shown

# Narrow, so that its words can still be read where a phone shows it 360 pixels wide.
WIDTH, HEIGHT = 400, 318
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 392, 46, 196
_STRIPS = ((206, 236), (242, 272))
"""Below the plot: what was in flight, and what was refused."""
_TICKS_Y = 278
_TIME_STEPS_MS = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000)
_LABELS = ((_LEFT, "till", "the provider billed"), (152, "booked", "booked"), (215, "held", "held"))

STYLE = """
.drill{--ink:#1c2330;--soft:#697386;--line:#d9dee7;--paper:#fff;--booked:#8db4e8;--held:#d6e4f7;--cap:#c0262d;
--blow:#b4690e;--refused:#6b4fa0;font:10px system-ui,sans-serif}
@media (prefers-color-scheme:dark){.drill{--ink:#e8ebf1;--soft:#98a2b5;--line:#38404f;--paper:#151a23;--booked:#34639f;
--held:#243b5c;--cap:#ff6b70;--blow:#f0a848;--refused:#b49ae6}}
.drill text{fill:var(--soft)}.drill .name{fill:var(--ink);font-weight:600;font-size:12px}
.drill .paper{fill:var(--paper)}.drill .grid{stroke:var(--line);stroke-width:.6}
.drill .till{fill:none;stroke:var(--ink);stroke-width:1.6}.drill .booked{fill:var(--booked)}
.drill .held{fill:var(--held)}.drill .cap{stroke:var(--cap);stroke-width:1.4;stroke-dasharray:5 3}
.drill .over{fill:var(--cap);fill-opacity:.13}.drill text.capped{fill:var(--cap)}
.drill .blow{fill:var(--blow);fill-opacity:.22}.drill text.struck{fill:var(--blow)}
.drill text.struck,.drill text.on{paint-order:stroke;stroke:var(--paper);stroke-width:3px}
.drill .trouble{stroke:var(--blow);stroke-width:1}.drill .flight{fill:var(--soft);fill-opacity:.45}
.drill .refused{fill:none;stroke:var(--refused);stroke-width:1.6}
"""


def document(timelines: Sequence[Timeline]) -> str:
    """Give an SVG file with one picture per storm, one below the other."""
    height = HEIGHT * max(1, len(timelines))
    inner = "".join(
        f'<g transform="translate(0 {HEIGHT * row})">{_drawn(line)}</g>' for row, line in enumerate(timelines)
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="drill" viewBox="0 0 {WIDTH} {height}" role="img">'
    paper = f'<rect class="paper" width="{WIDTH}" height="{height}"/>'
    return f"{head}<style>{STYLE}</style>{paper}{inner}</svg>\n"


def figure(timeline: Timeline) -> str:
    """Give the picture of one storm to stand in a page that has STYLE."""
    said = escape(_said(timeline))
    return f'<svg class="drill" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">{_drawn(timeline)}</svg>'


def _said(timeline: Timeline) -> str:
    """Say in one sentence what the picture shows, for those who do not see it."""
    till = max((moment.till for moment in timeline.moments), default=0)
    refusals = max((moment.refusals for moment in timeline.moments), default=0)
    cap, billed = shown(timeline.cap, timeline.unit), shown(till, timeline.unit)
    return f"{timeline.name}: the provider billed {billed}, the cap is {cap}, {refusals} refusals"


class _Scale:
    """Turns time and amounts into places; whole pixels in tenths, so that no rounding is left to a viewer."""

    def __init__(self, timeline: Timeline) -> None:
        self.ms = max((moment.ms for moment in timeline.moments), default=0) or 1
        highest = max((max(moment.till, _booked(moment)) for moment in timeline.moments), default=0)
        self.most = max(timeline.cap, highest, 1) * 107 // 100 + 1

    def x(self, ms: int) -> str:
        return _tenths(_LEFT * 10 + min(ms, self.ms) * (_RIGHT - _LEFT) * 10 // self.ms)

    def y(self, amount: int) -> str:
        return _tenths(_BOTTOM * 10 - amount * (_BOTTOM - _TOP) * 10 // self.most)


def _tenths(value: int) -> str:
    return f"{value // 10}.{value % 10}"


def _booked(moment: Moment) -> int:
    return (moment.captured or 0) + (moment.held or 0)


def _drawn(timeline: Timeline) -> str:
    scale = _Scale(timeline)
    parts = [f"<title>{escape(_said(timeline))}</title>", *_legend(timeline), *_grid(timeline, scale)]
    moments = [(moment.ms, moment) for moment in timeline.moments]
    if any(moment.captured is not None for moment in timeline.moments):
        parts.append(_area("held", [(ms, scale.y(_booked(moment))) for ms, moment in moments], scale, _BOTTOM))
        parts.append(_area("booked", [(ms, scale.y(moment.captured or 0)) for ms, moment in moments], scale, _BOTTOM))
    parts += _blows(timeline.blows, scale)
    parts.append(_line("till", [(ms, scale.y(moment.till)) for ms, moment in moments], scale))
    parts += _cap(timeline, scale)
    parts += _strips(timeline, scale)
    return "".join(parts)


def _legend(timeline: Timeline) -> Iterable[str]:
    yield f'<text class="name" x="{_LEFT}" y="14">{escape(timeline.name)}</text>'
    has_books = any(moment.captured is not None for moment in timeline.moments)
    for x, kind, label in _LABELS if has_books else _LABELS[:1]:
        sign = f'<path class="till" d="M{x} 23h10"/>' if kind == "till" else ""
        sign = sign or f'<rect class="{kind}" x="{x}" y="19" width="10" height="8"/>'
        yield f'{sign}<text x="{x + 13}" y="27">{label}</text>'


def _grid(timeline: Timeline, scale: _Scale) -> Iterable[str]:
    for percent in (0, 25, 50, 75, 100):
        y = scale.y(timeline.cap * percent // 100)
        yield f'<path class="grid" d="M{_LEFT} {y}H{_RIGHT}"/>'
        yield f'<text x="{_LEFT - 4}" y="{y}" dy="3" text-anchor="end">{percent}%</text>'
    step = next((step for step in _TIME_STEPS_MS if scale.ms // step <= 6), _TIME_STEPS_MS[-1] * 2)
    for ms in range(0, scale.ms + 1, step):
        x = scale.x(ms)
        yield f'<path class="grid" d="M{x} {_TOP}V{_STRIPS[1][1]}"/>'
        yield f'<text x="{x}" y="{_TICKS_Y + 10}" text-anchor="middle">{_tenths(ms // 100).removesuffix(".0")} s</text>'


def _cap(timeline: Timeline, scale: _Scale) -> Iterable[str]:
    y = scale.y(timeline.cap)
    if any(moment.till > timeline.cap for moment in timeline.moments):
        yield f'<path class="over" d="M{_LEFT} {y}H{_RIGHT}V{_TOP}H{_LEFT}z"/>'
    yield f'<path class="cap" d="M{_LEFT} {y}H{_RIGHT}"/>'
    yield f'<text class="capped" x="{_RIGHT}" y="14" text-anchor="end">cap {shown(timeline.cap, timeline.unit)}</text>'


def _blows(blows: Sequence[Mark], scale: _Scale) -> Iterable[str]:
    for row, blow in enumerate(blows):
        x, end = float(scale.x(blow.from_ms)), float(scale.x(blow.to_ms))
        yield f'<rect class="blow" x="{x}" y="{_TOP}" width="{max(2.0, end - x):.1f}" height="{_STRIPS[1][1] - _TOP}"/>'
        # Names that would leave the picture end at the blow instead of beginning there; neighbours take turns.
        anchor = "end" if x > _RIGHT - 80 else "start"
        name = escape(blow.name.replace("_", " "))
        yield f'<text class="struck" x="{x}" y="{_TOP + 24 + row % 6 * 11}" text-anchor="{anchor}">{name}</text>'


def _strips(timeline: Timeline, scale: _Scale) -> Iterable[str]:
    (top, bottom), (top2, bottom2) = _STRIPS
    most = max((moment.in_flight for moment in timeline.moments), default=0)
    places = [
        (m.ms, _tenths(bottom * 10 - m.in_flight * (bottom - top) * 10 // max(1, most))) for m in timeline.moments
    ]
    yield _area("flight", places, scale, bottom)
    yield f'<text class="on" x="{_RIGHT}" y="{top + 8}" text-anchor="end">in flight, up to {most}</text>'
    refusals = max((moment.refusals for moment in timeline.moments), default=0)
    height = bottom2 - top2
    steps = [(m.ms, _tenths(bottom2 * 10 - m.refusals * height * 10 // max(1, refusals))) for m in timeline.moments]
    yield _line("refused", steps, scale)
    yield f'<text class="on" x="{_LEFT + 3}" y="{top2 + 8}">refused, {refusals} in all</text>'
    for mark in timeline.troubles:
        yield f'<path class="trouble" d="M{scale.x(mark.from_ms)} {_TICKS_Y - 4}v5"/>'
    words = f"{len(timeline.troubles)} marks: answers that did not come, or not whole" if timeline.troubles else ""
    yield f'<text class="struck" x="{_LEFT}" y="{HEIGHT - 14}">{words}</text>'


def _steps(places: Sequence[tuple[int, str]], scale: _Scale) -> str:
    """Give a path in steps: what was seen holds until the next look."""
    return "".join(f"H{scale.x(ms)}V{y}" for ms, y in places)


def _line(kind: str, places: Sequence[tuple[int, str]], scale: _Scale) -> str:
    if not places:
        return ""
    return f'<path class="{kind}" d="M{_LEFT} {places[0][1]}{_steps(places, scale)}"/>'


def _area(kind: str, places: Sequence[tuple[int, str]], scale: _Scale, bottom: int) -> str:
    if not places:
        return ""
    return f'<path class="{kind}" d="M{_LEFT} {bottom}V{places[0][1]}{_steps(places, scale)}V{bottom}z"/>'
