"""The rules for the end of a hold: settle, void, expire, adjust. Pure; a part of `rules`."""

from __future__ import annotations

from bursar.clock import Instant
from bursar.ledger.account import (
    AccountState,
    Adjust,
    Amounts,
    Basis,
    Changed,
    Conflict,
    Expire,
    HoldState,
    Settle,
    Settled,
    Void,
)
from bursar.ledger.books import (
    AMOUNT_MAX,
    HOLD_STATES,
    NO_AMOUNTS,
    NOTHING,
    RUN_PREFIX,
    UNITS,
    Balance,
    Books,
    HoldFacts,
    Line,
    Move,
    Plan,
    ScopeFacts,
    Triple,
    amounts,
    encode,
    pack,
    quoted,
    unpack,
)
from bursar.ledger.periods import LIFETIME
from bursar.money import ensure

_FENCED = "this worker was declared dead; it has to go on under a new identity"
# Not looked at by an authorize: only a worker that was declared dead could still ask for a call as old as that.
_FOLDED = "this call was booked and folded away long ago; what the provider billed for it shows in a reconciliation"


def settle(books: Books, op: Settle, now: Instant) -> Plan:
    """Turn a hold into spend; never refused for lack of funds, and never dropped, whatever became of the hold."""
    if op.worker in books.fenced:
        return Plan(Conflict(op.call_id, _FENCED, fenced=True))
    actual = None if op.actual is None else _triple(op.actual)
    hold = books.holds.get(op.call_id)
    if hold is None:
        if op.call_id in books.folded:
            return Plan(Conflict(op.call_id, _FOLDED))
        return _settle_unknown(books, op, now, None)
    actual = actual or hold.held
    match hold.state:
        case "open":
            captured, overrun = _split(actual, hold.held)
            back = tuple(-amount for amount in hold.held)
            return _end(books, op, hold, now, (back, captured, overrun))
        case "captured":
            return _settle_again(op, hold, actual)
        case "expired":
            if actual == hold.held:
                return Plan(_settled(hold, repeated=True))
            captured, overrun = _split(actual, hold.held)
            return _end(books, op, hold, now, (NOTHING, _minus(captured, hold.captured), overrun))
        case _:
            return _settle_void(books, op, hold, now)


def _end(
    books: Books, op: Settle, hold: HoldFacts, now: Instant, change: tuple[tuple[int, ...], tuple[int, ...], Triple]
) -> Plan:
    """Write the end of a hold: `change` is what is added to held, captured and overrun."""
    back, more, overrun = change
    captured = _plus(hold.captured, more)
    ended = hold.ended(HoldState.CAPTURED, captured, overrun, now, op.basis.value, op.why)
    path = balances_of(books, hold)
    line = _line(now, "capture", op, captured, hold.accounts, _capture_detail(op, overrun))
    moves = [(b, back[b.unit], more[b.unit], overrun[b.unit]) for b in path]
    if overrun == NOTHING:
        return Plan(_settled(ended), moves=moves, holds=(ended,), lines=(line,))
    lines = [line]
    if hold.model and hold.model not in books.quarantined:
        lines.append(_line(now, "quarantine", op, NOTHING, "[]", encode({"model": hold.model})))
    return Plan(
        _settled(ended),
        moves=moves,
        holds=(ended,),
        lines=tuple(lines),
        states=_stop_runs(books, {balance.scope for balance in path}),
        quarantine=hold.model,
    )


def _capture_detail(op: Settle, overrun: Triple) -> str:
    usd, calls, tokens = overrun
    why, usage = quoted(op.why), quoted(op.usage)
    return f'{{"basis":"{op.basis.value}","why":{why},"usage":{usage},"overrun":[{usd},{calls},{tokens}]}}'


def _settle_again(op: Settle, hold: HoldFacts, actual: Triple) -> Plan:
    """A repeated settle is a no-op; another amount is a conflict, but evidence that came later stands."""
    if hold.basis == Basis.ADJUSTED.value or _plus(hold.captured, hold.overrun) == actual:
        return Plan(_settled(hold, repeated=True))
    booked = _plus(hold.captured, hold.overrun)
    return Plan(Conflict(op.call_id, f"already settled with {booked}, now {actual} (usd, calls, tokens)"))


