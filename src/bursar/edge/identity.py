"""Who is spending: one function turns a request into its account path, and the money path takes only its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bursar.call import Body, Refused
from bursar.clock import Instant
from bursar.dialects.body import RefusedError, shown, unreadable
from bursar.edge import labels
from bursar.edge.callers import ANY_USER, Caller
from bursar.edge.runs import BAGGAGE_RUN, OWN_RUN, PARENT, Named, Runs, named
from bursar.ledger.account import Taken, TooManyRuns

OWN_PREFIX = "x-bursar-"
OWN_HEADERS = frozenset({OWN_RUN, PARENT, labels.OWN_TAGS, labels.OWN_USER})
OWN_BAGGAGE = frozenset({BAGGAGE_RUN, labels.BAGGAGE_USERS[0]})
"""In the baggage, beside the tags."""
ORGANISATION = "org"
"""The scope of everybody's budget."""


@dataclass(frozen=True, slots=True)
class AccountPath:
    """Whose accounts must agree before a call is sent."""

    run: str
    scopes: tuple[str, ...]
    """Those that must exist: the run, the runs it is part of, the key."""
    also: tuple[str, ...]
    """Those that count where somebody set a budget: organisation, team, user, tags."""


NOBODY = AccountPath("", (), ())
"""The path of a call that is refused before anybody could pay."""


@dataclass(frozen=True, slots=True)
class Asked:
    """All of a request that may say who is spending."""

    in_path: str
    """The run that the path names, or nothing."""
    headers: Mapping[str, str]
    body: Body | None
    """None where the request costs nothing."""
    in_body: tuple[str, ...]
    """Session names that the body carries."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a request says about who is spending, as far as its key lets it."""

    named: Named
    user: str
    """Empty where nobody is named."""
    tags: Mapping[str, str]
    """All but those that the run was opened with."""

    @property
    def run(self) -> str:
        """Give the name of the run."""
        return self.named.run


def claims(caller: Caller, asked: Asked, now: Instant) -> Claims | Refused:
    """Read who is spending from every place where that may be said; what contradicts itself or the key is refused."""
    try:
        _ensure_known(asked.headers)
        tags = labels.tags(asked.headers, asked.body)
        return Claims(
            named(caller, asked.in_path, asked.headers, asked.in_body, now),
            _user(caller, asked),
            {**tags, **_fixed(caller, tags)},
        )
    except RefusedError as error:
        return error.refused


async def account_path(runs: Runs, caller: Caller, claimed: Claims) -> AccountPath | Refused | Taken | TooManyRuns:
    """Put the accounts of a call together, with its run opened on first sight; raises LedgerUnavailableError."""
    run_path = await runs.admit(caller, claimed.named)
    if not isinstance(run_path, tuple):
        return run_path
    of_run = tuple(scope for scope in run_path if not scope.startswith("run:"))
    tags = {f"tag:{name}={value}" if value else f"tag:{name}": name for name, value in claimed.tags.items()}
    if problem := _of_the_run(caller, claimed, of_run):
        return problem
    return put_together(caller, claimed.run, run_path, claimed.user, tuple(tags))


def standing_path(caller: Caller, run: str, run_path: tuple[str, ...]) -> AccountPath:
    """Give the accounts that every call of a key meets (in a run, where one is named), whatever else the call says."""
    user = "" if caller.user == ANY_USER else caller.user
    return put_together(caller, run, run_path, user, tuple(f"tag:{tag}" for tag in caller.tags))


def put_together(caller: Caller, run: str, run_path: tuple[str, ...], user: str, tags: tuple[str, ...]) -> AccountPath:
    """Put a path together; `run_path` is what the run was opened with: its parents and its tags."""
    parents = tuple(scope for scope in run_path if scope.startswith("run:"))
    of_run = tuple(scope for scope in run_path if not scope.startswith("run:"))
    who = (ORGANISATION, *_scope("team", caller.team), *_scope("user", user))
    scopes = (*_scope("run", run), *parents, caller.scope)
    return AccountPath(run, scopes, tuple(dict.fromkeys((*who, *tags, *of_run))))


def _ensure_known(headers: Mapping[str, str]) -> None:
    """Refuse bursar's own words misspelt: a tag that is not read would count for nothing; raises RefusedError."""
    for header in headers:
        if header.startswith(OWN_PREFIX) and header not in OWN_HEADERS:
            raise unreadable(f"there is no header {shown(header)}; there are {', '.join(sorted(OWN_HEADERS))}")
    for name, _ in labels.baggage(headers):
        if name.startswith("bursar.") and not name.startswith(labels.BAGGAGE_TAG) and name not in OWN_BAGGAGE:
            known = ", ".join((*sorted(OWN_BAGGAGE), f"{labels.BAGGAGE_TAG}NAME"))
            raise unreadable(f"nothing in the header baggage is named {shown(name)}; there are {known}")


def _scope(kind: str, name: str) -> tuple[str, ...]:
    return (f"{kind}:{name}",) if name else ()


def _split(tag: str) -> tuple[str, str]:
    name, _, value = tag.removeprefix("tag:").partition("=")
    return name, value


def _fixed(caller: Caller, tags: Mapping[str, str]) -> dict[str, str]:
    """Give the tags of the key; raises RefusedError where the client says something else."""
    fixed = dict(map(_split, caller.tags))
    for name, value in fixed.items():
        if tags.get(name, value) != value:
            raise _forbidden(f"the tag {name} of key {caller.key} is {value!r}; no client can change it")
    return fixed


def _of_the_run(caller: Caller, claimed: Claims, of_run: tuple[str, ...]) -> Refused | None:
    """Say what is wrong with the tags of a call in a run that has tags of its own."""
    own = dict(_split(scope) for scope in of_run if scope.startswith("tag:"))
    for name, value in own.items():
        if claimed.tags.get(name, value) != value:
            message = f"the tag {name} of run {claimed.run} is {value!r}; no client can change it"
            return _forbidden(message).refused
    missing = [name for name in caller.tags_required if name not in claimed.tags and name not in own]
    if missing:
        example = f"send for example the header {labels.OWN_TAGS}: {missing[0]}=VALUE"
        return Refused(400, "tag_required", f"key {caller.key} takes no call without the tag {missing[0]}; {example}")
    return None


def _user(caller: Caller, asked: Asked) -> str:
    """Give whose budget pays as well: the key's user, or the one that the client names where the key lets it."""
    if caller.user == ANY_USER:
        user = labels.user(asked.headers, asked.body)
        if not user and asked.body is not None:
            example = f"send for example the header {labels.OWN_USER}: NAME"
            message = f"key {caller.key} takes no call without a user; {example}"
            raise RefusedError(Refused(400, "user_required", message))
        return user
    for said in labels.own_users(asked.headers):
        if said.value != caller.user:
            whose = f"is {caller.user!r}" if caller.user else "is not the client's to name"
            raise _forbidden(f"the user of key {caller.key} {whose}; take {said.where} out")
    return caller.user


def _forbidden(message: str) -> RefusedError:
    return RefusedError(Refused(403, "identity_not_allowed", message))
