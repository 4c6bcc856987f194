"""From settings to the parts of a gateway; the one place where they are put together."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from bursar.clock import SECOND, SystemClock
from bursar.dialects.protocol import Quirks
from bursar.dialects.table import DIALECTS
from bursar.edge import refusals, stored_book
from bursar.edge.admin.access import Access
from bursar.edge.admin.desk import Desk
from bursar.edge.admin.oidc import Provider, Tokens
from bursar.edge.callers import LOCAL_KEY, Caller, Callers, digest
from bursar.edge.canary import KEY_SCOPE as CANARY_SCOPE
from bursar.edge.canary import Canary
from bursar.edge.declared import Declaration
from bursar.edge.idle import IdleHours
from bursar.edge.webhooks import SecretError, Webhook, read_secrets
from bursar.ledger.account import Budget, Limits, OpenScope, Unit
from bursar.ledger.hold import Ledger
from bursar.ledger.periods import LIFETIME
from bursar.ledger.store import Store
from bursar.pricing.book import Book, Terms, regional_percent
from bursar.pricing.own import OwnModel
from bursar.pricing.quote import OutputPolicy
from bursar.pricing.rates import Family
from bursar.proxy import Gate
from bursar.settings import ModelSettings, PolicySettings, Settings, UpstreamSettings
from bursar.upstream.client import Upstream
from bursar.upstream.configured import filled, ways_of
from bursar.upstream.counting import SECONDS_MAX as COUNT_SECONDS_MAX
from bursar.upstream.counting import Counting, is_providers_own
from bursar.upstream.fetch import fetch
from bursar.upstream.providers import Endpoint, Signing
from bursar.upstream.signing import MissingExtraError, Signer, aws_signer, google_signer

_LOG = logging.getLogger("bursar.webhooks")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a gateway is made of."""

    gate: Gate
    book: Book
    declared: Mapping[str, Caller]
    """The keys of the settings, by the digest of their secret."""
    rules: Mapping[str, Caller]
    """The keys of the settings, by name."""
    openings: tuple[OpenScope, ...]
    """What makes the ledger know the declared keys."""
    declarations: tuple[Declaration, ...]
    """The limits of the declared keys."""
    missing_keys: Mapping[str, str]
    """For each upstream whose secret is not set: what to do about it."""
    refusal_status: int
    idle_hours: IdleHours
    """How long the runs of each key may do nothing."""
    webhooks: tuple[Webhook, ...] = ()


def wire(settings: Settings, store: Store, provider_keys: Mapping[str, str]) -> Parts:
    """Put a gateway together; `provider_keys` are the upstreams' secrets by upstream name."""
    endpoints = {
        name: _endpoint(name, upstream, settings, provider_keys) for name, upstream in settings.upstreams.items()
    }
    book = price_book(settings)
    upstream = Upstream(endpoints, DIALECTS)
    gate = Gate(
        book=book,
        ledger=Ledger(store, settings.policy.wait_seconds_max),
        upstream=upstream,
        counting=Counting(
            upstream,
            asks={name: _counts(one) for name, one in settings.upstreams.items()},
            deployments={name: one.deployments for name, one in settings.upstreams.items()},
        ),
        endpoints=endpoints,
        policy=OutputPolicy(
            tokens_default=settings.policy.output_tokens_default,
            tokens_floor=settings.policy.output_tokens_floor,
            tokens_comfort=settings.policy.output_tokens_comfort,
            clamps=settings.policy.near_cap == "clamp",
        ),
        clock=SystemClock(),
    )
    rules = rules_of(settings)
    fixed_status = settings.policy.refusal_status
    return Parts(
        gate=gate,
        book=book,
        declared=_by_digest(rules, settings),
        rules=rules,
        openings=_openings(settings),
        declarations=declarations(settings),
        missing_keys=_missing_keys(settings, provider_keys),
        refusal_status=refusals.AUTO if fixed_status == "auto" else fixed_status,
        idle_hours=IdleHours(
            settings.defaults.run.hours,
            # The runs of `bursar run` lose their keys with it, and are gone on with as one likes.
            {
                CANARY_SCOPE: None,
                f"key:{LOCAL_KEY}": None,
                **{f"key:{name}": settings.run_template(name).hours for name in settings.keys},
            },
        ),
        webhooks=_webhooks(settings),
    )


