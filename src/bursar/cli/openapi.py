"""`bursar openapi`: the description of the HTTP API, as programs read it."""

from __future__ import annotations

import click

from bursar.cli.common import show_json


@click.command()
def openapi() -> None:
    """Write the OpenAPI description of /bursar/v1 to stdout; every gateway has it as a page at /bursar/v1/docs.

    Example: bursar openapi
    """
    from bursar.edge.admin.api import description

    show_json(description())
