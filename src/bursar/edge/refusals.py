"""What a refusal looks like, chosen so that the client that gets it stops: status, headers and body."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bursar.call import Refused
from bursar.clock import SECOND, Instant
from bursar.edge.callers import Unauthorized
from bursar.edge.loops import Looped
from bursar.ledger.account import Denied, Reason, Taken, TooManyRuns, Unit
from bursar.ledger.periods import LIFETIME, people, spec_of
from bursar.money import Money
from bursar.pricing.rates import Unpriced
from bursar.proxy import Failure

AUTO = 0
"""The refusal status that is chosen per client."""
TOO_MANY_REQUESTS = 429
PAYMENT_REQUIRED = 402
BAD_REQUEST = 400
UNPROCESSABLE = 422

# Measured, number of attempts on a refused call: these ignore `x-should-retry: false` on a 429, or hide its message.
# 402 stops them after one attempt; Codex and aider (by way of LiteLLM) retry even that, and stop at a 400.
STATUS_BY_CLIENT: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"^codex[_ -]", re.IGNORECASE), BAD_REQUEST),
    (re.compile(r"^litellm/", re.IGNORECASE), BAD_REQUEST),
    (re.compile(r"^aider", re.IGNORECASE), BAD_REQUEST),
    (re.compile(r"^opencode/", re.IGNORECASE), PAYMENT_REQUIRED),
    (re.compile(r"^QwenCode/", re.IGNORECASE), PAYMENT_REQUIRED),
    (re.compile(r"^GeminiCLI", re.IGNORECASE), PAYMENT_REQUIRED),
    (re.compile(r"langchain-google-genai/", re.IGNORECASE), PAYMENT_REQUIRED),
    (re.compile(r"(^|\s)ai(-sdk)?/", re.IGNORECASE), PAYMENT_REQUIRED),
    (re.compile(r"^(boto3|botocore|aws-sdk-[a-z0-9-]+)/", re.IGNORECASE), PAYMENT_REQUIRED),
)

Refusal = Refused | Unpriced | Denied | Failure | Unauthorized | Taken | TooManyRuns | Looped


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal, ready to be written in a dialect."""

    status: int
    code: str
    message: str
    details: Mapping[str, object]
    headers: tuple[tuple[str, str], ...]


_NO_RETRY = (("x-should-retry", "false"),)


def cap_status(user_agent: str, fixed: int) -> int:
    """Give the status of a spent cap: the fixed one, or the one that stops this client."""
    if fixed != AUTO:
        return fixed
    for pattern, status in STATUS_BY_CLIENT:
        if pattern.search(user_agent):
            return status
    return TOO_MANY_REQUESTS


def request_status(status: int, user_agent: str, fixed: int) -> int:
    """Give the status of a request that cannot be allowed: clients that only a 400 stops retry a 422, too."""
    if status == UNPROCESSABLE and cap_status(user_agent, fixed) == BAD_REQUEST:
        return BAD_REQUEST
    return status


def answer(refusal: Refusal, run: str, user_agent: str, fixed_status: int) -> Answer:
    """Turn a refusal into what the client gets."""
    match refusal:
        case Denied():
            denied = _denied(refusal, run, cap_status(user_agent, fixed_status))
            return replace(denied, status=request_status(denied.status, user_agent, fixed_status))
        case Taken():
            return _final(403, "run_taken", f"the run {run} belongs to another key; choose another name", run)
        case TooManyRuns():
            message = (
                f"{refusal.owner} has opened {refusal.runs_per_hour_max} runs within an hour, the most it may; "
                "use one of them, or ask an operator to raise runs_per_hour_max"
            )
            resets_at = _iso(refusal.resets_at)
            return Answer(
                cap_status(user_agent, fixed_status),
                "too_many_runs",
                message,
                {"run": run, "resets_at": resets_at},
                _NO_RETRY,
            )
        case Looped():
            return _looped(refusal, run, cap_status(user_agent, fixed_status))
        case Failure():
            return Answer(refusal.status, refusal.code, f"bursar: {refusal.message}", {"run": run}, ())
        case Refused() | Unpriced() | Unauthorized():
            status = request_status(refusal.status, user_agent, fixed_status)
            return _final(status, refusal.code, refusal.message, run)


def ledger_unavailable(run: str) -> Answer:
    """Nothing can be written, so nothing is sent; worth a retry soon."""
    message = "bursar: the ledger cannot be written now, so no call is let through; try again"
    return Answer(503, "ledger_unavailable", message, {"run": run}, (("retry-after", "1"),))


def canary_red(why: str) -> Answer:
    """Enforcement is not proven at the moment, so nothing is sent; worth a retry soon."""
    message = f"bursar: the gateway's own check of the cap has failed, so no call is let through ({why}); try again"
    return Answer(503, "ledger_unavailable", message, {}, (("retry-after", "5"),))


