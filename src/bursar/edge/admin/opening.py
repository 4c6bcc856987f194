"""Opens runs on request: each with caps, a key of its own, and what else pays for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.edge.admin.books import Problem, new_run, no_run
from bursar.edge.callers import Caller, digest, new_run_secret, template_to_json, terms_to_json
from bursar.edge.runs import PARENTS_MAX
from bursar.ledger.account import Limits, Note, OpenScope, Taken, TooManyRuns
from bursar.ledger.store import RunRow, Store

PATH_MAX = 32
"""Parents and tags of one run."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run as somebody wants it."""

    limits: Limits
    label: str = ""
    parent: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run and the secret of its key."""

    row: RunRow
    secret: str


async def open_run(store: Store, holder: Caller, wanted: Wanted, by: str) -> OpenedRun | Problem:
    """Open a run of the holder's key; raises LedgerUnavailableError."""
    path = await _path(store, holder, wanted)
    if isinstance(path, Problem):
        return path
    if wanted.limits == Limits():
        return Problem(422, "invalid", "a run needs at least one of usd, calls and tokens")
    run, secret = new_run(), new_run_secret()
    answer = await store.submit(
        OpenScope(
            scope=f"run:{run}",
            owner=holder.scope,
            limits=wanted.limits,
            runs_per_hour_max=holder.runs_per_hour_max,
            label=wanted.label,
            path=path,
        )
    )
    if isinstance(answer, TooManyRuns):
        most = answer.runs_per_hour_max
        return Problem(429, "too_many_runs", f"{holder.scope} has opened its {most} runs of this hour")
    row = await store.run(run)
    if isinstance(answer, Taken) or row is None:
        return Problem(409, "taken", f"the run {run} is there already; ask again")
    await store.submit(Note(by, "run opened", f"run:{run}"))
    await store.put_key(
        holder.key, digest(secret), run, template_to_json(wanted.limits), terms_of(holder), holder.expires_at
    )
    return OpenedRun(row, secret)


def within(template: Limits, asked: Limits) -> Limits | Problem:
    """Fill what is not asked for from the template; more than that is refused."""
    for unit in ("usd", "calls", "tokens"):
        most, wanted = getattr(template, unit), getattr(asked, unit)
        if most is not None and wanted is not None and wanted > most:
            return Problem(403, "above_template", f"{unit}: the runs of this key have at most {most}, in the unit")
    return filled(template, asked)


def filled(template: Limits, asked: Limits) -> Limits:
    """Fill what is not asked for from the template."""
    said = {unit: getattr(asked, unit) for unit in ("usd", "calls", "tokens") if getattr(asked, unit) is not None}
    return replace(template, **said)


def terms_of(holder: Caller) -> str:
    """Give what a key of this holder's run may do: no more than the holder."""
    names = ("team", "user", "tags", "tags_required", "models", "upstreams", "networks")
    return terms_to_json({name: getattr(holder, name) for name in names})


async def _path(store: Store, holder: Caller, wanted: Wanted) -> tuple[str, ...] | Problem:
    parents: tuple[str, ...] = ()
    if wanted.parent:
        row = await store.run(wanted.parent)
        if row is None or row.owner != holder.scope:
            return no_run(wanted.parent)
        parents = (f"run:{wanted.parent}", *(await store.path_of(f"run:{wanted.parent}") or ()))
    tags = (*parents, *(f"tag:{tag}" for tag in wanted.tags))
    path = tuple(dict.fromkeys(tags))
    if len(path) > PATH_MAX or sum(scope.startswith("run:") for scope in path) > PARENTS_MAX:
        return Problem(422, "invalid", f"a run has at most {PARENTS_MAX} parents, and {PATH_MAX} parents and tags")
    said = [scope.removeprefix("tag:") for scope in path if scope.startswith("tag:")]
    for tag in said:
        name = tag.partition("=")[0]
        other = next((one for one in (*holder.tags, *said) if one.partition("=")[0] == name and one != tag), None)
        if other is not None:
            return Problem(422, "contradiction", f"the tag {name} is {other} elsewhere on this path; it has one value")
    return path
