"""The rules of the ledger: what each operation may change. Pure; whatever the store, the decision is made here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    Account,
    AccountState,
    Adjust,
    Ask,
    Authorize,
    Changed,
    ClearModel,
    Conflict,
    Denied,
    Expire,
    Granted,
    HoldState,
    Note,
    Opened,
    OpenScope,
    Operation,
    Position,
    Reason,
    SetLimit,
    SetState,
    Settle,
    Taken,
    TooManyRuns,
    Unit,
    Void,
)
from bursar.ledger.books import (
    AMOUNT_MAX,
    CALLS,
    NOTHING,
    RUN_PREFIX,
    TOKENS,
    UNITS,
    USD,
    Balance,
    Books,
    Claim,
    HoldFacts,
    Line,
    Plan,
    ScopeFacts,
    Triple,
    encode,
    pack,
    quoted,
    scopes_of,
)
from bursar.ledger.endings import adjust, balances_of, expire, settle, void
from bursar.ledger.periods import LIFETIME, is_spec, named, slot_of
from bursar.ledger.rolling import resets_at
from bursar.money import ensure

HOUR = 3600 * SECOND
CLAIM_FRESH = 2 * SECOND
"""A claim that was not renewed for so long belongs to a call that is gone."""
CLAIM_RENEWED_AFTER = SECOND // 2
NONE_FITS = -1
"""Fewer than zero output tokens: the call does not fit even with no output."""


def plan(books: Books, operation: Operation, now: Instant) -> Plan:
    """Decide one operation on the books as they are; raises BrokenInvariantError and then changes nothing."""
    match operation:
        case Authorize():
            return authorize(books, operation, now)
        case Settle():
            return settle(books, operation, now)
        case Void():
            return void(books, operation, now)
        case OpenScope():
            return open_scope(books, operation, now)
        case Expire():
            return expire(books, operation, now)
        case SetLimit():
            return set_limit(books, operation, now)
        case SetState():
            return set_state(books, operation, now)
        case Adjust():
            return adjust(books, operation, now)
        case Note():
            return note(operation, now)
        case _:
            return clear_model(books, operation, now)


# ---- authorize ------------------------------------------------------------------------------------------------------


def authorize(books: Books, op: Authorize, now: Instant) -> Plan:
    """Set the quote aside on every account of every scope, or take nothing anywhere."""
    known = books.holds.get(op.call_id)
    if known is not None:
        return _authorize_again(books, op, known)
    if op.worker in books.fenced:
        why = "this worker was declared dead and its holds were captured"
        return Plan(Conflict(op.call_id, why, fenced=True))
    if op.model in books.quarantined:
        return _refuse(op, Denied(Reason.QUARANTINED, scope=f"model:{op.model}"))
    path = _path(books, op)
    if isinstance(path, Denied):
        return _refuse(op, path)
    output_tokens = _affordable_output(path, op)
    if not isinstance(output_tokens, Denied) and books.claims and not op.is_last_try:
        output_tokens = _ahead(books, path, op, now) or output_tokens
    if isinstance(output_tokens, Denied):
        denied = replace(output_tokens, resets_at=resets_at(books, books.names[output_tokens.account]))
        return replace(_refuse(op, denied), claims=_claim(books, op, denied, now))
    return _grant(path, op, output_tokens, now)


def _ahead(books: Books, path: list[Balance], op: Authorize, now: Instant) -> Denied | None:
    """Give the account on which an older call waits elsewhere: what comes free there is that call's."""
    asked = op.ask.amounts(op.ask.tokens_wanted)
    for balance in path:
        claims = books.claims.get(balance.name)
        if claims and (amount := asked.of(UNITS[balance.unit])):
            mine = min(((c.since, c.call_id) for c in claims if c.call_id == op.call_id), default=(now, op.call_id))
            if any((c.since, c.call_id) < mine and c.at > now - CLAIM_FRESH for c in claims):
                return _denied(balance, Reason.HELD, asked=amount)
    return None


def _claim(books: Books, op: Authorize, denied: Denied, now: Instant) -> tuple[Claim, ...]:
    """Give the claim that the first of a line leaves where it is told to wait; a young one is not renewed."""
    if denied.reason is not Reason.HELD or op.is_last_try or not op.is_in_line:
        return ()
    mine = [claim for claim in books.claims.get(denied.account, ()) if claim.call_id == op.call_id]
    if mine and mine[0].at > now - CLAIM_RENEWED_AFTER:
        return ()
    return (Claim(denied.account, op.call_id, op.worker, mine[0].since if mine else now, now),)


