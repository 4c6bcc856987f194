"""What an operator may set: `bursar.toml`, read once at the border, every key known, every default safe."""

from bursar.settings.reading import CONFIG_NAME, SettingsError, absolute_url, load, parse
from bursar.settings.root import Settings
from bursar.settings.sections import LedgerSettings, PolicySettings, ServerSettings
from bursar.settings.spenders import BudgetSettings, Defaults, KeySettings, RunTemplate, SpenderSettings
from bursar.settings.upstreams import ModelSettings, UpstreamSettings
from bursar.settings.values import SQLITE_PREFIX, nanodollars

__all__ = [
    "CONFIG_NAME",
    "SQLITE_PREFIX",
    "BudgetSettings",
    "Defaults",
    "KeySettings",
    "LedgerSettings",
    "ModelSettings",
    "PolicySettings",
    "RunTemplate",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "SpenderSettings",
    "UpstreamSettings",
    "absolute_url",
    "load",
    "nanodollars",
    "parse",
]
