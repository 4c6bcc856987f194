"""What an operator may set: `bursar.toml`, read once at the border, every key known, every default safe."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import Url

from bursar.ledger.account import Budget, Limits, Unit
from bursar.ledger.periods import LIFETIME, period_spec
from bursar.money import Money, MoneyError
from bursar.upstream.configured import built_in, filled
from bursar.upstream.providers import COMPATIBLE, PROVIDERS, Provider, Signing

CONFIG_NAME = "bursar.toml"
CONFIG_BYTES_MAX = 1_048_576
SQLITE_PREFIX = "sqlite:///"
# These are the first path segments of the gateway's own routes; an upstream of that name could not be reached.
_TAKEN_NAMES = frozenset({"v1", "v1beta", "r", "bursar", "livez", "readyz", "metrics"})


class SettingsError(Exception):
    """The settings cannot be used; the message names the file, the key and what to do."""


# ---- kinds of values ------------------------------------------------------------------------------------------------


def _no_limit(value: object) -> object:
    # TOML has no null, and "no limit" has to be said aloud.
    return None if value == "none" else value


def _usd_text(value: object) -> object:
    # The file is read with exact decimals, so that `usd = 5.10` is five dollars and ten cents.
    if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return value


def _amount_of_usd(value: str) -> str:
    try:
        Money.from_usd(value)
    except MoneyError as error:
        raise ValueError(str(error)) from None
    return value


def _price_text(value: str) -> str:
    try:
        usd = Decimal(value)
    except InvalidOperation:
        raise ValueError(f'{value!r} is not a price in USD per million tokens; write for example "2.50"') from None
    if not usd.is_finite() or usd < 0 or usd > 1_000_000:
        raise ValueError(f"{value!r} is not a price between 0 and 1000000 USD per million tokens")
    if (usd * 1_000_000) % 1:
        raise ValueError(f"{value!r} has more than six decimals; a picodollar per token is the smallest rate")
    return value


def _seconds(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def _known_zone(value: str) -> str:
    period_spec("day", value)
    return value


Usd = Annotated[str, BeforeValidator(_usd_text), AfterValidator(_amount_of_usd)]
UsdLimit = Annotated[Usd | None, BeforeValidator(_no_limit)]
Count = Annotated[int, Field(ge=0, le=2**53)]
CountLimit = Annotated[Count | None, BeforeValidator(_no_limit)]
Price = Annotated[str, BeforeValidator(_usd_text), AfterValidator(_price_text)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=86_400)]
SecondsOrZero = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86_400)]
EnvName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")]
Word = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,127})?$")]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
LedgerUrl = Annotated[str, StringConstraints(pattern=r"^(sqlite:///.+|postgres(ql)?://\S+)$")]
UpstreamName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


def _default_ledger_url() -> str:
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG rules say that a relative value is to be ignored.
    folder = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return f"{SQLITE_PREFIX}{folder / 'bursar' / 'ledger.db'}"


# ---- sections -------------------------------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LedgerSettings(_Section):
    """Where the books are."""

    url: LedgerUrl = Field(default_factory=_default_ledger_url)
    marker: Annotated[str, StringConstraints(pattern=r"^(/.+)?$")] = ""
    keep_days: Annotated[int, Field(ge=2, le=36_500)] | None = None
    """Entries and settled calls that are older are folded into balances; None keeps them for ever."""


class ServerSettings(_Section):
    """Where the gateway listens, and how much it takes."""

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 4100
    body_bytes_max: Annotated[int, Field(ge=1024, le=2**30)] = 33_554_432
    connections_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    backlog_max: Annotated[int, Field(ge=1, le=65_535)] = 2048
    keepalive_seconds_max: Annotated[int, Field(ge=1, le=3600)] = 75
    drain_seconds_max: Annotated[int, Field(ge=0, le=3600)] = 30


class RunTemplate(_Section):
    """The caps that a new run is opened with; `"none"` counts without a limit, at least one has to be set."""

    usd: UsdLimit = "5.00"
    calls: CountLimit = 500
    tokens: CountLimit = None

    @model_validator(mode="after")
    def _has_a_cap(self) -> RunTemplate:
        if self.usd is None and self.calls is None and self.tokens is None:
            raise ValueError("a run needs at least one of usd, calls and tokens")
        return self

    @property
    def limits(self) -> Limits:
        """Give the caps as the ledger takes them."""
        return Limits(usd=nanodollars(self.usd), calls=self.calls, tokens=self.tokens)


class Defaults(_Section):
    """What applies where nothing else is said."""

    run: RunTemplate = RunTemplate()


class BudgetSettings(_Section):
    """A cap in one unit that comes anew with every period; `"none"` counts without a limit."""

    usd: UsdLimit = None
    calls: CountLimit = None
    tokens: CountLimit = None
    period: str
    timezone: str = ""
    """Of calendar periods; empty takes the policy's."""

    @model_validator(mode="after")
    def _is_one_cap(self) -> BudgetSettings:
        if len(self.model_fields_set & {"usd", "calls", "tokens"}) != 1:
            raise ValueError("a budget has one of usd, calls and tokens")
        if self.budget("UTC").period == LIFETIME:
            raise ValueError('a cap without a period is written beside budgets, such as usd = "50"')
        if self.timezone and self.period.startswith("rolling"):
            raise ValueError(f"{self.period!r} is the same in every time zone; leave timezone out")
        return self

    def budget(self, timezone: str) -> Budget:
        """Give the budget as the ledger takes it; raises PeriodError."""
        (unit,) = self.model_fields_set & {"usd", "calls", "tokens"}
        limit = nanodollars(self.usd) if unit == "usd" else getattr(self, unit)
        return Budget(Unit(unit), limit, period_spec(self.period, self.timezone or timezone))


