"""Reads `bursar.toml`, and says what is wrong with it and what to do."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from bursar.settings.root import Settings
from bursar.settings.values import SQLITE_PREFIX, nearest

CONFIG_NAME = "bursar.toml"
CONFIG_BYTES_MAX = 1_048_576


class SettingsError(Exception):
    """The settings cannot be used; the message names the file, the key and what to do."""


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


def _complaint(error: dict[str, Any]) -> str:
    loc = tuple(part for part in error["loc"] if part != "[key]")
    key = ".".join(_quoted(str(part)) for part in loc)
    if error["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1])
        return f"unknown key {key}{nearest(str(loc[-1]), known)} (known here: {', '.join(known)})"
    if error["type"] == "missing":
        return f"{key} is missing; it has no default"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _quoted(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'


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
