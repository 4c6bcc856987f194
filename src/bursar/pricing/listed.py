"""Cards from the bundled data of genai-prices, read so that none of its shortcuts can under-price.

Imports genai-prices, which takes a quarter of a second: import this module through `Book.load`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from importlib.metadata import version

from genai_prices import types as listed
from genai_prices.data import providers as bundled_providers

from bursar.call import ServerTool
from bursar.clock import SECOND, Instant
from bursar.money import Rate
from bursar.pricing.images import image_bound
from bursar.pricing.limits import Limit, Limits, undated
from bursar.pricing.rates import (
    DEFAULT_TIER,
    FOREVER,
    US,
    Card,
    Family,
    Rates,
    Step,
    dearest_rates,
    dearest_steps,
    steps_times,
)

# Models that take a million tokens behind a beta header are listed with the window that they have without it.
LONG_CONTEXT_TOKENS = 1_000_000
SOURCE = f"genai-prices {version('genai-prices')}"

# Whose billing was studied. Others charge per request or per search, or sell at prices of their own: their models are
# priced in [models."..."].
PROVIDERS = {
    provider.id: provider
    for provider in bundled_providers
    if provider.id in {"anthropic", "deepseek", "google", "groq", "mistral", "openai", "openrouter", "x-ai"}
}

# Every call takes the highest price that may be asked along, so a second list is not needed to believe the first.
_ROUTERS = frozenset({"openrouter"})
# Whose tokens are never shorter than a byte: byte-level BPE, or SentencePiece that falls back to bytes.
_BYTE_LEVEL_MAKERS = frozenset({"deepseek", "google", "meta-llama", "mistralai", "openai", "qwen", "x-ai"})
# xAI puts instructions of its own in front (some 700 tokens were seen), and bills them.
_ADDED_TOKENS = {"x-ai": 2_048}

_AUDIO = frozenset({"input_audio_mtok", "cache_audio_read_mtok"})
_TOKENS = _AUDIO | frozenset(
    {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_5m_mtok", "cache_write_1h_mtok"}
)
# Server-side tools, which are no tokens: their fees are read apart, in USD per thousand uses.
_TOOLS = frozenset({"web_searches_kcount", "storage_searches_kcount"})
_FEES = {
    "anthropic": {ServerTool.WEB_SEARCH: "web_searches_kcount"},
    "openai": {ServerTool.WEB_SEARCH: "web_searches_kcount", ServerTool.FILE_SEARCH: "storage_searches_kcount"},
}
# A page that is fetched is paid as input, and nothing else (Anthropic's page on the tool, read in 2026-11).
_FREE_TOOLS = {"anthropic": (ServerTool.WEB_FETCH,)}
# Every search of theirs is billed as 8,000 tokens, and whether the usage has those is not documented.
_SEARCHES_IN_BLOCKS = frozenset({"gpt-4.1-mini", "gpt-4o-mini"})
_DAY = 24 * 3600 * SECOND
_ORDINAL_OF_1970 = 719_163
_TIER_KEYS = ({"service_tier"}, {"speed"})

_Price = Decimal | listed.TieredPrices


class DoubtError(Exception):
    """The data leaves open what the model costs; the text says why, and `known` has the settings that are known."""

    def __init__(self, why: str, known: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.known = dict(known or {})


def listed_card(
    provider_id: str,
    name: str,
    now: Instant,
    limits: Limits,
    providers: Mapping[str, listed.Provider],
    source: str,
    horizon: int,
) -> Card:
    """Give the card of a model that both sources know; raises DoubtError."""
    model = find_model(provider_id, name, limits.made_on, providers)
    limit = _limit_of_router(model, name, limits, now) if provider_id in _ROUTERS else limits.find(provider_id, name)
    if limit is None and limits.unbounded_names.search(name):
        raise DoubtError("models of that kind charge for more than the tokens of text that the gateway can bound")
    if limit is None:
        raise DoubtError("its output maximum is not known", _known(model, provider_id, now))
    return card_of(model, provider_id, name, now, limit, f"rates: {source}; limits: {limits.source}", horizon)


def _limit_of_router(model: listed.ModelInfo, name: str, limits: Limits, now: Instant) -> Limit | None:
    """Give what bounds a model whose only source is the router's own list: its window bounds its output as well."""
    if model.context_window is None or name.endswith(":batch") or limits.unbounded_names.search(name):
        return None
    rates = _ladder(_prices(_standard(model, now)), claude=False, outputless=False)[0].rates
    return Limit(model.context_window, model.context_window, rates.input, rates.output, 100)


