"""An overrun is told to the operator with both figures, whoever else listens."""

from __future__ import annotations

import logging

import pytest

from bursar.events import CallSettled, EventBus


def settled(usd: int = 0, tokens: int = 0) -> CallSettled:
    return CallSettled(
        "c-1", "r-1", "ci", "gpt-5", "captured", 30, usd, "", held_nanodollars=30, captured_tokens=9,
        overrun_tokens=tokens, held_tokens=9,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (settled(usd=20), "c-1 cost 50 nanodollars and 9 tokens, 30 and 9 were held"),
        (settled(tokens=3), "c-1 cost 30 nanodollars and 12 tokens, 30 and 9 were held"),
    ],
)
def test_an_overrun_in_either_unit_is_an_error_that_says_what_to_do(
    event: CallSettled, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bursar"):
        EventBus().emit(event)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"overrun: {said}; its run is stopped, and gpt-5 is let through no more until" in record.message
    assert "`bursar prices clear gpt-5`" in record.message


def test_an_ordinary_end_is_told_to_those_who_ask_only(caplog: pytest.LogCaptureFixture) -> None:
    bus = EventBus()
    with caplog.at_level(logging.WARNING, "bursar"):
        assert not bus.has_listeners
        bus.emit(settled())
    assert not caplog.records
    with caplog.at_level(logging.INFO, "bursar"):
        assert bus.has_listeners
        bus.emit(settled())
    assert "CallSettled" in caplog.text
