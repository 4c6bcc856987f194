"""The verdict as one page: no network, no script; readable on paper and on a phone; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from bursar.drill.picture import STYLE, figure
from bursar.drill.report import facts
from bursar.drill.timeline import timeline
from bursar.drill.verdict import Verdict, percent_of, shown

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#697386;--line:#d9dee7;--paper:#fff;--ok:#187a3c;--bad:#c0262d}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebf1;--soft:#98a2b5;--line:#38404f;--paper:#151a23;--ok:#5bc982;
--bad:#ff6b70}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:46rem;background:var(--paper);color:var(--ink);
font:16px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .3rem}
p{margin:.4rem 0}.soft,dt,th{color:var(--soft);font-weight:400}
.ok{color:var(--ok)}.bad{color:var(--bad)}b.ok,b.bad{font-weight:700}
figure{margin:.8rem 0}svg{display:block;width:100%;height:auto}
ul{list-style:none;margin:.6rem 0;padding:0}li{margin:.25rem 0;padding-left:1.5rem;text-indent:-1.5rem}
li b{display:inline-block;width:1.5rem;text-indent:0}
dl{display:grid;grid-template-columns:minmax(6.5rem,max-content) 1fr;gap:.15rem 1rem;margin:.6rem 0}dd{margin:0}
table{width:100%;border-collapse:collapse;font-size:.9rem}th,td{text-align:left;padding:.3rem .6rem .3rem 0;
border-bottom:1px solid var(--line);vertical-align:top}
"""


def page(verdicts: Sequence[Verdict], document: Mapping[str, Any]) -> str:
    """Give the page of a drill; `document` is its JSON form, for settings, versions and machine."""
    passed = all(verdict.passed for verdict in verdicts)
    leaked = [verdict.scenario.name for verdict in verdicts if not verdict.passed]
    said = f"the cap held in {len(verdicts)} of {len(verdicts)} storms" if passed else ", ".join(leaked)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>bursar drill: {_word(passed)}</title><style>{_STYLE}{STYLE}</style></head><body><main>",
        f"<h1>bursar drill: {_coloured(passed)}</h1><p>{escape(said)}</p>",
        _overview(verdicts),
        *(_section(verdict) for verdict in verdicts),
        "<h2>Settings</h2>",
        _list(_shown(document["settings"])),
        "<h2>Versions</h2>",
        _list(_shown(document["versions"])),
        "<h2>Machine</h2>",
        _list(_shown(document["machine"])),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _overview(verdicts: Sequence[Verdict]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("storm", "cap", "over by", "used", "verdict"))
    rows = "".join(
        f"<tr><td>{escape(verdict.scenario.name)}</td><td>{shown(figures.cap, figures.unit)}</td>"
        f"<td>{shown(figures.over, figures.unit)}</td><td>{percent_of(figures.used, figures.cap)}</td>"
        f"<td>{_coloured(verdict.passed)}</td></tr>"
        for verdict in verdicts
        for figures in (verdict.figures,)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _section(verdict: Verdict) -> str:
    scenario = verdict.scenario
    checks = "".join(
        f"<li><b class={'ok' if check.ok else 'bad'}>{'✓' if check.ok else '✗'}</b>"
        f"{escape(check.name)}: <span class=soft>{escape(check.found)}</span></li>"
        for check in verdict.checks
    )
    return (
        f"<h2>{escape(scenario.name)}: {_coloured(verdict.passed)}</h2><p>{escape(scenario.says)}</p>"
        f"<p class=soft>{escape(scenario.where)}, seed {scenario.seed}</p>"
        f"<figure>{figure(timeline(scenario, verdict.measured))}</figure>"
        f"<ul>{checks}</ul>{_list(facts(verdict))}"
    )


def _list(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs) + "</dl>"


def _shown(fields: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    return ((name.replace("_", " "), str(value)) for name, value in fields.items() if value is not None)


def _word(passed: bool) -> str:
    return "PASS" if passed else "FAIL"


def _coloured(passed: bool) -> str:
    return f"<b class={'ok' if passed else 'bad'}>{_word(passed)}</b>"