def _path(books: Books, op: Authorize) -> list[Balance] | Denied:
    """Give every account of every scope once, or say which scope is unknown or does not authorize."""
    path: list[Balance] = []
    # A scope named twice must not be charged twice for one check.
    for scope in dict.fromkeys(op.scopes) or ("",):
        balances = books.scopes.get(scope)
        if not balances:
            return Denied(Reason.UNKNOWN_SCOPE, scope=scope)
        path += balances
    for scope in dict.fromkeys(op.also):
        if scope not in op.scopes:
            path += books.scopes.get(scope, ())
    for balance in path:
        if balance.state != "open":
            reason = Reason.STOPPED if balance.state == "stopped" else Reason.OVERRUN
            return _denied(balance, reason, asked=0)
    return path


def _affordable_output(path: list[Balance], op: Authorize) -> int | Denied:
    """Give the output tokens to grant: what is wanted, or a fair part of what is there, or say who has too little."""
    ask = op.ask
    negative = min(ask.usd_fixed, ask.tokens_fixed, ask.picodollars_per_output_token, ask.choices)
    ensure(min(negative, ask.tokens_wanted, ask.tokens_floor, ask.tokens_comfort) >= 0, "I0: nothing negative is asked")
    all_of_it = ask.amounts(ask.tokens_wanted)
    need = (all_of_it.usd, 1, all_of_it.tokens)
    for balance in path:
        limit = AMOUNT_MAX if balance.limit is None else balance.limit
        amount = need[balance.unit]
        used = balance.captured + balance.held + balance.overrun + balance.earlier_held + balance.earlier_spent
        # What costs nothing is never blocked by money, also where the limit is below what is spent.
        if amount and used + amount > limit:
            return _part(path, op)
    return ask.tokens_wanted