def _family(provider_id: str, name: str) -> Family:
    if provider_id not in _ROUTERS:
        return Family.CLAUDE if provider_id == "anthropic" else Family.BYTE_LEVEL
    maker = name.partition("/")[0]
    if maker == "anthropic":
        return Family.CLAUDE
    return Family.BYTE_LEVEL if maker in _BYTE_LEVEL_MAKERS else Family.UNKNOWN


def card_of(
    model: listed.ModelInfo,
    provider_id: str,
    name: str,
    now: Instant,
    limit: Limit,
    source: str,
    horizon: int,
) -> Card:
    """Give the card of a listed model with the highest rates from now to the horizon; raises DoubtError.

    A call may take as long as the horizon, and is billed at the prices of its start or of its end; these cover both.
    """
    _check_second_opinion(model, limit)
    moments, valid_until = _moments(model, now, horizon)
    family = _family(provider_id, name)
    claude = family is Family.CLAUDE
    tiers = _tiers(model, moments, limit, claude)
    context = max(limit.context_tokens, model.context_window or 0)
    _check_cliff(tiers, limit, context)
    _check_audio(tiers, limit)
    unasked = context
    if any(steps[-1].above_input_tokens >= context for steps in tiers.values()):
        context = max(context, LONG_CONTEXT_TOKENS)
    image_tokens_max, image = image_bound(provider_id, name, context)
    return Card(
        model=name,
        provider=provider_id,
        family=family,
        context_tokens=context,
        output_tokens_max=limit.output_tokens_max,
        tiers=tiers,
        image_tokens_max=image_tokens_max,
        source=source,
        valid_until=valid_until,
        image=image,
        context_tokens_unasked=unasked if claude else context,
        fees=_fees(model, provider_id, moments),
        added_tokens=_ADDED_TOKENS.get(name.partition("/")[0] if provider_id in _ROUTERS else provider_id, 0),
    )


def _known(model: listed.ModelInfo, provider_id: str, now: Instant) -> dict[str, str]:
    """Give what the price list says of a model without a known output bound, as settings; raises DoubtError."""
    family = _family(provider_id, model.id)
    claude = family is Family.CLAUDE
    rates = dearest_rates(step.rates for step in _ladder(_prices(_standard(model, now)), claude, outputless=False))
    known = {
        "input": f'"{rates.input}"',
        "output": f'"{rates.output}"',
        "cache_read": f'"{rates.cache_read}"',
        "cache_write": f'"{rates.cache_write_5m}"',
        "family": f'"{family}"',
    }
    return known | ({"context_tokens": str(model.context_window)} if model.context_window else {})


# ---- names ----------------------------------------------------------------------------------------------------------


def find_model(
    provider_id: str, name: str, known_on: str, providers: Mapping[str, listed.Provider] = PROVIDERS
) -> listed.ModelInfo:
    """Give the model of that name; raises DoubtError when the list only guesses that it has it."""
    provider = providers.get(provider_id)
    if provider is None:
        raise DoubtError(f"bursar has no price list for the provider {provider_id!r}")
    model = provider.find_model(name)
    if model is None:
        raise DoubtError(f"it is not in the price list of {provider_id}")
    # A clause such as `starts with claude-opus-4-8` would price whatever is released next under a longer name.
    known = {model.id, *_literals(model.match)}
    if name not in known and undated(name, known_on) not in known:
        raise DoubtError(f"the price list has {model.id!r}, and no word on whether {name!r} costs the same")
    return model


def _literals(clause: object) -> Iterator[str]:
    match clause:
        case listed.ClauseEquals(equals=text):
            yield text.lower()
        case listed.ClauseStartsWith(starts_with=text):
            yield text.lower()
        case listed.ClauseOr(or_=clauses) | listed.ClauseAnd(and_=clauses):
            for inner in clauses:
                yield from _literals(inner)
        case _:
            pass


# ---- time -----------------------------------------------------------------------------------------------------------


def _moments(model: listed.ModelInfo, now: Instant, horizon: int) -> tuple[list[int], Instant]:
    """Give every instant from now to the horizon at which a price begins, and until when the answer stays the same."""
    changes = sorted({change for constraint in _constraints(model) for change in _changes(constraint, now)})
    inside = [change for change in changes if now < change <= now + horizon]
    until = min((Instant(at) for change in changes for at in (change - horizon, change) if at > now), default=FOREVER)
    return [now, *inside], until


def _constraints(model: listed.ModelInfo) -> Iterator[object]:
    if isinstance(model.prices, list):
        yield from (conditional.constraint for conditional in model.prices)
    yield from (variant.constraint for variant in model.price_variants or ())


