"""The limits that the settings declare: they take effect when they change, and undo nothing that was set since."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bursar.ledger.account import Budget, SetLimit, Unit
from bursar.ledger.store import Store


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the settings say about the limits of a scope."""

    scope: str
    budgets: tuple[Budget, ...]

    def dropped(self, before: str) -> set[tuple[str, str]]:
        """Give unit and period of each budget that was declared before and is not any more."""
        now = {(str(budget.unit), budget.period) for budget in self.budgets}
        return {(unit, period) for unit, period, _ in json.loads(before or "[]")} - now

    def to_text(self) -> str:
        """Write the limits as the books remember them."""
        return json.dumps(sorted((budget.unit.value, budget.period, budget.limit) for budget in self.budgets))


async def declare(store: Store, declaration: Declaration) -> None:
    """Put declared limits in force where they are not what was declared before; raises LedgerUnavailableError.

    A gateway that starts again with the same settings leaves alone what an operator has set meanwhile: a limit that
    was lowered in an emergency must not come back because a worker was started anew.
    """
    text = declaration.to_text()
    before = await store.declared(declaration.scope)
    if before == text:
        return
    limits = {(budget.unit, budget.period): budget.limit for budget in declaration.budgets}
    # A budget that was taken out of the settings limits nothing any more.
    limits |= {(Unit(unit), period): None for unit, period in declaration.dropped(before)}
    for (unit, period), limit in limits.items():
        await store.submit(SetLimit(declaration.scope, unit, limit, period, opens=True))
    await store.declare(declaration.scope, text)