def _part(path: list[Balance], op: Authorize) -> int | Denied:
    """Not all that is wanted fits now: give a part, or the account that is spent, or the one that others hold."""
    ask = op.ask
    best_t, spent = _fits(path, ask, [0] * len(path))
    now_t, full = _fits(path, ask, [balance.held + balance.earlier_held for balance in path])
    floor = min(ask.tokens_floor, ask.tokens_wanted)
    if best_t < floor:
        return _denied(spent, Reason.EXHAUSTED, asked=_least(ask, floor, spent))
    enough = max(_enough(op, best_t), floor)
    if now_t < enough:
        return _denied(full, Reason.HELD, asked=_least(ask, enough, full))
    # A part only, so that one large bound does not lock everybody else out of what is left.
    return max(enough, min(now_t, max(ask.tokens_comfort, now_t // 4)))


def _fits(path: list[Balance], ask: Ask, held: list[int]) -> tuple[int, Balance]:
    """Give the most output tokens that every account can pay for, and the account that can pay for the fewest."""
    terms = (
        (ask.usd_fixed, ask.picodollars_per_output_token, 1000),
        (1, 0, 1),
        (ask.tokens_fixed, ask.choices, 1),
    )
    fewest, tightest = ask.tokens_wanted, path[0]
    for balance, kept in zip(path, held, strict=True):
        limit = AMOUNT_MAX if balance.limit is None else balance.limit
        room = limit - balance.captured - balance.overrun - balance.earlier_spent - kept
        tokens = _tokens_within(room, *terms[balance.unit], ask.tokens_wanted)
        if tokens < fewest:
            fewest, tightest = tokens, balance
    return fewest, tightest


def _enough(op: Authorize, best_t: int) -> int:
    """Give the bound below which this call rather waits for money that others hold."""
    ask = op.ask
    if op.is_last_try:
        return min(ask.tokens_floor, ask.tokens_wanted)
    if ask.client_bounded and best_t >= ask.tokens_wanted:
        return ask.tokens_wanted
    return min(ask.tokens_comfort, ask.tokens_wanted, best_t)


def _tokens_within(room: int, fixed: int, each: int, scale: int, wanted: int) -> int:
    """Give the most output tokens, up to `wanted`, whose cost is within the room; NONE_FITS when not even none is."""
    if fixed > room:
        if fixed:
            return NONE_FITS
        return 0 if each else wanted
    if not each:
        return wanted
    fits = (room - fixed) * scale // each
    return min(fits, wanted)


def _least(ask: Ask, output_tokens: int, balance: Balance) -> int:
    return ask.amounts(output_tokens).of(UNITS[balance.unit])


def _grant(path: list[Balance], op: Authorize, output_tokens: int, now: Instant) -> Plan:
    held = op.ask.amounts(output_tokens)
    take = (held.usd, held.calls, held.tokens)
    ensure(held.usd <= AMOUNT_MAX and held.tokens <= AMOUNT_MAX, "I0: a hold can be counted", op.call_id)
    accounts = pack(tuple([balance.name for balance in path]))
    hold = HoldFacts(
        op.call_id, op.worker, "open", accounts, *take, 0, 0, 0, 0, 0, 0,
        output_tokens, op.model, op.upstream, now, None, "", "",
    )  # fmt: skip
    detail = f'{{"output_tokens":{output_tokens},"model":{quoted(op.model)},"upstream":{quoted(op.upstream)}}}'
    return Plan(
        Granted(op.call_id, output_tokens, held, _left(path, take)),
        moves=[(balance, take[balance.unit], 0, 0) for balance in path],
        holds=(hold,),
        lines=(Line(now, "authorize", op.call_id, op.worker, *take, accounts, detail),),
        waits_no_more=op.call_id,
    )


def _left(path: list[Balance], take: Triple) -> Position:
    """Give what the tightest account of each unit has left after `take`."""
    left: dict[int, int] = {}
    for balance in path:
        limit = balance.limit
        if limit is not None:
            unit = balance.unit
            earlier = balance.earlier_held + balance.earlier_spent
            rest = limit - balance.captured - balance.held - balance.overrun - earlier - take[unit]
            if unit not in left or rest < left[unit]:
                left[unit] = rest if rest > 0 else 0
    return Position(left.get(USD), left.get(CALLS), left.get(TOKENS))


def _authorize_again(books: Books, op: Authorize, known: HoldFacts) -> Plan:
    """Answer a repeated authorize as the first time, with the hold as it is now; other facts are a conflict."""
    held = op.ask.amounts(known.output_tokens)
    same = (
        known.worker == op.worker
        and _is_path(scopes_of(known.accounts), op)
        and (known.model, known.upstream) == (op.model, op.upstream)
        and known.held == (held.usd, held.calls, held.tokens)
        and known.output_tokens <= op.ask.tokens_wanted
    )
    if not same:
        return Plan(Conflict(op.call_id, f"this call id is {known.state} with other facts"))
    left = _left(balances_of(books, known), NOTHING)
    return Plan(Granted(op.call_id, known.output_tokens, held, left, HoldState(known.state)))


def _is_path(scopes: tuple[str, ...], op: Authorize) -> bool:
    """Say whether a hold was taken where this authorize would take it; what counts besides may have come since."""
    named = tuple(dict.fromkeys(op.scopes))
    return scopes[: len(named)] == named and {*scopes[len(named) :]} <= {*op.also}


def _refuse(op: Authorize, denied: Denied) -> Plan:
    """Give the refusal, counted on the runs of the path; one that only has to wait is not counted."""
    if denied.reason is Reason.HELD and not op.is_last_try:
        return Plan(denied)
    runs = tuple(scope for scope in dict.fromkeys(op.scopes) if scope.startswith(RUN_PREFIX))
    return Plan(denied, refused=runs, waits_no_more=op.call_id)


def _denied(balance: Balance, reason: Reason, asked: int) -> Denied:
    return Denied(
        reason,
        scope=balance.scope,
        account=balance.name,
        unit=UNITS[balance.unit],
        limit=AMOUNT_MAX if balance.limit is None else balance.limit,
        # An overrun is spent money too: leave it out and the refusal would not add up.
        captured=balance.captured + balance.overrun + balance.earlier_spent,
        held=balance.held + balance.earlier_held,
        asked=asked,
    )


# ---- scopes, limits, states -----------------------------------------------------------------------------------------


def open_scope(books: Books, op: OpenScope, now: Instant) -> Plan:
    """Open the accounts of a scope, once: usd and calls always, tokens when they are limited."""
    owner = books.owners.get(op.scope)
    if owner is not None:
        if owner != op.owner:
            return Plan(Taken(op.scope, owner))
        return Plan(Opened(_accounts(books.scopes[op.scope]), created=False))
    limits = (op.limits.usd, op.limits.calls, op.limits.tokens)
    ensure(all(x is None or 0 <= x <= AMOUNT_MAX for x in limits), "I0: a limit is zero or more", op.scope, limits)
    if op.runs_per_hour_max is not None:
        opened = [at for at in books.openings.get(op.owner, []) if at > now - HOUR]
        if len(opened) >= op.runs_per_hour_max:
            first = opened[-op.runs_per_hour_max] if op.runs_per_hour_max else now
            return Plan(TooManyRuns(op.owner, op.runs_per_hour_max, Instant(first + HOUR)))
    budgets = [(u, x, LIFETIME) for u, x in zip(UNITS, limits, strict=True) if u is not UNITS[TOKENS] or x is not None]
    budgets += [(budget.unit, budget.limit, budget.period) for budget in op.budgets]
    ensure(len({(unit, spec) for unit, _, spec in budgets}) == len(budgets), "I0: one budget per unit and period", op)
    new = tuple(_fresh(op.scope, unit, limit, spec, now) for unit, limit, spec in budgets)
    detail = {
        "scope": op.scope,
        "owner": op.owner,
        "label": op.label,
        "limits": [b.limit for b in new],
        "ends_at": [b.ends_at for b in new],
    }
    accounts = pack(tuple(balance.name for balance in new))
    return Plan(
        Opened(_accounts(new), created=True),
        lines=(Line(now, "open", "", "", 0, 0, 0, accounts, encode(detail)),),
        balances=new,
        scopes=(ScopeFacts(op.scope, op.owner, op.label, now, pack(op.path)),),
    )


def _fresh(scope: str, unit: Unit, limit: int | None, spec: str, now: Instant, state: str = "open") -> Balance:
    """Give a new account in the slot of its period that is now."""
    ensure(limit is None or 0 <= limit <= AMOUNT_MAX, "I0: a limit is zero or more", scope, limit)
    ensure(is_spec(spec), "I0: a period is one that the calendar knows", scope, spec)
    slot = slot_of(spec, now)
    return Balance(None, scope, unit.value, named(spec, slot.starts_at), limit, limit, 0, 0, 0, state, *slot)


def set_limit(books: Books, op: SetLimit, now: Instant) -> Plan:
    """Set a limit, also below what is spent: nothing more is then authorized, and what is held may still settle."""
    ensure(op.limit is None or 0 <= op.limit <= AMOUNT_MAX, "I0: a limit is zero or more", op)
    balances = books.scopes.get(op.scope)
    opened: tuple[ScopeFacts, ...] = ()
    if balances is None:
        if not op.opens:
            return Plan(Conflict("", f"there is no account of {op.scope}"))
        balances, opened = [], (ScopeFacts(op.scope, "", "", now),)
    unit = UNITS.index(op.unit)
    balance = next((b for b in balances if b.unit == unit and b.spec == op.period), None)
    new: tuple[Balance, ...] = ()
    if balance is None:
        # Tokens, and what a period has a limit for, are counted from the moment when somebody limits them.
        balance = _fresh(op.scope, op.unit, None, op.period, now, balances[0].state if balances else "open")
        new = (balance,)
    ceiling = None if op.limit is None else max(op.limit, balance.held + balance.captured)
    detail = encode({"limit": op.limit, "state": balance.state, "ends_at": balance.ends_at, "by": op.by})
    after = tuple(
        replace(b.account(), limit=op.limit, ceiling=ceiling) if b is balance else b.account()
        for b in (*balances, *new)
    )
    return Plan(
        Changed(after, count=1),
        lines=(Line(now, "limit", "", "", 0, 0, 0, pack((balance.name,)), detail),),
        balances=new,
        scopes=opened,
        limits=((balance, op.limit, ceiling),),
    )


def set_state(books: Books, op: SetState, now: Instant) -> Plan:
    """Stop or resume every account of a scope."""
    balances = books.scopes.get(op.scope)
    if balances is None:
        return Plan(Conflict("", f"there is no account of {op.scope}"))
    return change_state(balances, op.state, now, "", op.by)


def change_state(balances: list[Balance], state: AccountState, now: Instant, why: str, by: str = "") -> Plan:
    """Put accounts into a state, whatever they were in."""
    names = tuple(balance.name for balance in balances)
    detail = encode({"state": state.value, "why": why, "by": by})
    after = tuple(replace(balance.account(), state=state) for balance in balances)
    return Plan(
        Changed(after, count=len(after)),
        lines=(Line(now, "state", "", "", 0, 0, 0, pack(names), detail),),
        states=tuple((balance, state) for balance in balances),
    )


def note(op: Note, now: Instant) -> Plan:
    """Write down who changed what; no account is touched."""
    detail = {"by": op.by, "what": op.what, "subject": op.subject, "before": op.before, "after": op.after}
    return Plan(Changed(count=1), lines=(Line(now, "note", "", "", 0, 0, 0, "[]", encode(detail)),))


def clear_model(books: Books, op: ClearModel, now: Instant) -> Plan:
    """Take a model out of quarantine; one that is not in it is left alone."""
    if op.model not in books.quarantined:
        return Plan(Changed(count=0))
    line = Line(now, "clear", "", "", 0, 0, 0, "[]", encode({"model": op.model}))
    return Plan(Changed(count=1), lines=(line,), clear=op.model)


def _accounts(balances: Iterable[Balance]) -> tuple[Account, ...]:
    return tuple(balance.account() for balance in balances)
