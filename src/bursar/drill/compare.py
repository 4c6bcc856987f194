"""Two drills beside each other, from their JSON: what changed, and whether the second is worse; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bursar.drill.report import FORMAT
from bursar.drill.verdict import shown

USABLE_POINTS = 2
REFUSAL_TIMES, REFUSAL_US = 2, 10_000
# What may differ from drill to drill, on a busy machine, without being worse: points of the cap, and how slow a refusal
# is: so many times what it was, and so much more.


class NotADrillError(ValueError):
    """A file that `bursar drill --json` did not write, or wrote in another format."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing in which two drills differ."""

    scenario: str
    what: str
    before: str
    after: str
    is_worse: bool


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """Give what changed from one drill to the next; raises NotADrillError."""
    first, second = _by_name(before), _by_name(after)
    changes: list[Change] = []
    for name in first | second:
        if name not in second:
            changes.append(Change(name, "storm", "was run", "was not run", is_worse=True))
        elif name not in first:
            passed = bool(second[name]["passed"])
            changes.append(Change(name, "storm", "was not run", "passed" if passed else "failed", not passed))
        else:
            changes += _changes(name, first[name], second[name])
    return tuple(changes)


def _by_name(document: Any) -> dict[str, Mapping[str, Any]]:
    """Give the storms by name and store; one that was run twice counts as the last one."""
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise NotADrillError(f"is not the JSON of a drill of format {FORMAT}")
    try:
        found = {f"{storm['name']} on {storm['scenario']['store']}": storm for storm in document["scenarios"]}
        for storm in found.values():
            _changes("", storm, storm)
    except (KeyError, TypeError) as error:
        raise NotADrillError(f"lacks {error}") from None
    return found


def _changes(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    changes = []
    old, new = _verdicts(first), _verdicts(second)
    for check in old | new:
        if (was := old.get(check, "not checked")) != (now := new.get(check, "not checked")):
            changes.append(Change(name, check, was, now, is_worse=now == "failed" or was == "ok"))
    changes += _over(name, first["figures"], second["figures"])
    # In trouble it is chance how much is lost before the first refusal; the verdict has its own measure there.
    is_calm = not (_has_trouble(first) or _has_trouble(second))
    if is_calm and (was_used := _usable(first)) != (now_used := _usable(second)):
        is_worse = now_used + USABLE_POINTS * 10 < was_used
        used = f"{was_used // 10}.{was_used % 10}%", f"{now_used // 10}.{now_used % 10}%"
        changes.append(Change(name, "usable before the first refusal", *used, is_worse))
    return changes + _latency(name, first["figures"], second["figures"])


def _verdicts(storm: Mapping[str, Any]) -> dict[str, str]:
    return {check["name"]: "ok" if check["ok"] else "failed" for check in storm["checks"]}


def _has_trouble(storm: Mapping[str, Any]) -> bool:
    scenario = storm["scenario"]
    return bool(scenario["faults"] or scenario["blows"] or scenario["hang_up_percent"])


def _over(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    if first["over"] == second["over"] and first["unit"] == second["unit"]:
        return []
    was, now = shown(first["over"], first["unit"]), shown(second["over"], second["unit"])
    # By shares of the cap: the caps of the two may differ.
    is_worse = bool(second["over"] * max(1, first["cap"]) > first["over"] * max(1, second["cap"]))
    return [Change(name, "over the cap", was, now, is_worse)]


def _usable(storm: Mapping[str, Any]) -> int:
    """Give tenths of a percent of the cap that were billed when the first call was refused; what leaks is no use."""
    cap, used = int(storm["figures"]["cap"]), int(storm["figures"]["used_before_refusal"] or 0)
    return min(1_000, used * 1_000 // max(1, cap))


def _latency(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    was, now = first["refusal_us_median"], second["refusal_us_median"]
    if was == now:
        return []
    slower = was is not None and now is not None and now > was * REFUSAL_TIMES + REFUSAL_US
    return [Change(name, "refusal, median", _ms(was), _ms(now), slower)]


def _ms(microseconds: int | None) -> str:
    return "none" if microseconds is None else f"{microseconds // 1_000}.{microseconds % 1_000 // 100} ms"