def _final(status: int, code: str, message: str, run: str) -> Answer:
    return Answer(status, code, f"bursar: {message}", {"run": run} if run else {}, _NO_RETRY)


def _looped(looped: Looped, run: str, status: int) -> Answer:
    """Name what repeats: tools and how often, never what they were given."""
    if looped.repeats == "tool":
        named = " and ".join(looped.tools[:_TOOLS_NAMED])
        said = f"called {named} {looped.count} times in a row with the same arguments and the same result"
        advice = "do something else, or stop here and report"
    else:
        said = f"was given an answer to the same request {looped.count} times in a row"
        advice = "change the request, or stop here and report"
    advice += "; where this is meant to be, an operator can set `loops` of the run or the key"
    details = {
        "run": run,
        "repeats": looped.repeats,
        "tools": list(looped.tools[:_TOOLS_NAMED]),
        "count": looped.count,
        "advice": advice,
    }
    return Answer(status, "loop_detected", f"bursar: the run {run} {said}; {advice}", details, _NO_RETRY)


_TOOLS_NAMED = 5

_ADVICE = {
    Reason.EXHAUSTED: "stop here and report; an operator can raise it with `bursar runs raise`",
    Reason.HELD: "calls in flight hold the rest; try again in a moment",
    Reason.STOPPED: "an operator stopped this; stop here and report",
    Reason.OVERRUN: "a call cost more than was held for it; an operator has to look at the books first",
    Reason.QUARANTINED: "this model billed more than was held for it; use another, or `bursar prices clear MODEL`",
    Reason.UNKNOWN_SCOPE: "the ledger does not know this account; make a new run or key",
}


def _denied(denied: Denied, run: str, status: int) -> Answer:
    details = {
        "scope": denied.scope,
        "account": denied.account,
        "unit": str(denied.unit),
        "period": _period(denied) or "lifetime",
        "limit": amount(denied.unit, denied.limit),
        "captured": amount(denied.unit, denied.captured),
        "held": amount(denied.unit, denied.held),
        "asked": amount(denied.unit, denied.asked),
        "resets_at": None if denied.resets_at is None else _iso(denied.resets_at),
        "run": run,
        "advice": _ADVICE[denied.reason],
    }
    match denied.reason:
        case Reason.EXHAUSTED:
            # "Spent" with money left, as a large prompt at a small cap has it, would send people looking for a mistake.
            is_spent = denied.captured + denied.held >= denied.limit
            message = _cap_message(denied, "is spent" if is_spent else "has too little left")
            return Answer(status, "cap_exhausted", message, details, _NO_RETRY)
        case Reason.HELD:
            message = _cap_message(denied, "is held by calls in flight")
            return Answer(TOO_MANY_REQUESTS, "cap_held", message, details, (("retry-after", "1"),))
        case Reason.STOPPED | Reason.OVERRUN:
            message = f"bursar: {denied.scope} is stopped; {_ADVICE[denied.reason]}"
            return Answer(status, "run_stopped", message, details, _NO_RETRY)
        case Reason.QUARANTINED:
            return Answer(422, "unpriced", f"bursar: {_ADVICE[denied.reason]}", details, _NO_RETRY)
        case Reason.UNKNOWN_SCOPE:
            message = f"bursar: {denied.scope} is not in the ledger; {_ADVICE[denied.reason]}"
            return Answer(403, "unknown_account", message, details, _NO_RETRY)


def _cap_message(denied: Denied, state: str) -> str:
    unit = denied.unit
    per = f" per {_period(denied)}" if _period(denied) else ""
    figures = f"{shown(unit, denied.captured)} spent, {shown(unit, denied.held)} held"
    asked = f"this call may take up to {shown(unit, denied.asked)}"
    advice = _ADVICE[denied.reason]
    if denied.reason is Reason.EXHAUSTED and denied.resets_at is not None:
        advice = f"there is more at {_iso(denied.resets_at)}; until then {advice}"
    return (
        f"bursar: the cap of {shown(unit, denied.limit)}{per} on {denied.scope} {state} ({figures}, {asked}); {advice}"
    )


def _period(denied: Denied) -> str:
    """Give the period of the budget that said no, as people write it; empty for the cap of a lifetime."""
    spec = spec_of(denied.account.rpartition("/")[2])
    return "" if spec == LIFETIME else people(spec)


def amount(unit: Unit, value: int) -> str | int:
    """Give an amount as programs read it: USD as a decimal string, counts as numbers."""
    return str(Money(value)) if unit is Unit.USD else value


def shown(unit: Unit, value: int) -> str:
    """Give an amount as people read it."""
    return f"${Money(value)}" if unit is Unit.USD else f"{value} {unit}"


def _iso(at: Instant) -> str:
    return datetime.datetime.fromtimestamp(at // SECOND, datetime.UTC).isoformat()
