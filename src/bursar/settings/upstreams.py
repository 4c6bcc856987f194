"""The provider endpoints, and the models with a price of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from bursar.settings.values import (
    EnvName,
    ModelName,
    Price,
    Seconds,
    SecondsOrZero,
    Section,
    ServerToolName,
    Usd,
    Word,
    url_trouble,
)
from bursar.upstream.providers import COMPATIBLE, PROVIDERS, Provider, Signing


class UpstreamSettings(Section):
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
    deployments: dict[ModelName, ModelName] = Field(default_factory=dict)
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
        trouble = url_trouble(self.base_url, self.insecure)
        if trouble:
            raise ValueError(f"base_url {self.base_url!r} {trouble}")
        return self


class ModelSettings(Section):
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
    fees: dict[ServerToolName, Usd] = Field(default_factory=dict)
    """USD for one use of a tool of the provider's own."""