class KeySettings(_Section):
    """One key of the gateway: its secret comes from an environment variable, its runs take its template."""

    key_env: EnvName = ""
    run: RunTemplate | None = None
    usd: UsdLimit = None
    calls: CountLimit = None
    budgets: Annotated[tuple[BudgetSettings, ...], Field(strict=False)] = ()
    runs_per_hour_max: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    models: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("*",)

    @property
    def limits(self) -> Limits:
        """Give the caps of the key itself, over all its runs."""
        return Limits(usd=nanodollars(self.usd), calls=self.calls)


class UpstreamSettings(_Section):
    """One provider endpoint: where it is, what it speaks, where its key is, and how long it may take."""

    provider: str = ""
    """Whose ways it has; filled with the upstream's name where a provider has it, and empty for any other server."""
    dialect: Literal["openai", "anthropic", "gemini"]
    base_url: str
    path_prefix: Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = "/v1"
    """What its paths begin with where the wire format says /v1."""
    key_env: EnvName = ""
    """Empty for a server that takes no key."""
    region: Word = ""
    project: Word = ""
    api_version: Word = ""
    deployments: dict[ModelName, ModelName] = {}
    """Names under which this upstream serves models, each with the model whose price it has."""
    prices: str = ""
    """Price list that holds for it; filled with the provider's, or with the upstream's name."""
    price_percent: Annotated[int, Field(ge=1, le=10_000)] = 100
    """What it charges of that list."""
    output_field: EnvName = ""
    takes_stream_options: bool = True
    takes_service_tier: bool = False
    """Filled by the provider: whether the tier is made explicit."""
    insecure: bool = False
    """Allows http to a public host; keys and prompts then travel in the clear."""
    counts_input: bool | None = None
    """Whether its free count of tokens may make a quote tight; None: only where it is the provider's own server."""
    connect_seconds_max: Seconds = 10
    idle_seconds_max: Seconds = 600
    """Longest silence, the one before the first byte included: a model that thinks sends nothing for minutes."""
    total_seconds_max: Seconds = 3600
    read_on_seconds_max: SecondsOrZero | None = None
    """How long the rest of a reply is read when its client has left; None: as the policy says."""

    @property
    def record(self) -> Provider:
        """Give what is known of the provider, or of every server that speaks the dialect."""
        return PROVIDERS.get(self.provider) or COMPATIBLE[self.dialect]

    @property
    def needs_key(self) -> bool:
        """Say whether no call can be made without the variable that `key_env` names."""
        return bool(self.key_env) and self.record.signing is Signing.NONE

    @model_validator(mode="before")
    @classmethod
    def _plain_base_url(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("base_url"), str):
            return data
        # The routes begin with /v1 themselves; both forms are common in the wild.
        return {**data, "base_url": data["base_url"].rstrip("/").removesuffix("/v1")}

    @model_validator(mode="after")
    def _safe_base_url(self) -> UpstreamSettings:
        trouble = _url_trouble(self.base_url, self.insecure)
        if trouble:
            raise ValueError(f"base_url {self.base_url!r} {trouble}")
        return self