def with_canary(settings: Settings, canary: Canary) -> Settings:
    """Give the settings with the upstream that must not be reached, and a model that has a price there only."""
    name = canary.upstream
    upstream = UpstreamSettings(**filled(name, {"dialect": "openai", "base_url": canary.upstream_url}))
    model = ModelSettings(input="1", output="1", context_tokens=8192, output_tokens_max=64, upstream=name)
    more = {"upstreams": {**settings.upstreams, name: upstream}, "models": {**settings.models, canary.model: model}}
    return settings.model_copy(update=more)


def desk(settings: Settings, store: Store, callers: Callers, book: Book) -> Desk:
    """Put together what the HTTP API works with."""
    tokens = None
    if settings.oidc is not None:
        provider = Provider(**settings.oidc.model_dump())
        tokens = Tokens(provider, fetch, SystemClock())
    return Desk(
        store=store,
        access=Access(callers, tokens),
        book=book,
        clock=SystemClock(),
        upstreams=tuple(settings.upstreams),
        timezone=settings.policy.timezone,
        templates=lambda key: settings.run_template(key).limits,
    )


def price_book(settings: Settings) -> Book:
    """Make the book that prices the calls of these settings."""
    return Book(
        own_models={
            name: OwnModel(**{**model.model_dump(), "family": Family(model.family)})
            for name, model in settings.models.items()
        },
        provider_of={name: upstream.prices or name for name, upstream in settings.upstreams.items()},
        percent_of={
            name: max(upstream.price_percent, regional_percent(upstream.base_url))
            for name, upstream in settings.upstreams.items()
        },
        terms={name: _terms(upstream, settings.policy) for name, upstream in settings.upstreams.items()},
        stored=stored_book.read(stored_book.place(settings.ledger.url)),
    )


def _terms(upstream: UpstreamSettings, policy: PolicySettings) -> Terms:
    # Between the quote and the end of the reply, a call may wait for each of these, one after the other.
    seconds = (
        COUNT_SECONDS_MAX,
        policy.wait_seconds_max,
        upstream.connect_seconds_max,
        upstream.idle_seconds_max,
        upstream.total_seconds_max,
    )
    return Terms(
        deployments=upstream.deployments,
        only_deployments=upstream.record.only_deployments,
        horizon=math.ceil(sum(seconds)) * SECOND,
    )


def _endpoint(name: str, upstream: UpstreamSettings, settings: Settings, provider_keys: Mapping[str, str]) -> Endpoint:
    provider, secret = upstream.record, provider_keys.get(name, "")
    own_read_on = upstream.read_on_seconds_max
    return Endpoint(
        name=name,
        base_url=upstream.base_url.rstrip("/"),
        secret=secret,
        provider=provider,
        quirks=Quirks(
            output_field=upstream.output_field,
            takes_stream_options=upstream.takes_stream_options,
            takes_service_tier=upstream.takes_service_tier,
            allow_fields=frozenset(settings.policy.allow_fields) | provider.allow_fields,
            set_fields=provider.set_fields,
            dropped_fields=provider.dropped_fields,
            beta_field=provider.beta_field,
            usage=provider.usage,
            server_tools=provider.server_tools.intersection(settings.policy.server_tools),
            server_tool_uses=settings.policy.server_tool_uses_default,
        ),
        connect_seconds_max=upstream.connect_seconds_max,
        idle_seconds_max=upstream.idle_seconds_max,
        total_seconds_max=upstream.total_seconds_max,
        read_on_seconds_max=settings.policy.read_on_seconds_max if own_read_on is None else own_read_on,
        path_prefix=upstream.path_prefix,
        ways=ways_of(provider, api_version=upstream.api_version, region=upstream.region, project=upstream.project),
        signer=None if secret else _signer(upstream),
    )


def _signer(upstream: UpstreamSettings) -> Signer | None:
    """Give what signs the requests where there is no key; None also where its library is missing."""
    try:
        return _made_signer(upstream)
    except MissingExtraError:
        return None  # and no call gets as far, since the upstream is among those without a key


