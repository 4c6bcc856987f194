"""What a webhook is sent: ids and amounts of what happened, signed as the Standard Webhooks specification says."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import hashlib
import hmac
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from bursar.clock import SECOND, Instant
from bursar.edge.refusals import amount, shown
from bursar.ledger.account import Unit
from bursar.ledger.periods import LIFETIME, people, spec_of
from bursar.ledger.store import HappeningRow
from bursar.upstream.fetch import FetchError, fetch

SECONDS_MAX = 15.0
"""A receiver has to answer within this time."""
SECRET_PREFIX = "whsec_"  # noqa: S105
SECRET_BYTES_MIN = 24
SAID_CHARACTERS_MAX = 200
_FIGURES = ("limit", "spent", "asked", "held")
_COSTS = ("held", "captured", "overrun")


class SecretError(ValueError):
    """Not a secret that a webhook can be signed with; the message never shows it."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where what happened is told, and how."""

    name: str
    url: str
    secrets: tuple[bytes, ...] = ()
    """Each signs, so that a secret can be replaced while both count; without one nothing is signed."""
    kinds: tuple[str, ...] = ()
    """What it is told of; empty: of everything."""
    is_slack: bool = False

    @property
    def place(self) -> str:
        """Give the host for people: the path may be the secret."""
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, or why nothing did (status 0)."""

    status: int
    said: str

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has taken it."""
        return 200 <= self.status < 300

    @property
    def is_final(self) -> bool:
        """Whether the receiver says that it takes nothing any more."""
        return self.status == 410


def read_secrets(text: str) -> tuple[bytes, ...]:
    """Read one or more secrets with blanks between them; raises SecretError."""
    return tuple(_secret(word) for word in text.split())