class ModelSettings(_Section):
    """A model with its own price, in USD per million tokens; zero has to be said aloud."""

    input: Price
    output: Price
    cache_read: Price | None = None
    cache_write: Price | None = None
    context_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)]
    output_tokens_max: Annotated[int, Field(ge=0, le=1_000_000_000)]
    upstream: str = ""
    """Only at this upstream; empty: at every one."""
    family: Literal["byte-level", "claude", "unknown"] = "unknown"


class PolicySettings(_Section):
    """What happens near the cap, and at it."""

    near_cap: Literal["clamp", "refuse"] = "clamp"
    output_tokens_default: Annotated[int, Field(ge=1, le=10_000_000)] = 32_768
    output_tokens_comfort: Annotated[int, Field(ge=1, le=10_000_000)] = 4096
    output_tokens_floor: Annotated[int, Field(ge=1, le=10_000_000)] = 256
    wait_seconds_max: SecondsOrZero = 30
    read_on_seconds_max: SecondsOrZero = 30
    refusal_status: Literal["auto", 429, 402, 400] = "auto"
    allow_fields: Annotated[tuple[str, ...], Field(strict=False)] = ()
    timezone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    """Of budgets that come anew by the calendar and name no time zone of their own."""


class Settings(_Section):
    """All settings of one gateway; what is not set has its default."""

    ledger: LedgerSettings = Field(default_factory=LedgerSettings)
    server: ServerSettings = ServerSettings()
    defaults: Defaults = Defaults()
    keys: dict[KeyName, KeySettings] = {}
    upstreams: Annotated[dict[UpstreamName, UpstreamSettings], Field(validate_default=True)] = {}
    models: dict[str, ModelSettings] = {}
    fallback: dict[str, Annotated[tuple[str, ...], Field(min_length=2, max_length=8, strict=False)]] = {}
    """By model, or a pattern such as `gpt-5*`: `UPSTREAM` or `UPSTREAM/MODEL`, in the order in which they are asked."""
    policy: PolicySettings = PolicySettings()

    @field_validator("upstreams", mode="before")
    @classmethod
    def _with_built_ins(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        merged: dict[Any, Any] = {name: filled(name, {}) for name in built_in(os.environ)}
        for name, given in value.items():
            own = given.model_dump(exclude_unset=True) if isinstance(given, UpstreamSettings) else given
            merged[name] = filled(name, own) if isinstance(own, dict) else own
        return merged

    @field_validator("upstreams")
    @classmethod
    def _reachable_names(cls, value: dict[str, UpstreamSettings]) -> dict[str, UpstreamSettings]:
        taken = sorted(_TAKEN_NAMES & value.keys())
        if taken:
            raise ValueError(f"{taken[0]!r} is a path of the gateway itself; give the upstream another name")
        return value

    @model_validator(mode="before")
    @classmethod
    def _runs_take_the_defaults(cls, data: Any) -> Any:
        # `run = { usd = "1.00" }` of a key must not lose the caps that [defaults.run] sets.
        match data:
            case {"keys": dict() as keys, "defaults": {"run": dict() as base}}:
                filled = {
                    name: {**key, "run": {**base, **key["run"]}}
                    if isinstance(key, dict) and isinstance(key.get("run"), dict)
                    else key
                    for name, key in keys.items()
                }
                return {**data, "keys": filled}
            case _:
                return data

    @model_validator(mode="after")
    def _models_name_upstreams(self) -> Settings:
        for name, model in self.models.items():
            if model.upstream and model.upstream not in self.upstreams:
                hint = _nearest(model.upstream, list(self.upstreams))
                raise ValueError(f'[models."{name}"] names the upstream {model.upstream!r}, which is not set{hint}')
        return self

    @model_validator(mode="after")
    def _fallbacks_stay_in_a_dialect(self) -> Settings:
        for model, routes in self.fallback.items():
            names = [route.partition("/")[0] for route in routes]
            unknown = [name for name in names if name not in self.upstreams]
            if unknown:
                hint = _nearest(unknown[0], list(self.upstreams))
                raise ValueError(f'[fallback] "{model}" names the upstream {unknown[0]!r}, which is not set{hint}')
            if len({self.upstreams[name].dialect for name in names}) > 1:
                raise ValueError(
                    f'[fallback] "{model}" goes from one dialect to another; a request cannot be sent in both'
                )
            if len(set(routes)) < len(routes):
                raise ValueError(f'[fallback] "{model}" names the same upstream and model twice')
        return self

    @model_validator(mode="after")
    def _budgets_differ(self) -> Settings:
        for name in self.keys:
            budgets = {(budget.unit, budget.period) for budget in self.budgets(name)}
            if len(budgets) < len(self.keys[name].budgets):
                raise ValueError(f"[keys.{name}] has two budgets of the same unit and period")
        return self

    def run_template(self, key: str) -> RunTemplate:
        """Give the caps that a new run of this key is opened with."""
        own = self.keys.get(key)
        return self.defaults.run if own is None or own.run is None else own.run

    def budgets(self, key: str) -> tuple[Budget, ...]:
        """Give the budgets of a key as the ledger takes them."""
        return tuple(budget.budget(self.policy.timezone) for budget in self.keys[key].budgets)

    def provider_keys(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Give the secret of every upstream whose key is in the environment, by the upstream's name."""
        found = {name: environ.get(upstream.key_env, "") for name, upstream in self.upstreams.items()}
        return {name: secret for name, secret in found.items() if secret}


def nanodollars(usd: str | None) -> int | None:
    """Give an amount that has passed the border in nanodollars; None stays None."""
    return None if usd is None else Money.from_usd(usd).nanodollars


# ---- reading --------------------------------------------------------------------------------------------------------


def load(path: Path | None) -> Settings:
    """Read the settings; None takes ./bursar.toml when it is there, else the defaults. Raises SettingsError."""
    if path is None:
        path = Path(CONFIG_NAME)
        if not path.exists():
            return Settings()
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}; `bursar init` writes one") from None
    if len(raw) > CONFIG_BYTES_MAX:
        raise SettingsError(f"{path}: is larger than {CONFIG_BYTES_MAX} bytes; is it the right file?")
    try:
        data = tomllib.loads(raw.decode(), parse_float=Decimal)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from None
    settings = parse(data, str(path))
    if "ledger" not in settings.model_fields_set:
        return settings
    ledger = settings.ledger.model_copy(update={"url": absolute_url(settings.ledger.url, path.parent)})
    return settings.model_copy(update={"ledger": ledger})


def parse(data: Mapping[str, Any], source: str) -> Settings:
    """Check settings that were read from `source`; raises SettingsError that names the first wrong keys."""
    try:
        return Settings.model_validate(dict(data))
    except ValidationError as error:
        lines = [_complaint(dict(one)) for one in error.errors()[:5]]
        raise SettingsError("\n".join(f"{source}: {line}" for line in lines)) from None


def absolute_url(url: str, folder: Path) -> str:
    """Give a ledger URL that means the same file in every process: a relative path counts from the folder."""
    if not url.startswith(SQLITE_PREFIX):
        return url
    return f"{SQLITE_PREFIX}{(folder / Path(url.removeprefix(SQLITE_PREFIX)).expanduser()).absolute()}"


def _url_trouble(url: str, insecure: bool) -> str:
    try:
        parts = Url(url)
    except ValueError:
        return "is not a URL such as https://api.example.com"
    # A URL that is read leniently could be read in another way by the HTTP client.
    if parts.scheme not in {"https", "http"} or not parts.host or not re.fullmatch(r"https?://[!-~]+", url):
        return "is not a URL such as https://api.example.com"
    if "@" in url or "?" in url or "#" in url:
        return "must not carry a user, a query or a fragment; a key goes into the variable that key_env names"
    if parts.scheme == "http" and not (insecure or _is_private(parts.host.strip("[]"))):
        return "sends keys and prompts in the clear; use https, or say insecure = true"
    return ""


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A name without a dot (`ollama`, `vllm`) is resolved on the local network only.
        return "." not in host
    return address.is_private or address.is_loopback or address.is_link_local


def _complaint(error: dict[str, Any]) -> str:
    loc = tuple(part for part in error["loc"] if part != "[key]")
    key = ".".join(_quoted(str(part)) for part in loc)
    if error["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1])
        return f"unknown key {key}{_nearest(str(loc[-1]), known)} (known here: {', '.join(known)})"
    if error["type"] == "missing":
        return f"{key} is missing; it has no default"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _quoted(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is not None:
            # A part that is no field is the name in a table such as [keys.NAME].
            model = next(iter(_models_in(field.annotation)), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