def _made_signer(upstream: UpstreamSettings) -> Signer | None:
    match upstream.record.signing:
        case Signing.NONE:
            return None
        case Signing.GOOGLE:
            return google_signer(fetch)
        case Signing.AWS:
            return aws_signer(upstream.region)


def _missing_keys(settings: Settings, provider_keys: Mapping[str, str]) -> dict[str, str]:
    """Give what to do about each upstream that could not be called for want of a key, or of what signs instead."""
    found = {}
    for name, upstream in settings.upstreams.items():
        if provider_keys.get(name):
            continue
        if upstream.needs_key:
            found[name] = f"the gateway has no key for the upstream {name}: set {upstream.key_env} where bursar runs"
        try:
            _made_signer(upstream)
        except MissingExtraError as error:
            found[name] = f"the gateway cannot sign for the upstream {name}: {error}"
    return found


def _counts(upstream: UpstreamSettings) -> bool:
    return is_providers_own(upstream.base_url) if upstream.counts_input is None else upstream.counts_input


def rules_of(settings: Settings) -> dict[str, Caller]:
    """Give what the settings say about each key, by name."""
    return {name: _declared_caller(name, settings) for name in settings.keys}


def _declared_caller(name: str, settings: Settings) -> Caller:
    key = settings.keys[name]
    return Caller(
        key=name,
        run="",
        template=settings.run_template(name).limits,
        models=key.models,
        runs_per_hour_max=key.runs_per_hour_max,
        team=key.team,
        user=key.user,
        tags=key.tags,
        tags_required=key.tags_required,
        upstreams=key.upstreams,
        networks=key.networks,
        role=key.role,
        expires_at=key.expires,
    )


def _by_digest(rules: Mapping[str, Caller], settings: Settings) -> dict[str, Caller]:
    found: dict[str, Caller] = {}
    for name, caller in rules.items():
        secret = os.environ.get(settings.keys[name].key_env, "") if settings.keys[name].key_env else ""
        if secret:
            found[digest(secret)] = caller
    return found


def _openings(settings: Settings) -> tuple[OpenScope, ...]:
    local = OpenScope(scope=f"key:{LOCAL_KEY}", owner="", limits=Limits())
    keys = [
        OpenScope(scope=f"key:{name}", owner="", limits=key.limits, budgets=settings.key_budgets(name))
        for name, key in settings.keys.items()
    ]
    return (local, *keys)


def declarations(settings: Settings) -> tuple[Declaration, ...]:
    """A declared key has the declared limits, whatever it was opened with before; and so has everybody beside it."""
    zone = settings.policy.timezone
    keys = (
        Declaration(
            f"key:{name}",
            (
                Budget(Unit.USD, key.limits.usd, LIFETIME),
                Budget(Unit.CALLS, key.limits.calls, LIFETIME),
                *((Budget(Unit.TOKENS, key.limits.tokens, LIFETIME),) if key.limits.tokens is not None else ()),
                *settings.key_budgets(name),
            ),
        )
        for name, key in settings.keys.items()
    )
    return (*keys, *(Declaration(scope, payer.all(zone)) for scope, payer in settings.payers().items()))


def _webhooks(settings: Settings) -> tuple[Webhook, ...]:
    found: list[Webhook] = []
    for name in settings.webhooks:
        try:
            found.append(webhook_of(name, settings, os.environ))
        except ValueError as error:
            # Nobody to tell is no reason to refuse calls.
            _LOG.error("%s; nothing is told there", error)
    return tuple(found)


def webhook_of(name: str, settings: Settings, environ: Mapping[str, str]) -> Webhook:
    """Give a webhook with its secrets; raises ValueError that says which variable is wrong."""
    given = settings.webhooks[name]
    for variable in filter(None, (given.url_env, given.secret_env)):
        if not environ.get(variable):
            raise ValueError(f"[webhooks.{name}] takes a secret from {variable}, which is not set")
    try:
        url = given.url or given.checked(environ[given.url_env])
        secrets = read_secrets(environ[given.secret_env]) if given.secret_env else ()
    except SecretError as error:
        raise ValueError(f"[webhooks.{name}]: what {given.secret_env} holds {error}") from None
    except ValueError as error:
        raise ValueError(f"[webhooks.{name}]: {error}") from None
    return Webhook(name, url, secrets, given.events, given.format == "slack")
