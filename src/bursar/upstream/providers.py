"""What each provider does its own way, as data: where it is, how it takes a key, which errors it does not bill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from bursar.call import UsageRules
from bursar.dialects.bedrock_path import COUNT, STREAMED, WHOLE
from bursar.dialects.protocol import Quirks

if TYPE_CHECKING:
    from bursar.upstream.signing import Signer

_REDIRECTS = frozenset(range(300, 400))
# "Failed requests are not charged" (Anthropic help centre); so any error status before the body ends is unbilled.
_ALL_ERRORS = _REDIRECTS | frozenset(range(400, 600))
# OpenAI documents only a refused Flex 429; the others are answered before anything is generated. A 408 or a 5xx may
# have been generated and billed, so it is presumed.
_BEFORE_GENERATION = _REDIRECTS | frozenset({400, 401, 403, 404, 405, 409, 411, 413, 414, 415, 422, 429, 431})
# "If the service performs processing, you'll be charged even if the status code isn't successful", and its examples
# are a 400 of the content filter and a 408 (Azure FAQ); a 400 does not tell by itself which one it is.
_AZURE = _BEFORE_GENERATION - {400, 422}
# A fee of 0.05 USD for a request that breaks the usage guidelines is answered with a 403 (xAI's price page).
_XAI = _BEFORE_GENERATION - {403}


class Signing(StrEnum):
    """Whose library makes the credentials of a request, where no fixed key does."""

    NONE = ""
    GOOGLE = "google"
    AWS = "aws"


@dataclass(frozen=True, slots=True)
class Way:
    """Where a provider takes the requests of one path; `{model}` is the model, percent-encoded."""

    to: str
    to_stream: str = ""
    """Where streams go; empty: to the same path."""
    query: str = ""
    """Instead of the client's query."""
    keeps_query: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """The ways of one provider."""

    dialect: str
    """The wire format that it speaks: `openai`, `anthropic` or `gemini`."""
    also_speaks: str = ""
    """A wire format of its own that it speaks besides."""
    base_url: str = ""
    """Where it is; `{region}` is from the settings, and empty means that the settings have to say it all."""
    base_url_of_region: Mapping[str, str] = field(default_factory=dict)
    """Regions that are elsewhere."""
    base_url_ending: str = ""
    """What base URLs in the wild end with, and its paths begin with."""
    key_env: str = ""
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    signing: Signing = Signing.NONE
    """How requests are signed when there is no key."""
    needs: frozenset[str] = frozenset()
    """Settings without which it cannot be called: `region`, `project`."""
    path_prefix: str = "/v1"
    """What its paths begin with where the wire format says `/v1`."""
    ways: Mapping[str, Way] = field(default_factory=dict)
    """By the path of the wire format; empty: every path is taken as it is."""
    ways_dated: Mapping[str, Way] = field(default_factory=dict)
    """Instead of `ways` when the settings name an `api_version`."""
    prices: str = ""
    """The price list that holds for it; empty: only what the operator says in [models]."""
    prices_of_region: Mapping[str, str] = field(default_factory=dict)
    """Regions, as patterns, with a price list of their own."""
    price_percent: int = 100
    """What it charges at most of that list."""
    price_percent_of_region: Mapping[str, int] = field(default_factory=dict)
    """Where it charges less than that."""
    only_deployments: bool = False
    """Whether its model names say nothing, so that each has to be named with its model in `deployments`."""
    unbilled_statuses: frozenset[int] = _BEFORE_GENERATION
    output_field: str = ""
    takes_stream_options: bool = True
    takes_service_tier: bool = False
    """Whether the tier is made explicit when the client named none."""
    server_tools: frozenset[str] = frozenset()
    """Its own tools that it keeps to a bound in the request, by its documentation."""
    allow_fields: frozenset[str] = frozenset()
    set_fields: Mapping[str, str] = field(default_factory=dict)
    dropped_fields: frozenset[str] = frozenset()
    beta_field: str = ""
    price_ceiling_field: str = ""
    """The request field whose `max_price` keeps a router to endpoints that cost no more than was quoted."""
    usage: UsageRules = field(default_factory=UsageRules)


_CHAT, _COMPLETIONS, _EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
_RESPONSES, _MESSAGES = "/v1/responses", "/v1/messages"
_DATED = "api-version={api_version}"