def _secret(word: str) -> bytes:
    advice = f'is not a webhook secret; make one with: echo "{SECRET_PREFIX}$(openssl rand -base64 32)"'
    if not word.startswith(SECRET_PREFIX):
        raise SecretError(advice)
    try:
        secret = base64.b64decode(word.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise SecretError(advice) from None
    if len(secret) < SECRET_BYTES_MIN:
        raise SecretError(f"is shorter than {SECRET_BYTES_MIN} bytes; {advice}")
    return secret


# ---- what is said ---------------------------------------------------------------------------------------------------


def event_id(row: HappeningRow) -> str:
    """Give the id of a happening: the same at every attempt and gateway, and never that of another one."""
    # Not the number of its row: a ledger that is restored from a backup gives the same numbers again.
    text = json.dumps([row.kind, row.key, row.at, row.subject])
    return f"evt_{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def facts(row: HappeningRow) -> dict[str, object]:
    """Give a happening as programs read it: amounts of USD as decimal strings, counts as numbers."""
    known: dict[str, object] = {"id": event_id(row), "kind": row.kind, "at": _iso(row.at), "subject": row.subject}
    return {**known, **_account(row), **{name: _figure(row, name, value) for name, value in row.detail.items()}}


def _account(row: HappeningRow) -> dict[str, object]:
    if row.kind == "overrun":
        return {"call": row.subject}
    if "unit" not in row.detail:
        return {}
    scope, _, period = row.subject.rsplit("/", 2)
    return {"scope": scope, "period": people(spec_of(period))}


def _figure(row: HappeningRow, name: str, value: object) -> object:
    if isinstance(value, int) and name in _FIGURES and "unit" in row.detail:
        return amount(Unit(str(row.detail["unit"])), value)
    if isinstance(value, list) and name in _COSTS:
        return {str(unit): amount(unit, one) for unit, one in zip(Unit, value, strict=True)}
    return value


def sentence(row: HappeningRow) -> str:
    """Give a happening as people read it, in one line."""
    text = _sentence(row, facts(row))
    return "".join(character if character.isprintable() else "?" for character in text)


def _sentence(row: HappeningRow, known: dict[str, object]) -> str:
    match row.kind:
        case "threshold":
            return f"{known['scope']} has spent {known['percent']}% of its {_budget(row)}: {_shown(row, 'spent')}"
        case "exhausted":
            return (
                f"{known['scope']} is at its {_budget(row)}: a call that may take up to {_shown(row, 'asked')} was "
                f"refused, {_shown(row, 'spent')} is spent"
            )
        case "overrun":
            return (
                f"the call {row.subject} to {known['model']} at {known['upstream']} cost more than was held for it, by "
                f"{_costs(known['overrun'])}; its run is stopped"
            )
        case "quarantine":
            return (
                f"{row.subject} is let through no more: it cost more than was held for it; see `bursar prices show "
                f"{row.subject}`, then `bursar prices clear {row.subject}`"
            )
        case "loop":
            tools = known.get("tools")
            what = (
                f"the tools {', '.join(map(str, tools))}" if isinstance(tools, list) and tools else "the same request"
            )
            return f"{row.subject} repeats {what} and is refused ({known.get('count')} times by now)"
        case "asking":
            return (
                f"{known['scope']} is at its {_budget(row)}, and a call waits up to {known['seconds']} seconds for "
                f"more: `{_raise(row)}`"
            )
        case "canary":
            state = "green again" if known["state"] == "green" else "red, and no call is let through there"
            return f"the canary of worker {known['worker']} is {state}" + (f": {known['why']}" if known["why"] else "")
        case "test":
            return "a test of this webhook; nothing has happened"
        case _:
            return f"{row.kind}: {row.subject} {json.dumps(row.detail)}"


def _raise(row: HappeningRow) -> str:
    """Give the command with which a person lets the call go on."""
    scope, unit, period = row.subject.rsplit("/", 2)
    if scope.startswith("run:") and spec_of(period) == LIFETIME:
        return f"bursar runs raise {scope.removeprefix('run:')} --{unit} CAP"
    kind, _, zone = spec_of(period).partition("@")
    return f"bursar budgets set {scope} --{unit} CAP --period '{kind.replace('-', ' ')}'" + (
        f" --timezone {zone.replace(':', '/')}" if zone else ""
    )


def _budget(row: HappeningRow) -> str:
    spec = spec_of(row.subject.rpartition("/")[2])
    return f"cap of {_shown(row, 'limit')}" + ("" if spec == LIFETIME else f" per {people(spec)}")


def _shown(row: HappeningRow, name: str) -> str:
    value = row.detail[name]
    return shown(Unit(str(row.detail["unit"])), value) if isinstance(value, int) else str(value)


def _costs(amounts: object) -> str:
    named = amounts if isinstance(amounts, dict) else {}
    return " and ".join(f"{value} {unit}" for unit, value in named.items() if value not in (0, "0.00"))


def _iso(at: Instant) -> str:
    return datetime.datetime.fromtimestamp(at / SECOND, datetime.UTC).isoformat(timespec="milliseconds")


# ---- how it is sent -------------------------------------------------------------------------------------------------


def body(webhook: Webhook, row: HappeningRow) -> bytes:
    """Give what is sent: the facts, or for Slack the sentence."""
    if not webhook.is_slack:
        return json.dumps(facts(row)).encode()
    # The names are the agents': without this one of them could call the whole channel.
    text = sentence(row).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps({"text": f"bursar: {text}"}).encode()


def headers(webhook: Webhook, row: HappeningRow, sent: bytes, now: Instant) -> dict[str, str]:
    """Give the headers of one attempt; the signature covers the id, the time of this attempt and the body."""
    number, moment = event_id(row), str(now // SECOND)
    named = {
        "content-type": "application/json",
        "user-agent": "bursar",
        "webhook-id": number,
        "webhook-timestamp": moment,
    }
    if webhook.secrets:
        signed = f"{number}.{moment}.".encode() + sent
        named["webhook-signature"] = " ".join(f"v1,{_signature(secret, signed)}" for secret in webhook.secrets)
    return named


def _signature(secret: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


async def send(webhook: Webhook, row: HappeningRow, now: Instant) -> Answer:
    """Tell a webhook of a happening, once; what goes wrong is an answer, too."""
    sent = body(webhook, row)
    try:
        async with asyncio.timeout(SECONDS_MAX):
            fetched = await fetch("POST", webhook.url, headers(webhook, row, sent, now), sent)
    except TimeoutError:
        return Answer(0, f"no answer within {SECONDS_MAX:.0f} seconds")
    except FetchError as error:
        return Answer(0, str(error))
    text = "".join(c if c.isprintable() else " " for c in fetched.data.decode("utf-8", "replace"))
    return Answer(fetched.status, f"status {fetched.status} {' '.join(text.split())[:SAID_CHARACTERS_MAX]}".rstrip())
