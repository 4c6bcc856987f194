"""`bursar import`: what another gateway is configured to do, as a bursar.toml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bursar.cli.common import FailedError, json_option, say, show_json

if TYPE_CHECKING:
    from bursar.cli.import_litellm import Imported

MISSING = "reading YAML and writing TOML needs PyYAML and tomli-w: pip install 'bursar[import]'"


@click.group("import")
def import_() -> None:
    """Turn the configuration of another gateway into a bursar.toml.

    Example: bursar import litellm config.yaml > bursar.toml
    """


@import_.command()
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="What its /key/list answered, as JSON.")
@click.option("--teams", type=click.Path(path_type=Path, dir_okay=False), help="What its /team/list answered, as JSON.")
@json_option
def litellm(config: Path, keys: Path | None, teams: Path | None, as_json: bool) -> None:
    """Turn a LiteLLM proxy's CONFIG into settings, on stdout; on stderr, what has no counterpart.

    Virtual keys and teams are in LiteLLM's database: give what GET /key/list?return_full_object=true and GET /team/list
    answer. Secrets are not copied; the file names the variables that have to be set.

    Example: bursar import litellm config.yaml --keys keys.json > bursar.toml
    """
    from bursar.cli.import_litellm import imported

    made = imported(_yaml(config), _rows(keys, "keys"), _rows(teams, "teams"))
    text = _checked(made)
    if as_json:
        show_json({"settings": made.settings, "notes": made.notes})
        return
    click.echo(text)
    for note in made.notes:
        say(f"not as before: {note}")


def _yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise FailedError(MISSING) from None
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FailedError(f"{path} cannot be read: {error}") from None
    if not isinstance(read, dict):
        raise FailedError(f"{path} is not the configuration of a LiteLLM proxy: it has no model_list")
    return read


def _rows(path: Path | None, name: str) -> list[dict[str, Any]]:
    if path is None:
        return []
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FailedError(f"{path} cannot be read: {error}") from None
    rows = read.get(name) if isinstance(read, dict) else read
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FailedError(f"{path} is not what the proxy answers: a list, or an object with {name}")
    return rows


def _checked(made: Imported) -> str:
    """Write the settings, and make sure that a gateway would take them."""
    try:
        import tomli_w
    except ImportError:
        raise FailedError(MISSING) from None
    from bursar.settings import SettingsError, parse

    try:
        parse(made.settings, "the imported settings")
    except SettingsError as error:
        made.notes.append(f"the settings have to be mended by hand: {error}")
    return tomli_w.dumps(made.settings)
