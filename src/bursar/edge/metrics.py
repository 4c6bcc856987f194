"""What Prometheus reads at `/metrics`: counts of all workers of this gateway, and what the ledger says now.

No metric is a total that decides about money: the ledger is the only one. Labels are names of models that have a
price, of upstreams and of refusals, so that no client can make up new ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from bursar.clock import SECOND, Instant
from bursar.edge.canary import NAME as CANARY
from bursar.events import CallDenied, CallGranted, CallRefused, CallSettled, Event
from bursar.ledger.store import LedgerUnavailableError, QuarantineRow, Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where the workers of one gateway keep their counts, so that whichever is asked can add them up."""
_USD = 1e-9


class Metrics:
    """Counts what happens in this process; a listener of its events."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        is_shared = bool(os.environ.get(FOLDER_VARIABLE))
        where = None if is_shared else self._registry
        if is_shared:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]

        def counter(name: str, says: str, *labels: str) -> _Counts:
            return _Counts(Counter(f"bursar_{name}", says, labels, registry=where))

        def gauge(name: str, says: str) -> Gauge:
            return Gauge(f"bursar_{name}", says, registry=where, multiprocess_mode="livemin")

        self._granted = counter("calls_granted", "Calls that were paid for and sent.", "upstream", "model", "clamped")
        self._settled = counter("calls_settled", "Calls whose hold has ended, by how.", "model", "basis")
        self._captured = counter("captured_usd", "USD booked for calls, overruns included.", "model", "basis")
        self._overruns = counter("overruns", "Calls that did cost more than was held for them.", "model")
        self._overrun = counter("overrun_usd", "USD that overruns cost above what was held.", "model")
        self._overrun_held = counter("overrun_held_usd", "USD that was held for the calls that went over.", "model")
        # Of several workers, the one that is worst off speaks for all; one that has ended does not.
        self._canary_up = gauge("canary_up", "1 while every worker has proven that a spent cap refuses.")
        self._canary_proven = gauge("canary_proven_timestamp_seconds", "When the cap was last proven, in every worker.")
        self._refused = counter("refusals", "Requests that were refused and not sent.", "code", "status")

    def note(self, event: Event) -> None:
        """Count an event; what the canary does is nobody's call."""
        if event.key == CANARY:
            return
        match event:
            case CallGranted():
                self._granted.add(1, event.upstream, event.model, "yes" if event.was_clamped else "no")
            case CallSettled():
                self._note_settled(event)
            case CallDenied():
                self._refused.add(1, f"cap_{event.reason}", str(event.status))
            case CallRefused():
                self._refused.add(1, event.code, str(event.status))

    def note_canary(self, is_green: bool, proven_at: Instant) -> None:
        """Note what the last canary has proved, and when the cap was last proven; 0 for never."""
        self._canary_up.set(is_green)
        self._canary_proven.set(proven_at / SECOND)

    def _note_settled(self, event: CallSettled) -> None:
        basis = "void" if event.state == "void" else "presumed" if event.why else "metered"
        self._settled.add(1, event.model, basis)
        self._captured.add((event.captured_nanodollars + event.overrun_nanodollars) * _USD, event.model, basis)
        if event.overrun_nanodollars or event.overrun_tokens:
            self._overruns.add(1, event.model)
            self._overrun.add(event.overrun_nanodollars * _USD, event.model)
            self._overrun_held.add(event.held_nanodollars * _USD, event.model)

    async def text(self, store: Store) -> bytes:
        """Write all metrics in Prometheus' text format."""
        try:
            quarantined: tuple[QuarantineRow, ...] | None = await store.quarantined()
        except LedgerUnavailableError:
            quarantined = None
        now = CollectorRegistry()
        proven = self._registry.get_sample_value("bursar_canary_proven_timestamp_seconds")
        now.register(_Now(quarantined, max(time.time() - proven, 0) if proven else None))
        return generate_latest(self._registry) + generate_latest(now)


def forget_worker(folder: str, pid: int) -> None:
    """Take a worker that has ended out of what only holds for those that live."""
    for path in Path(folder).glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)


class _Counts:
    """A counter whose series are found without the library's own look-up, which takes a lock for each call."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._series: dict[tuple[str, ...], Any] = {}

    def add(self, amount: float, *labels: str) -> None:
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = self._counter.labels(*labels)
        series.inc(amount)


class _Now:
    """What the ledger says at this moment."""

    def __init__(self, quarantined: Iterable[QuarantineRow] | None, canary_seconds: float | None) -> None:
        self._quarantined = quarantined
        self._canary_seconds = canary_seconds

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if self._canary_seconds is not None:
            says = "Seconds since the cap was last proven in every worker."
            yield GaugeMetricFamily("bursar_canary_seconds_since", says, value=self._canary_seconds)
        is_there = self._quarantined is not None
        yield GaugeMetricFamily("bursar_ledger_up", "1 while the ledger can be read.", value=float(is_there))
        held = GaugeMetricFamily(
            "bursar_quarantine_held_usd", "USD held for the call that put a model into quarantine.", labels=["model"]
        )
        cost = GaugeMetricFamily("bursar_quarantine_cost_usd", "USD that this call did cost.", labels=["model"])
        for row in self._quarantined or ():
            held.add_metric([row.model], row.held.usd * _USD)
            cost.add_metric([row.model], row.cost.usd * _USD)
        yield held
        yield cost