def _settle_void(books: Books, op: Settle, hold: HoldFacts, now: Instant) -> Plan:
    """A call that was voided did cost money after all: book it as overrun, where it was held or where it says."""
    if hold.accounts == "[]":
        return _settle_unknown(books, op, now, hold)
    overrun = hold.held if op.actual is None else _triple(op.actual)
    return _end(books, op, hold, now, (NOTHING, NOTHING, overrun))


def _settle_unknown(books: Books, op: Settle, now: Instant, tomb: HoldFacts | None) -> Plan:
    """The store has lost the hold, the provider has not lost the bill: book it as overrun on the named scopes."""
    actual = _triple(op.held if op.actual is None else op.actual)
    new: list[Balance] = []
    path: list[Balance] = []
    for scope in dict.fromkeys(op.scopes):
        balances = books.scopes.get(scope)
        if balances is None:
            # The store lost the scope as well. Nothing more is authorized on it until an operator has looked.
            balances = [Balance(None, scope, unit.value, LIFETIME, 0, 0, state="overrun") for unit in UNITS]
            new += balances
        path += balances
    for scope in dict.fromkeys(op.also):
        if scope not in op.scopes:
            path += books.scopes.get(scope, ())
    accounts = pack(tuple(balance.name for balance in path))
    hold = HoldFacts(
        op.call_id, tomb.worker if tomb else op.worker, "captured", accounts, 0, 0, 0, 0, 0, 0, *actual,
        0, "", "", tomb.opened_at if tomb else now, now, op.basis.value, op.why,
    )  # fmt: skip
    known_scopes = {balance.scope for balance in path if balance.state == "open"}
    return Plan(
        _settled(hold),
        moves=[(balance, 0, 0, actual[balance.unit]) for balance in path],
        holds=(hold,),
        lines=(_line(now, "capture", op, NOTHING, accounts, _capture_detail(op, actual)),),
        balances=tuple(new),
        scopes=tuple(ScopeFacts(scope, "", "", now) for scope in dict.fromkeys(b.scope for b in new)),
        states=_stop_runs(books, known_scopes) if actual != NOTHING else (),
    )


def _stop_runs(books: Books, scopes: set[str]) -> tuple[tuple[Balance, AccountState], ...]:
    """Give the accounts of the runs among the scopes that an overrun stops."""
    return tuple(
        (balance, AccountState.OVERRUN)
        for scope in sorted(scopes)
        if scope.startswith(RUN_PREFIX)
        for balance in books.scopes[scope]
        if balance.state == "open"
    )


def void(books: Books, op: Void, now: Instant) -> Plan:
    """End a hold without spend, by its own worker only; an unknown call leaves a tombstone."""
    if op.worker in books.fenced:
        return Plan(Conflict(op.call_id, _FENCED, fenced=True))
    hold = books.holds.get(op.call_id)
    if op.call_id in books.folded:
        return Plan(Conflict(op.call_id, _FOLDED))
    if hold is None:
        # A delayed authorize with this id must not be granted after its caller has given up.
        tomb = HoldFacts(
            op.call_id, op.worker, "void", "[]", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "", "", now, now, "", op.proof
        )
        line = _line(now, "void", op, NOTHING, "[]", encode({"proof": op.proof}))
        return Plan(_settled(tomb), holds=(tomb,), lines=(line,))
    if hold.worker != op.worker:
        return Plan(Conflict(op.call_id, f"the hold belongs to worker {hold.worker}"))
    if hold.state == "void":
        return Plan(_settled(hold, repeated=True))
    if hold.state != "open":
        return Plan(Conflict(op.call_id, f"already {hold.state}"))
    ended = hold.ended(HoldState.VOID, NOTHING, NOTHING, now, "", op.proof)
    freed = hold.held
    return Plan(
        _settled(ended),
        moves=[(b, -freed[b.unit], 0, 0) for b in balances_of(books, hold)],
        holds=(ended,),
        lines=(_line(now, "void", op, hold.held, hold.accounts, encode({"proof": op.proof})),),
    )