def _changes(constraint: object, now: Instant) -> list[int]:
    """Give the instants around now at which the condition begins or ends to hold; raises DoubtError."""
    match constraint:
        case None:
            return []
        case listed.StartDateConstraint():
            return [_start(constraint)]
        case listed.TimeOfDateConstraint():
            midnight = now - now % _DAY
            return [midnight + days * _DAY + time for days in (0, 1) for time in _times(constraint)]
        case _:
            raise DoubtError(f"its price depends on {type(constraint).__name__}, which bursar does not know")


def _active(constraint: object, at: int) -> bool:
    match constraint:
        case listed.StartDateConstraint():
            return at >= _start(constraint)
        case listed.TimeOfDateConstraint():
            start, end = _times(constraint)
            time = at % _DAY
            return start <= time < end if start <= end else time >= start or time < end
        case _:
            return constraint is None


def _start(constraint: listed.StartDateConstraint) -> int:
    """Give the first instant of the day, in UTC."""
    return (constraint.start_date.toordinal() - _ORDINAL_OF_1970) * _DAY


def _times(constraint: listed.TimeOfDateConstraint) -> tuple[int, int]:
    """Give the start and the end in microseconds after midnight UTC; times without a zone are UTC."""
    ends = []
    for time in (constraint.start_time, constraint.end_time):
        offset = time.utcoffset()
        seconds = (time.hour * 60 + time.minute) * 60 + time.second - (offset.seconds if offset else 0)
        ends.append((seconds * SECOND + time.microsecond) % _DAY)
    return ends[0], ends[1]


def _standard(model: listed.ModelInfo, at: int) -> listed.ModelPrice:
    """Give the ordinary prices at that instant: the last condition that holds wins, else the first is the price."""
    if isinstance(model.prices, listed.ModelPrice):
        return model.prices
    holding = [conditional.prices for conditional in model.prices if _active(conditional.constraint, at)]
    return holding[-1] if holding else model.prices[0].prices


# ---- rates ----------------------------------------------------------------------------------------------------------


def _check_second_opinion(model: listed.ModelInfo, limit: Limit) -> None:
    prices = model.prices if isinstance(model.prices, list) else [listed.ConditionalPrice(prices=model.prices)]
    known = set()
    for conditional in prices:
        base = [conditional.prices.__dict__.get(key) for key in ("input_mtok", "output_mtok")]
        known.add(tuple(_rate(price, 0).picodollars if price is not None else 0 for price in base))
    if (limit.input_rate.picodollars, limit.output_rate.picodollars) not in known:
        raise DoubtError("two public price lists disagree on it")
    if limit.one_price_a_day and any(isinstance(one, listed.TimeOfDateConstraint) for one in _constraints(model)):
        raise DoubtError("two public price lists disagree on whether it is cheaper at some hours")


def _check_audio(tiers: Mapping[str, tuple[Step, ...]], limit: Limit) -> None:
    rates = tiers[DEFAULT_TIER][0].rates
    if rates.input.picodollars + rates.audio_extra.picodollars < limit.audio_rate.picodollars:
        raise DoubtError("two public price lists disagree on what audio costs")


def _check_cliff(tiers: Mapping[str, tuple[Step, ...]], limit: Limit, context_tokens: int) -> None:
    starts = {step.above_input_tokens for step in tiers[DEFAULT_TIER]}
    if 0 < limit.cliff_tokens < context_tokens and not any(0 < start <= limit.cliff_tokens for start in starts):
        raise DoubtError("two public price lists disagree on what long inputs cost")


def _tiers(model: listed.ModelInfo, moments: list[int], limit: Limit, claude: bool) -> dict[str, tuple[Step, ...]]:
    at_each = [_tiers_at(model, at, claude, limit.output_tokens_max == 0) for at in moments]
    always = set(at_each[0]).intersection(*at_each)
    tiers = {tier: dearest_steps(ladders[tier] for ladders in at_each) for tier in sorted(always)}
    if limit.us_percent > 100:
        for tier, steps in list(tiers.items()):
            tiers[tier + US] = steps_times(steps, limit.us_percent)
    return tiers


def _tiers_at(model: listed.ModelInfo, at: int, claude: bool, outputless: bool) -> dict[str, tuple[Step, ...]]:
    standard = _prices(_standard(model, at))
    ladder = _ladder(standard, claude, outputless)
    tiers = {DEFAULT_TIER: ladder}
    for tier, own in _variants(model, at).items():
        if not own:
            tiers[tier] = ladder
        # A variant that leaves out a class would inherit the ordinary price, whatever the tier costs: not priced.
        elif set(own) >= set(standard):
            tiers[tier] = _with_cliffs(_ladder(own, claude, outputless), ladder)
    return tiers


