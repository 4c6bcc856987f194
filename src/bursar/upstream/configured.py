"""From what the settings say of an upstream, and what its provider does anyway, to what is called."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bursar.upstream.providers import BUILT_IN, COMPATIBLE, PROVIDERS, Provider, Way

_FROM_THE_PROVIDER = ("dialect", "key_env", "output_field", "path_prefix")
_SWITCHES = ("takes_stream_options", "takes_service_tier")


def built_in(environ: Mapping[str, str]) -> list[str]:
    """Give the upstreams that are there without settings: the three, and every other one whose key is set."""
    return [
        name
        for name, provider in PROVIDERS.items()
        if name in BUILT_IN or (environ.get(provider.key_env) and _is_complete(provider))
    ]


def _is_complete(provider: Provider) -> bool:
    return bool(provider.base_url) and not provider.needs and not provider.only_deployments


def provider_name(name: str, given: Mapping[str, Any]) -> str:
    """Give the provider that the upstream names, or has the name of; empty: any server of that wire format.

    Raises ValueError where it names one that is not known.
    """
    named = given.get("provider") or ""
    if named in PROVIDERS:
        return str(named)
    if named:
        near = difflib.get_close_matches(str(named), PROVIDERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name}: there is no provider {named!r}{hint} (known: {', '.join(sorted(PROVIDERS))})")
    speaks = PROVIDERS[name].dialect if name in PROVIDERS else ""
    return name if speaks and given.get("dialect", speaks) == speaks else ""


def filled(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of one upstream with what is known of its provider; raises ValueError."""
    made = dict(given)
    made["provider"] = provider_name(name, given)
    provider = record(made["provider"], str(made.get("dialect", "")))
    if provider is None:
        return made  # no provider and no dialect, which the checks of the settings say
    if provider.dialect != made.get("dialect", provider.dialect):
        raise ValueError(f"{name}: {made['provider']} speaks the {provider.dialect} dialect, not {made['dialect']}")
    missing = sorted(need for need in provider.needs if not made.get(need))
    if missing:
        raise ValueError(f"{name}: {made['provider']} needs {' and '.join(missing)}")
    region = str(made.get("region", ""))
    made.setdefault("price_percent", provider.price_percent_of_region.get(region, provider.price_percent))
    of_region = [prices for known, prices in provider.prices_of_region.items() if fnmatch.fnmatchcase(region, known)]
    made.setdefault("prices", next(iter(of_region), provider.prices))
    for key in _FROM_THE_PROVIDER:
        made.setdefault(key, getattr(provider, key))
    for key in _SWITCHES:
        if made.get(key) is None:
            made[key] = getattr(provider, key)
    made["prices"] = made["prices"] or name
    base_url = _base_url(provider, region)
    if base_url:
        made.setdefault("base_url", base_url)
    if provider.base_url_ending and isinstance(made.get("base_url"), str):
        made["base_url"] = made["base_url"].rstrip("/").removesuffix("/v1").removesuffix(provider.base_url_ending)
    return made


def record(provider: str, dialect: str) -> Provider | None:
    """Give what is known of a provider, or of every server that speaks the dialect."""
    return PROVIDERS.get(provider) or COMPATIBLE.get(dialect)


def ways_of(provider: Provider, *, api_version: str, region: str, project: str) -> dict[str, Way]:
    """Give the provider's paths with what the settings say filled in."""
    words = {"{api_version}": api_version, "{region}": region, "{project}": project}
    ways = provider.ways_dated if api_version and provider.ways_dated else provider.ways
    return {
        path: replace(
            way, to=_said(way.to, words), to_stream=_said(way.to_stream, words), query=_said(way.query, words)
        )
        for path, way in ways.items()
    }


def _base_url(provider: Provider, region: str) -> str:
    return provider.base_url_of_region.get(region) or provider.base_url.replace("{region}", region)


def _said(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
