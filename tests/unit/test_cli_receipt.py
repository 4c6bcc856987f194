"""What the receipt of a run says."""

from __future__ import annotations

from bursar.cli.receipt import Receipt, Tally
from bursar.events import CallDenied, CallGranted, CallRefused, CallSettled
from bursar.ledger.account import Account, Unit

RUN = "r-1"


def granted(run: str = RUN) -> CallGranted:
    return CallGranted("c", run, "local", "openai", "m", 10, 100, False)


def settled(state: str = "captured", why: str = "", usd: int = 5) -> CallSettled:
    return CallSettled("c", RUN, "local", "m", state, usd, 0, why)


def denied(reason: str) -> CallDenied:
    return CallDenied("c", RUN, "local", "m", reason, "run:r-1/usd/lifetime", "usd", 1, 1, 0, 1)


def account(unit: Unit, limit: int | None, captured: int, held: int = 0, overrun: int = 0) -> Account:
    return Account("run:r-1", unit, "lifetime", limit, limit, held=held, captured=captured, overrun=overrun)


def receipt(
    *accounts: Account, tally: Tally | None = None, seconds: float = 1.25, was_stopped: bool = False
) -> Receipt:
    return Receipt(RUN, accounts, tally or Tally(RUN), seconds, 0, was_stopped)


def test_the_tally_counts_its_own_run_only() -> None:
    tally = Tally(RUN)
    for event in (granted(), granted("other"), granted(), settled()):
        tally.note(event)
    assert (tally.calls, tally.in_flight, tally.presumed) == (2, 1, 0)


def test_what_is_booked_for_want_of_knowledge_is_counted_and_what_is_void_is_not() -> None:
    tally = Tally(RUN)
    for event in (settled(why="the connection broke", usd=7), settled("void", "never sent", 0), settled(usd=9)):
        tally.note(event)
    assert (tally.presumed, tally.presumed_nanodollars) == (1, 7)


def test_only_a_cap_that_no_wait_lifts_is_the_end() -> None:
    for reason, is_end in (("held", False), ("exhausted", True), ("stopped", True), ("overrun", True)):
        tally = Tally(RUN)
        tally.note(denied(reason))
        assert (tally.refused, tally.has_hit_the_cap) == (1, is_end)


def test_a_call_that_failed_was_not_refused() -> None:
    tally = Tally(RUN)
    tally.note(CallRefused("c", RUN, "local", 400, "unbounded"))
    assert (tally.refused, tally.failed, tally.has_hit_the_cap) == (1, 0, False)
    tally.note(CallRefused("c", RUN, "local", 502, "upstream_failed"))
    assert (tally.refused, tally.failed, tally.has_hit_the_cap) == (1, 1, False)
    assert tally.refused_with == {400: 1}
    assert "1 call failed on the way to the provider or back" in receipt(tally=tally).lines()


def test_the_receipt_says_what_was_spent_of_what() -> None:
    lines = receipt(account(Unit.USD, 5_000_000_000, 1_230_000_000), account(Unit.CALLS, None, 12)).lines()
    assert lines == ["run r-1: spent $1.23 of $5.00, 12 calls, in 1.2s", "resume with: bursar run --run r-1 -- COMMAND"]


def test_the_receipt_names_all_that_is_out_of_the_ordinary() -> None:
    tally = Tally(RUN, refused=1, presumed=2, presumed_nanodollars=20_000_000)
    usd = account(Unit.USD, 1_000_000_000, 900_000_000, held=1_000_000, overrun=5_000_000)
    text = "\n".join(receipt(usd, tally=tally, was_stopped=True).lines())
    for part in (
        "ended at the cap",
        "1 call refused",
        "2 calls booked whole ($0.02)",
        "$0.001 is still held",
        "OVERRUN",
    ):
        assert part in text


def test_programs_get_exact_figures() -> None:
    usd = account(Unit.USD, None, 1, overrun=2)
    facts = receipt(usd, account(Unit.CALLS, 9, 3), account(Unit.TOKENS, 1000, 400), seconds=0.12349).facts()
    assert (facts["spent_usd"], facts["cap_usd"], facts["overrun_usd"]) == ("0.000000001", None, "0.000000002")
    assert (facts["calls"], facts["cap_calls"], facts["tokens"], facts["cap_tokens"]) == (3, 9, 400, 1000)
    assert facts["seconds"] == 0.123
    assert receipt(usd).facts()["tokens"] is None


def test_durations_read_well() -> None:
    assert [receipt(seconds=s).lines()[0].rpartition("in ")[2] for s in (0.04, 61, 7384)] == [
        "0.0s",
        "1m 01s",
        "2h 03m",
    ]