def expire(books: Books, op: Expire, now: Instant) -> Plan:
    """Capture every open hold of a dead worker whole and fence it; a worker that lives is left alone."""
    if op.worker not in books.dead:
        return Plan(Conflict("", f"worker {op.worker} lives"))
    moves: list[Move] = []
    holds: list[HoldFacts] = []
    lines: list[Line] = []
    orphans = [hold for hold in books.holds.values() if hold.worker == op.worker and hold.state == "open"]
    for hold in sorted(orphans):
        held = hold.held
        why = "its worker died"
        holds.append(hold.ended(HoldState.EXPIRED, held, NOTHING, now, Basis.PRESUMED.value, why))
        moves += [(b, -held[b.unit], held[b.unit], 0) for b in balances_of(books, hold)]
        lines.append(Line(now, "expire", hold.call_id, op.worker, *held, hold.accounts, encode({"why": why})))
    calls = tuple(hold.call_id for hold in holds)
    return Plan(
        Changed(count=len(holds), calls=calls), moves=moves, holds=tuple(holds), lines=tuple(lines), fence=op.worker
    )


def adjust(books: Books, op: Adjust, now: Instant) -> Plan:
    """Correct a settled call with evidence: down lowers the capture, up is debt (others may have used the room)."""
    hold = books.holds.get(op.call_id)
    if hold is None or hold.state == "open" or hold.accounts == "[]":
        return Plan(Conflict(op.call_id, "there is no settled call of this id"))
    captured, overrun = _split(_triple(op.actual), hold.captured)
    adjusted = Basis.ADJUSTED.value
    if (hold.captured, hold.overrun, hold.basis) == (captured, overrun, adjusted):
        return Plan(_settled(hold, repeated=True))
    ended = hold.ended(HoldState.CAPTURED, captured, overrun, now, adjusted, op.evidence)
    more, debt = _minus(captured, hold.captured), _minus(overrun, hold.overrun)
    detail = encode({"evidence": op.evidence, "overrun": overrun})
    return Plan(
        _settled(ended),
        moves=[(b, 0, more[b.unit], debt[b.unit]) for b in balances_of(books, hold)],
        holds=(ended,),
        lines=(Line(now, "adjust", op.call_id, "", *captured, hold.accounts, detail),),
    )


def _line(now: Instant, kind: str, op: Settle | Void, triple: Triple, accounts: str, detail: str) -> Line:
    return Line(now, kind, op.call_id, op.worker, *triple, accounts, detail)


def _settled(hold: HoldFacts, *, repeated: bool = False) -> Settled:
    overrun = NO_AMOUNTS if hold.overrun == NOTHING else amounts(hold.overrun)
    return Settled(hold.call_id, HOLD_STATES[hold.state], amounts(hold.captured), overrun, repeated)


def balances_of(books: Books, hold: HoldFacts) -> list[Balance]:
    """Give the accounts that a hold was taken from; it settles there, wherever the path leads by now."""
    return [books.names[name] for name in unpack(hold.accounts)]


def _triple(given: Amounts) -> Triple:
    triple = (given.usd, given.calls, given.tokens)
    ensure(min(triple) >= 0 and max(triple) <= AMOUNT_MAX, "I0: an amount is zero or more and can be counted", triple)
    return triple


def _split(actual: Triple, covered: Triple) -> tuple[Triple, Triple]:
    """Part an amount into what is covered and what is above."""
    below = (min(actual[0], covered[0]), min(actual[1], covered[1]), min(actual[2], covered[2]))
    return below, _minus(actual, below)


def _plus(a: tuple[int, ...], b: tuple[int, ...]) -> Triple:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _minus(a: tuple[int, ...], b: tuple[int, ...]) -> Triple:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]
