"""Fuzz from the request to the bill: `python tests/fuzz/fuzz_money.py --seconds 600 --seed 1 [--keep]`.

It breaks the pairs of the golden corpus, request and reply, and looks for anything but a refusal, a bill of more than
nothing, or the reason why there is none; for a hold of nothing; for a reply that reaches the client changed; and, where
the pair is whole, for a reply that was cut off and then costs less than the whole of it. A finding is printed with its
seed, and the exit status is 1.
--keep writes the smallest input of every outcome to tests/fuzz/corpus, beside those that are there; the tests replay
them.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import random
import re
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from fuzz_parsers import mutated

from bursar.call import Call, Refused, ServerTool, Unmetered, Usage
from bursar.clock import Instant
from bursar.dialects.protocol import Quirks, Request
from bursar.dialects.table import find
from bursar.ledger.hold import ask_of
from bursar.money import Money
from bursar.pricing.bill import bill
from bursar.pricing.book import Book
from bursar.pricing.quote import OutputPolicy, Quote, worst_case

HERE = Path(__file__).parent
KEPT = HERE / "corpus"
KEPT_BYTES_MAX = 3_000
NOON = Instant(1_795_435_200_000_000)
PRICES = {name: name for name in ("openai", "anthropic", "deepseek", "mistral", "groq")} | {
    "gemini": "google",
    "xai": "x-ai",
    "bedrock": "bedrock",
}
BOOK = Book({}, PRICES)
QUIRKS = Quirks(server_tools=frozenset(ServerTool))
_DETAIL = re.compile(r"`[^`]*`|'[^']*'|\"[^\"]*\"|\d+|\([^)]*\)|: \S+$")


def _corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus_sums", HERE.parent / "golden" / "corpus" / "corpus_sums.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Case:
    """A request with its reply, whatever is wrong with them."""

    path: str
    upstream: str
    headers: dict[str, str]
    request: bytes
    reply: bytes
    content_type: str
    status: int

    def stored(self) -> str:
        """Give the case as a line of text."""
        text = {"request": base64.b64encode(self.request).decode(), "reply": base64.b64encode(self.reply).decode()}
        return json.dumps({**self.__dict__, **text})

    @classmethod
    def read(cls, text: str) -> Case:
        """Read a line."""
        found: dict[str, Any] = json.loads(text)
        found |= {name: base64.b64decode(found[name]) for name in ("request", "reply")}
        return cls(**found)


def originals() -> list[Case]:
    """Give the pairs of the golden corpus; long ones would only be slow."""
    sums = _corpus()
    found = []
    for _file, pair in sums.pairs():
        route, reply = find(pair["path"]), pair["reply"]
        assert route is not None
        kind = "text/event-stream" if "events" in reply else reply.get("content_type", "application/json")
        upstream, headers, status = (
            pair.get("upstream", route.upstream),
            pair.get("headers", {}),
            reply.get("status", 200),
        )
        request, raw = sums.request_bytes(pair), sums.reply_bytes(pair)
        if len(request) + len(raw) < 20_000:
            found.append(Case(route.path, upstream, headers, request, raw, kind, status))
    return found


def outcome(case: Case, chance: random.Random) -> str:
    """Take a case from request to bill and say what became of it; raises AssertionError for what must not be."""
    route = find(case.path)
    assert route is not None
    call = route.dialect.parse(Request(case.upstream, case.path, case.headers, case.request, QUIRKS))
    assert isinstance(call, Call | Refused), call
    if isinstance(call, Refused):
        assert call.message
        assert 400 <= call.status < 500
        return f"refused: {_DETAIL.sub('~', call.message)}"
    quote = worst_case(call, BOOK, NOON, OutputPolicy())
    if not isinstance(quote, Quote):
        return "unpriced"
    held = ask_of(quote).amounts(quote.output_tokens).usd
    assert held > 0, "a hold of nothing"
    usage, received = _metered(case, call, chance)
    if case.content_type != "text/event-stream" or call.wants_usage or "/completions" not in case.path:
        assert received == case.reply, "the reply was changed"
    cost = bill(usage, quote) if isinstance(usage, Usage) else usage
    if isinstance(cost, Unmetered):
        assert cost.why
        return f"held: {_DETAIL.sub('~', cost.why)}"
    assert cost > Money(0), f"a bill of nothing for {usage}"
    return (
        f"billed{' dear' if cost.nanodollars > held else ''} in {'events' if 'event' in case.content_type else 'JSON'}"
    )


def _metered(case: Case, call: Call, chance: random.Random) -> tuple[Usage | Unmetered, bytes]:
    route = find(case.path)
    assert route is not None
    meter = route.dialect.meter(call, case.status, case.content_type)
    received, at = b"", 0
    step = chance.choice([1, 7, 64, 100_000])
    while at < len(case.reply):
        received += meter.feed(case.reply[at : at + step])
        at += step
    rest, usage = meter.finish()
    assert isinstance(usage, Usage | Unmetered), usage
    return usage, received + rest


def check_cuts(case: Case, chance: random.Random, cuts: int) -> None:
    """See that the beginning of a reply never has a bill below that of the whole reply."""
    route = find(case.path)
    assert route is not None
    call = route.dialect.parse(Request(case.upstream, case.path, case.headers, case.request, QUIRKS))
    assert isinstance(call, Call), call
    quote = worst_case(call, BOOK, NOON, OutputPolicy())
    assert isinstance(quote, Quote), quote
    whole = _cost(case, call, quote, chance)
    for _ in range(cuts):
        cut = replace(case, reply=case.reply[: chance.randrange(len(case.reply) or 1)])
        cost = _cost(cut, call, quote, chance)
        assert cost >= whole, f"cut at {len(cut.reply)} it costs {cost}, whole {whole}"


def _cost(case: Case, call: Call, quote: Quote, chance: random.Random) -> Money:
    """Give the bill, or the hold where there is none."""
    usage, _received = _metered(case, call, chance)
    cost = bill(usage, quote) if isinstance(usage, Usage) else usage
    return cost if isinstance(cost, Money) else Money(ask_of(quote).amounts(quote.output_tokens).usd)


def broken(chance: random.Random, cases: list[Case]) -> Case:
    """Give a case with something wrong in its request, its reply, or in both; now and then the reply of another."""
    case, other = chance.choice(cases), chance.choice(cases)
    kind = chance.choice([case.content_type] * 5 + ["application/json", "text/event-stream"])
    reply = chance.choice([case, case, case, other]).reply
    changed = {"request": case.request, "reply": reply, "content_type": kind}
    for name in chance.choice([["request"], ["reply"], ["reply"], ["request", "reply"]]):
        changed[name] = mutated(chance, changed[name])  # type: ignore[arg-type]
    return Case(**{**case.__dict__, **changed})


def main(arguments: list[str]) -> int:
    """Run for so many seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    cases = originals()
    smallest = known()
    end, tried = time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        chance = random.Random(f"{options.seed}:{tried}")
        case = broken(chance, cases)
        try:
            found = outcome(case, chance)
            check_cuts(chance.choice(cases), chance, 1)
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            traceback.print_exc()
            print(f"found with seed {options.seed} at input {tried}:\n{case.stored()}", flush=True)
            return 1
        tried += 1
        key = (find(case.path).dialect.name, found)  # type: ignore[union-attr]
        kept = smallest.get(key)
        if kept is None or len(case.request) + len(case.reply) < len(kept.request) + len(kept.reply):
            smallest[key] = case
    print(f"{tried} inputs, {len(smallest)} outcomes, nothing found", flush=True)
    if options.keep:
        keep(smallest)
    return 0


def keep(smallest: dict[tuple[str, str], Case]) -> None:
    """Write the cases that are not too long: a file for each dialect, a line for each outcome."""
    KEPT.mkdir(exist_ok=True)
    lines: dict[str, list[str]] = {}
    for (dialect, _found), case in sorted(smallest.items()):
        if len(case.request) + len(case.reply) <= KEPT_BYTES_MAX:
            lines.setdefault(dialect, []).append(case.stored())
    for dialect, stored in lines.items():
        (KEPT / f"{dialect}.jsonl").write_text("\n".join(stored) + "\n", encoding="utf-8")


def known() -> dict[tuple[str, str], Case]:
    """Give the kept cases by dialect and outcome."""
    return {(find(case.path).dialect.name, outcome(case, random.Random(0))): case for _name, case in kept()}  # type: ignore[union-attr]


def kept() -> list[tuple[str, Case]]:
    """Give the kept cases, with a name for each."""
    return [
        (f"{file.stem}-{number}", Case.read(line))
        for file in sorted(KEPT.glob("*.jsonl"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