def _prices(prices: listed.ModelPrice) -> dict[str, _Price]:
    """Give the prices of tokens; raises DoubtError when a call can be charged for in any other unit."""
    found = {key: price for key, price in vars(prices).items() if price is not None and key not in _TOOLS}
    odd = sorted(set(found) - _TOKENS)
    if odd:
        raise DoubtError(f"it is also priced by {', '.join(odd)}, which bursar cannot bound")
    return found


def _variants(model: listed.ModelInfo, at: int) -> dict[str, dict[str, _Price]]:
    """Give the prices that the active variants of each tier name; the first to name a price wins."""
    tiers: dict[str, dict[str, _Price]] = {}
    for variant in model.price_variants or ():
        if _active(variant.constraint, at) and set(variant.when) in _TIER_KEYS:
            prices = tiers.setdefault(next(iter(variant.when.values())), {})
            for key, price in _prices(variant.prices).items():
                prices.setdefault(key, price)
    return tiers


def _with_cliffs(ladder: tuple[Step, ...], standard: tuple[Step, ...]) -> tuple[Step, ...]:
    """Raise a tier that is listed without the cliffs of the ordinary price in the same proportion."""
    if len(ladder) > 1:
        return ladder
    base = standard[0].rates
    return tuple(
        Step(
            above,
            Rates(
                *(
                    max(own, Rate(-(-own.picodollars * step.picodollars // max(1, first.picodollars))))
                    for own, step, first in zip(ladder[0].rates, rates, base, strict=True)
                )
            ),
        )
        for above, rates in standard
    )


def _ladder(prices: dict[str, _Price], claude: bool, outputless: bool) -> tuple[Step, ...]:
    if "input_mtok" not in prices or ("output_mtok" not in prices and not outputless):
        raise DoubtError("the price list names no price for its tokens")
    tiered = [price for price in prices.values() if isinstance(price, listed.TieredPrices)]
    starts = sorted({0, *(tier.start for price in tiered for tier in price.tiers)})
    steps = tuple(Step(start, _rates(prices, start, claude)) for start in starts)
    if any(step.rates.input == Rate(0) for step in steps):
        raise DoubtError("the price list has it at no price")
    return steps


def _rates(prices: dict[str, _Price], above: int, claude: bool) -> Rates:
    """Give the rates for an input above this length; a class without a price costs what it can at most."""
    rates = {key: _rate(price, above) for key, price in prices.items()}
    ordinary = rates["input_mtok"]
    read = rates.get("cache_read_mtok", ordinary)
    audio = rates.get("input_audio_mtok", ordinary)
    # Where audio is listed at all, a cached token of it costs as much as a fresh one, or what the list says.
    audio_read = rates.get("cache_audio_read_mtok", max(audio, read) if "input_audio_mtok" in rates else read)
    write = rates.get("cache_write_5m_mtok") or rates.get("cache_write_mtok")
    write_5m = write or (ordinary.times(200) if claude else ordinary)
    # Claude writes for an hour at twice the input rate; OpenAI keeps a cache for a day at two and a half times.
    write_1h = ordinary.times(200) if claude else ordinary.times(250) if write else ordinary
    return Rates(
        input=ordinary,
        output=rates.get("output_mtok", Rate(0)),
        cache_read=read,
        cache_write_5m=write_5m,
        cache_write_1h=max(rates.get("cache_write_1h_mtok", write_1h), write_5m),
        audio_extra=_more(audio, ordinary),
        audio_cache_read_extra=_more(audio_read, read),
    )


def _fees(model: listed.ModelInfo, provider_id: str, moments: list[int]) -> dict[ServerTool, Rate]:
    """Give the highest fee of each tool whose fee is listed at every one of these moments."""
    fees = dict.fromkeys(_FREE_TOOLS.get(provider_id, ()), Rate(0))
    for tool, key in _FEES.get(provider_id, {}).items():
        if tool is ServerTool.WEB_SEARCH and model.id in _SEARCHES_IN_BLOCKS:
            continue
        prices = [getattr(_standard(model, at), key) for at in moments]
        if all(isinstance(price, Decimal) and price > 0 for price in prices):
            fees[tool] = max(Rate.from_usd_per_million(price * 1_000) for price in prices)
    return fees


def _more(one: Rate, other: Rate) -> Rate:
    return Rate(max(0, one.picodollars - other.picodollars))


def _rate(price: _Price, above: int) -> Rate:
    if isinstance(price, Decimal):
        return Rate.from_usd_per_million(price)
    found = price.base
    for tier in price.tiers:
        if tier.start <= above:
            found = tier.price
    return Rate.from_usd_per_million(found)
