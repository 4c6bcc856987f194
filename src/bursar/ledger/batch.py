"""A batch: operations decided one after the other on the loaded books, and what has to be written for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from bursar.clock import Instant
from bursar.ledger import rolling, rules, telling
from bursar.ledger.account import (
    AccountState,
    Adjust,
    Answer,
    Authorize,
    Changed,
    Denied,
    Expire,
    OpenScope,
    Operation,
    Reason,
    SetLimit,
    SetState,
    Settle,
    Void,
)
from bursar.ledger.books import (
    AMOUNT_MAX,
    OWN_RUN_PREFIX,
    Balance,
    Books,
    Claim,
    Happening,
    HoldFacts,
    Line,
    Move,
    Plan,
    ScopeFacts,
    join,
    newest,
    scopes_of,
)
from bursar.ledger.periods import window_microseconds
from bursar.money import BrokenInvariantError, ensure


@dataclass(slots=True)
class Changes:
    """What a batch has to write; empty when it changed nothing."""

    balances: dict[str, Balance] = field(default_factory=dict)
    """Accounts that exist and whose amounts were changed."""
    terms: dict[str, Balance] = field(default_factory=dict)
    """Accounts that exist and whose limit or state was changed."""
    new_balances: list[Balance] = field(default_factory=list)
    holds: dict[str, HoldFacts] = field(default_factory=dict)
    """Holds that exist and were changed."""
    new_holds: dict[str, HoldFacts] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    scopes: list[ScopeFacts] = field(default_factory=list)
    quarantined: dict[str, Instant] = field(default_factory=dict)
    cleared: list[str] = field(default_factory=list)
    fenced: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """Refused calls per run scope."""
    past: list[Balance] = field(default_factory=list)
    """Accounts that no authorize looks at any more; none is new, for all of a batch is of one instant."""
    claims: dict[tuple[str, str], Claim] = field(default_factory=dict)
    """By account and call; to be written over what is there."""
    unclaimed: set[str] = field(default_factory=set)
    """Calls whose claims end."""
    happenings: dict[tuple[str, str], Happening] = field(default_factory=dict)
    """By kind and key; one that is in the outbox already is left as it is."""

    def __bool__(self) -> bool:
        return bool(self.lines or self.refused or self.fenced or self.past or self.claims or self.unclaimed)


@dataclass(slots=True)
class Needs:
    """Which rows a batch has to load before it can be decided."""

    calls: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """Those of the calls that are to end: where the books have no hold of one, it may have been folded away."""
    scopes: set[str] = field(default_factory=set)
    claims: bool = False
    """Whether the claims are asked for: all of them, for only calls that wait leave any."""
    workers: set[str] = field(default_factory=set)
    owners: bool = False
    """Whether the owners of the scopes are asked for."""
    opens: dict[str, int] = field(default_factory=dict)
    """Owners whose runs of the last hour count, with the most that have to be known."""
    expires: set[str] = field(default_factory=set)

    def count_openings(self, op: OpenScope) -> None:
        """Ask for the runs that the owner has opened in the last hour, where they are limited."""
        if op.runs_per_hour_max is not None:
            self.opens[op.owner] = max(op.runs_per_hour_max, self.opens.get(op.owner, 0))


def needs(operations: list[Operation]) -> Needs:
    """Say which rows these operations need; the accounts of loaded holds come on top."""
    need = Needs()
    for op in operations:
        match op:
            case Authorize():
                need.calls.append(op.call_id)
                need.scopes.update(op.scopes)
                need.scopes.update(op.also)
                need.workers.add(op.worker)
                need.claims = True
            case Settle():
                need.calls.append(op.call_id)
                need.ends.append(op.call_id)
                need.scopes.update(op.scopes)
                need.scopes.update(op.also)
                need.workers.add(op.worker)
            case Void():
                need.calls.append(op.call_id)
                need.ends.append(op.call_id)
                need.workers.add(op.worker)
            case Adjust():
                need.calls.append(op.call_id)
            case OpenScope():
                need.scopes.add(op.scope)
                need.owners = True
                need.count_openings(op)
            case SetLimit() | SetState():
                need.scopes.add(op.scope)
            case Expire():
                need.expires.add(op.worker)
            case _:
                pass
    return need


Outcome = Answer | BrokenInvariantError
"""What became of one operation of a batch."""


def decide(books: Books, operations: list[Operation], now: Instant) -> tuple[list[Outcome], Changes]:
    """Decide the operations in their order; one that breaks an invariant stops its own accounts and no other."""
    changes = Changes()
    answers: list[Outcome] = []
    for operation in operations:
        try:
            _turn(books, operation, changes, now)
            plan = rules.plan(books, operation, now)
            _check(plan)
        except (BrokenInvariantError, LookupError, TypeError, ValueError, AttributeError) as error:
            # Rows that do not fit together, or a bug: this operation fails, and nobody spends on what it is about.
            broken = error if isinstance(error, BrokenInvariantError) else BrokenInvariantError(repr(error))
            plan = _freeze(books, operation, now, str(broken))
            answers.append(broken)
        else:
            answers.append(plan.answer)
        _apply(books, plan, changes, now)
    return answers, changes


def _turn(books: Books, operation: Operation, changes: Changes, now: Instant) -> None:
    """Bring the accounts that an operation looks at into the period of now; what settles stays in its own."""
    match operation:
        case Authorize():
            scopes = operation.scopes + operation.also
        case SetLimit() | SetState():
            scopes = (operation.scope,)
        case _:
            return
    turn = rolling.turn(books, scopes, now)
    if turn:
        _apply_turn(books, turn, changes, now)


def _apply_turn(books: Books, turn: rolling.Turn, changes: Changes, now: Instant) -> None:
    for old, new in turn.next:
        books.names[new.name] = new
        path = books.scopes[old.scope]
        path[path.index(old)] = new
        if old.ends_at + window_microseconds(old.spec) > now:
            join(old, new)
            books.has_windows = True
        changes.new_balances.append(new)
    for gone in turn.gone:
        head = newest(gone)
        if head is not gone:
            head.earlier_held -= gone.held
            head.earlier_spent -= gone.captured + gone.overrun
            # No slot points to this one any more: older ones have left before it.
            gone.head = None
        changes.past.append(gone)
    changes.lines.extend(turn.lines)


def _check(plan: Plan) -> None:
    """Ensure that no balance of the plan would leave its bounds; nothing has been changed yet."""
    for balance, held, captured, overrun in plan.moves:
        after_held, after_captured = balance.held + held, balance.captured + captured
        if after_held < 0 or after_captured < 0 or not 0 <= balance.overrun + overrun <= AMOUNT_MAX:
            ensure(False, "I1: held, captured and overrun are never negative and can be counted", balance.name)
        ceiling = balance.ceiling
        if ceiling is not None and (held > 0 or captured > 0):
            ensure(after_held + after_captured <= ceiling, "I2: held and captured stay below the ceiling", balance.name)


def _freeze(books: Books, operation: Operation, now: Instant, why: str) -> Plan:
    """Stop the accounts that a broken invariant is about, so that nothing more is spent on them unseen."""
    scopes: list[str] = [*getattr(operation, "scopes", ()), *getattr(operation, "also", ())]
    hold = books.holds.get(getattr(operation, "call_id", ""))
    if hold is not None:
        scopes += scopes_of(hold.accounts)
    balances = [b for scope in dict.fromkeys(scopes) for b in books.scopes.get(scope, ()) if b.state == "open"]
    return rules.change_state(balances, AccountState.STOPPED, now, why) if balances else Plan(Changed())


def _apply(books: Books, plan: Plan, changes: Changes, now: Instant) -> None:
    for balance in plan.balances:
        books.add(balance)
        changes.new_balances.append(balance)
    _move(plan.moves, changes, now)
    for hold in plan.holds:
        call_id = hold.call_id
        is_new = call_id not in books.holds or call_id in changes.new_holds
        books.holds[call_id] = hold
        (changes.new_holds if is_new else changes.holds)[call_id] = hold
    changes.lines.extend(plan.lines)
    if plan.refused:
        for run in plan.refused:
            changes.refused[run] = changes.refused.get(run, 0) + 1
        denied = plan.answer
        if isinstance(denied, Denied) and denied.reason is Reason.EXHAUSTED and not _is_own(denied.scope):
            _tell(changes, telling.exhausted(denied, now))
    if books.claims or plan.claims:
        _apply_claims(books, plan, changes)
    if plan.states or plan.limits or plan.scopes or plan.quarantine or plan.clear or plan.fence:
        _apply_rare(books, plan, changes, now)


def _is_own(scope: str) -> bool:
    return scope.startswith(OWN_RUN_PREFIX)


def _apply_claims(books: Books, plan: Plan, changes: Changes) -> None:
    for claim in plan.claims:
        others = [other for other in books.claims.get(claim.account, ()) if other.call_id != claim.call_id]
        books.claims[claim.account] = [*others, claim]
        changes.claims[claim.account, claim.call_id] = claim
    if call_id := plan.waits_no_more:
        for account, claims in books.claims.items():
            if any(claim.call_id == call_id for claim in claims):
                books.claims[account] = [claim for claim in claims if claim.call_id != call_id]
                changes.claims.pop((account, call_id), None)
                changes.unclaimed.add(call_id)


def _move(moves: list[Move], changes: Changes, now: Instant) -> None:
    dirty = changes.balances
    for balance, held, captured, overrun in moves:
        balance.held += held
        balance.captured += captured
        balance.overrun += overrun
        head = balance
        if balance.head is not None:
            head = newest(balance)
            head.earlier_held += held
            head.earlier_spent += captured + overrun
        if head.limit and captured + overrun > 0:
            # The limit of a rolling window is about all of its slots, whichever of them this call is booked in.
            told = telling.passed(head, captured + overrun, now)
            if told is not None:
                _tell(changes, told)
        if balance.key is not None:
            dirty[balance.name] = balance


def _apply_rare(books: Books, plan: Plan, changes: Changes, now: Instant) -> None:
    for balance, state in plan.states:
        balance.state = state.value
        if balance.key is not None:
            changes.terms[balance.name] = balance
    for balance, limit, ceiling in plan.limits:
        balance.limit, balance.ceiling = limit, ceiling
        if balance.key is not None:
            changes.terms[balance.name] = balance
    for scope in plan.scopes:
        books.owners[scope.scope] = scope.owner
        if scope.scope.startswith("run:"):
            books.openings.setdefault(scope.owner, []).append(now)
        changes.scopes.append(scope)
    if plan.quarantine:
        _apply_quarantine(books, plan, changes, now)
    if plan.clear:
        books.quarantined.discard(plan.clear)
        changes.quarantined.pop(plan.clear, None)
        changes.cleared.append(plan.clear)
    if plan.fence and plan.fence not in books.fenced:
        books.fenced.add(plan.fence)
        changes.fenced.append(plan.fence)


def _apply_quarantine(books: Books, plan: Plan, changes: Changes, now: Instant) -> None:
    for hold in plan.holds:
        _tell(changes, telling.overrun(hold, now))
    if plan.quarantine not in books.quarantined:
        books.quarantined.add(plan.quarantine)
        changes.quarantined[plan.quarantine] = now
        _tell(changes, telling.quarantined(plan.quarantine, now))


def _tell(changes: Changes, told: Happening) -> None:
    changes.happenings.setdefault((told.kind, told.key), told)