_OPENAI = Provider("openai")
_ANTHROPIC = Provider("anthropic", key_header="x-api-key", key_prefix="", unbilled_statuses=_ALL_ERRORS)
# "If your request fails with a 400 or 500 error, you won't be charged" (its billing page); no word of a 503.
_GEMINI = Provider(
    "gemini", key_header="x-goog-api-key", key_prefix="", unbilled_statuses=_BEFORE_GENERATION | {500}, prices="google"
)
_GOOGLE_REGIONS = {
    "global": "https://aiplatform.googleapis.com",
    "us": "https://aiplatform.us.rep.googleapis.com",
    "eu": "https://aiplatform.eu.rep.googleapis.com",
}
_GOOGLE_MODEL = "/v1/projects/{project}/locations/{region}/publishers/google/models/{model}"
_CLAUDE_ON_GOOGLE = "/v1/projects/{project}/locations/{region}/publishers/anthropic/models/{model}"
_LOCAL = replace(_OPENAI, output_field="max_tokens")

COMPATIBLE: Mapping[str, Provider] = {"openai": _OPENAI, "anthropic": _ANTHROPIC, "gemini": _GEMINI}
"""By wire format: what is sound for every server that speaks it."""

PROVIDERS: Mapping[str, Provider] = {
    "openai": replace(
        _OPENAI,
        base_url="https://api.openai.com",
        key_env="OPENAI_API_KEY",
        prices="openai",
        takes_service_tier=True,
        server_tools=frozenset({"web_search", "file_search"}),
    ),
    "anthropic": replace(
        _ANTHROPIC,
        base_url="https://api.anthropic.com",
        key_env="ANTHROPIC_API_KEY",
        prices="anthropic",
        takes_service_tier=True,
        server_tools=frozenset({"web_search", "web_fetch"}),
    ),
    "gemini": replace(
        _GEMINI,
        base_url="https://generativelanguage.googleapis.com",
        key_env="GEMINI_API_KEY",
    ),
    "azure": Provider(
        "openai",
        base_url_ending="/openai",
        key_env="AZURE_OPENAI_API_KEY",
        key_header="api-key",
        key_prefix="",
        ways={path: Way("/openai" + path) for path in (_CHAT, _RESPONSES, _COMPLETIONS, _EMBEDDINGS)},
        ways_dated={
            **{
                path: Way("/openai/deployments/{model}" + path.removeprefix("/v1"), query=_DATED)
                for path in (_CHAT, _COMPLETIONS, _EMBEDDINGS)
            },
            _RESPONSES: Way("/openai/responses", query=_DATED),
        },
        prices="openai",
        # Deployments in a data zone or region cost a tenth, and for some models a fifth, more than global ones.
        price_percent=120,
        only_deployments=True,
        unbilled_statuses=_AZURE,
    ),
    "vertex": Provider(
        "gemini",
        base_url="https://{region}-aiplatform.googleapis.com",
        base_url_of_region=_GOOGLE_REGIONS,
        signing=Signing.GOOGLE,
        needs=frozenset({"project", "region"}),
        ways={
            f"/v1beta/models/{{model}}:{method}": Way(f"{_GOOGLE_MODEL}:{method}", keeps_query=True)
            for method in ("generateContent", "streamGenerateContent", "countTokens")
        },
        prices="google",
        price_percent=110,
        price_percent_of_region={"global": 100},
        # "Charged only for requests that return a 200" (its price page).
        unbilled_statuses=_ALL_ERRORS,
    ),
    "vertex-anthropic": Provider(
        "anthropic",
        base_url="https://{region}-aiplatform.googleapis.com",
        base_url_of_region=_GOOGLE_REGIONS,
        signing=Signing.GOOGLE,
        needs=frozenset({"project", "region"}),
        ways={_MESSAGES: Way(_CLAUDE_ON_GOOGLE + ":rawPredict", _CLAUDE_ON_GOOGLE + ":streamRawPredict")},
        prices="anthropic",
        price_percent=110,
        price_percent_of_region={"global": 100},
        unbilled_statuses=_ALL_ERRORS,
        set_fields={"anthropic_version": '"vertex-2023-10-16"'},
        dropped_fields=frozenset({"model", "service_tier"}),
    ),
    "bedrock": Provider(
        "anthropic",
        base_url="https://bedrock-runtime.{region}.amazonaws.com",
        key_env="AWS_BEARER_TOKEN_BEDROCK",
        signing=Signing.AWS,
        needs=frozenset({"region"}),
        also_speaks="bedrock",
        ways={
            _MESSAGES: Way("/model/{model}/invoke", "/model/{model}/invoke-with-response-stream"),
            **{f"/model/{{model}}/{method}": Way(f"/model/{{model}}/{method}") for method in (WHOLE, STREAMED, COUNT)},
        },
        prices="bedrock",
        prices_of_region={"us-gov-*": "bedrock-us-gov"},
        set_fields={"anthropic_version": '"bedrock-2023-05-31"'},
        dropped_fields=frozenset({"model", "stream", "service_tier"}),
        beta_field="anthropic_beta",
    ),
    "mistral": replace(
        _OPENAI,
        base_url="https://api.mistral.ai",
        key_env="MISTRAL_API_KEY",
        prices="mistral",
        output_field="max_tokens",
        # Usage is in the last chunk of every stream without being asked for.
        takes_stream_options=False,
    ),
    "deepseek": replace(
        _OPENAI,
        base_url="https://api.deepseek.com",
        key_env="DEEPSEEK_API_KEY",
        prices="deepseek",
        output_field="max_tokens",
        usage=UsageRules(cached_field="prompt_cache_hit_tokens"),
    ),
    "groq": replace(
        _OPENAI,
        base_url="https://api.groq.com/openai",
        key_env="GROQ_API_KEY",
        prices="groq",
    ),
    "xai": replace(
        _OPENAI,
        base_url="https://api.x.ai",
        key_env="XAI_API_KEY",
        prices="x-ai",
        unbilled_statuses=_XAI,
        usage=UsageRules(reasoning_apart=True),
    ),
    "openrouter": replace(
        _OPENAI,
        base_url="https://openrouter.ai/api",
        key_env="OPENROUTER_API_KEY",
        prices="openrouter",
        output_field="max_tokens",
        # An error status precedes every token, and what has no completion is not billed (its FAQ).
        unbilled_statuses=_ALL_ERRORS,
        allow_fields=frozenset({"provider", "reasoning", "include_reasoning", "transforms"}),
        # Where the charge had to be asked for; it is always told by now.
        set_fields={"usage": '{"include":true}'},
        price_ceiling_field="provider",
        usage=UsageRules(reports_cost=True),
    ),
    "litellm": replace(
        _OPENAI,
        base_url="http://127.0.0.1:4000",
        key_env="LITELLM_API_KEY",
        prices="any",
        only_deployments=True,
        # Each retry and each fallback of its own would be a further purchase under one hold.
        set_fields={"num_retries": "0", "disable_fallbacks": "true"},
    ),
    "ollama": replace(_LOCAL, base_url="http://127.0.0.1:11434"),
    "vllm": replace(_LOCAL, base_url="http://127.0.0.1:8000"),
    "lmstudio": replace(_LOCAL, base_url="http://127.0.0.1:1234"),
}
"""By the name that `provider = "..."` takes, and that an upstream of that name has without saying so."""

BUILT_IN = frozenset({"openai", "anthropic", "gemini"})
"""Upstreams that are there without settings; the others with a key and a place are, once their key is set."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An upstream as configured, ready to be called."""

    name: str
    base_url: str
    secret: str = field(repr=False)
    """Empty for a server that takes no key."""
    provider: Provider
    quirks: Quirks
    connect_seconds_max: float
    idle_seconds_max: float
    total_seconds_max: float
    read_on_seconds_max: float = 30.0
    """How long the rest of a reply is read when its client has left."""
    path_prefix: str = "/v1"
    ways: Mapping[str, Way] = field(default_factory=dict)
    """The provider's, with what the settings say filled in."""
    signer: Signer | None = None
    """Makes the credentials of each request; None: the key does."""

    @property
    def credentials(self) -> Signer:
        """Give what signs the requests to this endpoint."""
        if self.signer is not None:
            return self.signer
        # The settings are read with this table, and by commands that never make a request.
        from bursar.upstream.signing import KeySigner

        return KeySigner(self.provider.key_header, self.provider.key_prefix + self.secret if self.secret else "")
