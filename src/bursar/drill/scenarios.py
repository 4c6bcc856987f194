"""What the drill tries, as data: who storms, against which cap, and what goes wrong meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bursar.drill.agents import MODELS
from bursar.drill.faults import NAMED_FAULTS, Fault
from bursar.drill.places import STORE_FAULTS

DIALECTS = ("chat", "responses", "messages", "gemini")
KILL = "kill_worker"
PAUSE = "pause_worker"
"""Kill -9 of a gateway worker; and SIGSTOP for a while, its connection to a server cut, so that it counts as dead."""
WORKER_FAULTS = (KILL, PAUSE)
HANG_UP = "hang_up"
"""Clients that leave in the middle."""
HANG_UP_PERCENT = 15
FAULT_NAMES = (HANG_UP, *WORKER_FAULTS, *STORE_FAULTS, *NAMED_FAULTS)
STORES = ("sqlite", "postgres")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One storm of agents on one run with one cap."""

    name: str
    says: str
    """What it shows, for people."""
    cap_calls: int | None = None
    cap_nanodollars: int | None = None
    agents: int = 64
    workers: int = 4
    """Of each gateway."""
    gateways: int = 1
    """Processes of `bursar serve` on one ledger; the agents are shared out among them."""
    store: str = "sqlite"
    dialects: tuple[str, ...] = DIALECTS
    models: Mapping[str, str] = field(default_factory=lambda: MODELS)
    """By dialect."""
    streams: tuple[bool, ...] = (False, True)
    latency_ms: int = 200
    chunk_ms: int = 2
    prompt_bytes: tuple[int, int] = (2_000, 8_000)
    output_tokens: tuple[int, int] = (50, 400)
    max_tokens: int = 1_000
    unbounded_percent: int = 25
    """Share of the agents that send no output bound, where the API lets them."""
    growing_percent: int = 50
    """Share of the agents whose prompt grows with every answer."""
    hang_up_percent: int = 0
    faults: tuple[Fault, ...] = ()
    blows: tuple[str, ...] = ()
    """What befalls workers and store while the storm is on, in this order, each after a further part of the cap."""
    counts_input: bool = False
    """Whether the gateway may ask the provider for its free count of tokens, as it asks the real ones."""
    usable_percent_min: int = 90
    """How much of the cap must be billed when the first call is refused as the cap is spent; in trouble, booked."""
    seed: int = 1
    target: str = ""
    """The gateway that is stormed, when somebody else runs it."""
    errors_max: int = 1_000_000
    """So many calls in a row without an answer, and an agent stops."""

    @property
    def where(self) -> str:
        """Tell what is stormed, for people."""
        if self.target:
            return f"{self.agents} agents on {self.target}"
        gateways = f"{self.gateways} gateways with " if self.gateways > 1 else ""
        return f"{self.agents} agents, {gateways}{self.workers} workers on {self.store}"

    @property
    def has_trouble(self) -> bool:
        """Whether anything goes wrong by order, so that agents may see errors and costs may be presumed."""
        return bool(self.faults or self.blows or self.hang_up_percent)


# Twice what the dearest call of a storm asks for: the share of a cap that may be left when nothing more fits in.
_SLACK_NANODOLLARS = 60_000_000


def calls(cap: int) -> Scenario:
    """Give the storm on a run that may make so many calls; all of them must be usable."""
    return Scenario(
        name="calls",
        says="agents in a loop, all at once, on one run with a cap in calls",
        cap_calls=cap,
        usable_percent_min=100,
    )


def dollars(cap_nanodollars: int) -> Scenario:
    """Give the storm on a run that may spend so much; nine tenths must be usable, less where the cap is tiny."""
    slack_percent = _SLACK_NANODOLLARS * 100 // max(1, cap_nanodollars)
    return Scenario(
        name="dollars",
        says="agents in a loop, all at once, on one run with a cap in dollars",
        cap_nanodollars=cap_nanodollars,
        usable_percent_min=max(0, min(90, 100 - slack_percent)),
    )


TROUBLE = Scenario(
    name="trouble",
    says="the same while clients hang up, answers break off or err, and a gateway worker is killed",
    cap_nanodollars=1_000_000_000,
    hang_up_percent=HANG_UP_PERCENT,
    faults=tuple(
        NAMED_FAULTS[name] for name in ("status_429", "status_500", "cut_head", "cut_middle", "truncate", "no_usage")
    ),
    blows=(KILL,),
    # A call whose end nobody saw is booked at its whole hold, and one without a bound of its own holds a lot.
    unbounded_percent=0,
)
LONG = Scenario(
    name="long",
    says="agents with prompts of 100 kB, whose bytes are four times their tokens: the cap is usable all the same",
    cap_nanodollars=1_000_000_000,
    agents=16,
    # These are asked for a count; for `chat` the gateway needs the vocabularies of bursar[tokenizers].
    dialects=("responses", "messages", "gemini"),
    # What no other call fits into may be three hundredths of the cap, so one call must not cost more.
    models={
        "chat": "gpt-4.1-mini",
        "responses": "gpt-4.1-mini",
        "messages": "claude-haiku-4-5",
        "gemini": "gemini-2.5-flash",
    },
    prompt_bytes=(100_000, 100_000),
    unbounded_percent=0,
    growing_percent=0,
    counts_input=True,
    usable_percent_min=97,
)
SERIES: tuple[Scenario, ...] = (calls(20), dollars(1_000_000_000), TROUBLE)


BY_NAME: Mapping[str, Scenario] = {scenario.name: scenario for scenario in (*SERIES, LONG)}
"""Those that can be asked for by name; the series leaves out what takes long or needs more than is installed."""


def with_faults(scenario: Scenario, names: tuple[str, ...]) -> Scenario:
    """Add the named faults to a scenario; raises KeyError on a name that is not in FAULT_NAMES."""
    provider_faults = tuple(NAMED_FAULTS[name] for name in names if name in NAMED_FAULTS)
    if not names:
        return scenario
    # A file has no server that could be cut, restarted, killed or replaced.
    possible = WORKER_FAULTS if scenario.store == "sqlite" else (*WORKER_FAULTS, *STORE_FAULTS)
    wanted = {*names} - {HANG_UP, *NAMED_FAULTS}
    unknown = wanted - {*WORKER_FAULTS, *STORE_FAULTS}
    if unknown:
        raise KeyError(min(unknown))
    return replace(
        scenario,
        name=f"{scenario.name}+faults",
        faults=provider_faults,
        hang_up_percent=HANG_UP_PERCENT if HANG_UP in names else 0,
        blows=tuple(name for name in possible if name in wanted),
    )
