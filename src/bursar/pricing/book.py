"""The price book: which card a model has at an instant, or why it has none.

The operator's own prices come first, then the data of genai-prices, bundled or kept by `bursar prices update`: never
the network, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from bursar.clock import SECOND, Instant
from bursar.pricing.limits import Limits, load_limits
from bursar.pricing.newer import made_on, unpack
from bursar.pricing.own import OwnModel, own_card
from bursar.pricing.rates import Card, Unpriced, surcharged

if TYPE_CHECKING:
    from types import ModuleType

    from genai_prices.types import Provider

# Dated snapshots make the number of good names unbounded; real callers use a handful.
CARDS_KEPT_MAX = 4_096
HORIZON = 15 * 60 * SECOND
"""Where the settings do not say how long a call may take, as for a book that is only looked into."""
_NAME_CHARACTERS_MAX = 256
_REGIONAL = ((".api.openai.com", 110), (".azure.us", 138))
_TO_BE_FILLED_IN = {"input": '"..."', "output": '"..."', "context_tokens": "...", "output_tokens_max": "..."}


class _Kept(NamedTuple):
    made_at: Instant
    valid_until: Instant
    card: Card


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say of one upstream's models, beyond whose price list holds."""

    deployments: Mapping[str, str] = field(default_factory=dict)
    """The model that each name of the upstream's own stands for."""
    only_deployments: bool = False
    """Whether a name that is not among them could be any model."""
    horizon: int = HORIZON
    """Microseconds from a call's quote to the last byte of its reply, all waits included, at most; the dearest price of
    that time is quoted."""


class Book:
    """Knows the price of every model that the gateway may pay for.

    `provider_of` says whose prices an upstream has (`openai`, `anthropic`, `google` ...), `percent_of` what it charges
    of the list price (see `regional_percent`).
    """

    def __init__(
        self,
        own_models: Mapping[str, OwnModel],
        provider_of: Mapping[str, str],
        percent_of: Mapping[str, int] | None = None,
        stored: bytes | None = None,
        terms: Mapping[str, Terms] | None = None,
    ) -> None:
        """Read the own prices; raises MoneyError when one is not a price.

        `stored` is a book that `bursar prices update` has kept; it is read by `load`, and serves where it is not older
        than the bundled one.
        """
        self._own = {name: (own.upstream, own_card(name, own)) for name, own in own_models.items()}
        self._provider_of = dict(provider_of)
        self._percent_of = dict(percent_of or {})
        self._terms = dict(terms or {})
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._limits: Limits | None = None
        self._listed: ModuleType | None = None
        self._resold: ModuleType | None = None
        self._stored = stored
        self._providers: Mapping[str, Provider] = {}
        self._rates_source = ""

    def load(self) -> None:
        """Read the data (a quarter of a second, once) so that the first call need not wait for it.

        Raises WrongBookError where a stored book is none.
        """
        self._source()

    def card(self, upstream: str, model: str, now: Instant) -> Card | Unpriced:
        """Give the card that holds for a call that is made now."""
        kept = self._kept.get((upstream, model))
        if kept is not None and kept.made_at <= now < kept.valid_until:
            return kept.card
        card = self._make(upstream, model, now)
        if isinstance(card, Card):
            if len(self._kept) >= CARDS_KEPT_MAX:
                self._kept.clear()
            self._kept[upstream, model] = _Kept(now, card.valid_until, card)
        return card

    def models(self, upstream: str, now: Instant) -> Iterator[Card | Unpriced]:
        """Give every model that could be asked of this upstream: own ones first, then the listed ones by name."""
        own = {name: card for name, (only, card) in self._own.items() if only in ("", upstream)}
        yield from own.values()
        for name in sorted(self._names(upstream) - own.keys()):
            yield self.card(upstream, name, now)

    def _names(self, upstream: str) -> set[str]:
        terms = self._terms.get(upstream, _PLAIN)
        names = set(terms.deployments)
        limits, _listed, _resold = self._source()
        provider = self._providers.get(self._provider_of.get(upstream, ""))
        if provider is None or terms.only_deployments:
            return names
        return names | {model.id for model in provider.models} | set(limits.models.get(provider.id, {}))

    def _make(self, upstream: str, name: str, now: Instant) -> Card | Unpriced:
        terms = self._terms.get(upstream, _PLAIN)
        own = self._own_card(upstream, name)
        if own is not None:
            return own
        model = terms.deployments.get(name)
        if model is None and terms.only_deployments:
            return _unpriced(
                name,
                f"nobody but you knows which model the upstream {upstream} serves under that name; say so with "
                f'deployments = {{ "{_plain(name)}" = "the model" }} in [upstreams.{upstream}]',
            )
        if model is not None and (own := self._own_card(upstream, model)) is not None:
            return replace(own, model=name)
        card = self._listed_card(upstream, model or name, now, terms)
        return card if model is None or isinstance(card, Unpriced) else replace(card, model=name)

    def _own_card(self, upstream: str, name: str) -> Card | None:
        only, own = self._own.get(name, ("", None))
        return own if only in ("", upstream) else None

    def _listed_card(self, upstream: str, model: str, now: Instant, terms: Terms) -> Card | Unpriced:
        provider = self._provider_of.get(upstream)
        if provider is None:
            return _unpriced(model, f"no provider's prices apply to the upstream {upstream!r}")
        if len(model) > _NAME_CHARACTERS_MAX:
            return _unpriced(model, "its name is too long to be one")
        limits, listed, resold = self._source()
        make = resold.resold_card if provider in resold.SELLERS else listed.listed_card
        where = (now, limits, self._providers, self._rates_source, terms.horizon)
        try:
            card: Card = make(provider, model.lower(), *where)
        except listed.DoubtError as doubt:
            return _unpriced(model, str(doubt), doubt.known)
        return surcharged(card, self._percent_of.get(upstream, 100))

    def _source(self) -> tuple[Limits, ModuleType, ModuleType]:
        if self._limits is None or self._listed is None or self._resold is None:
            from bursar.pricing import listed, resold

            limits, self._providers, self._rates_source = load_limits(), listed.PROVIDERS, listed.SOURCE
            if self._stored is not None and made_on(self._stored) >= limits.made_on:
                newer = unpack(self._stored)
                limits, self._providers, self._rates_source = newer.limits, newer.providers, newer.source
            self._limits, self._listed, self._resold = limits, listed, resold
        return self._limits, self._listed, self._resold


def regional_percent(base_url: str) -> int:
    """Give what an endpoint charges of the list price: OpenAI's regional hosts ask a tenth more.

    Azure's clouds for governments were found to be at 137.5 percent.
    """
    host = base_url.partition("://")[2].partition("/")[0].partition(":")[0].lower()
    return next((percent for ending, percent in _REGIONAL if host.endswith(ending)), 100)


def _unpriced(model: str, why: str, known: Mapping[str, str] | None = None) -> Unpriced:
    shown, key = model[:_NAME_CHARACTERS_MAX], _plain(model)
    settings = {**_TO_BE_FILLED_IN, **(known or {})}
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    return Unpriced(
        model,
        f"The model {shown!r} cannot be priced: {why}. Nothing was sent. To use it, say in bursar.toml what it costs "
        f'(in USD per million tokens) and what it takes:\n[models."{key}"]\n{lines}\n',
    )


def _plain(model: str) -> str:
    """Give a name as it can stand in quotes in a settings file."""
    shown = model[:_NAME_CHARACTERS_MAX]
    key = "".join(character if character.isprintable() else "?" for character in shown)
    return key.replace("\\", "\\\\").replace('"', '\\"')


_PLAIN = Terms()
