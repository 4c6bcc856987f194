"""The command line: `bursar COMMAND`; a command is imported when it is called, so that help comes at once."""

from __future__ import annotations

import importlib
import sys

import click

# Where each command is, and what `bursar --help` says about it; in the order in which a new user needs them.
COMMANDS = {
    "run": ("bursar.cli.run:run", "Run any agent under a hard cap."),
    "serve": ("bursar.cli.serve:serve", "Serve the gateway for agents and teams."),
    "drill": ("bursar.cli.drill:drill", "Prove that the cap holds: drive agents into it."),
    "top": ("bursar.cli.top:top", "Watch live runs."),
    "runs": ("bursar.cli.runs:runs", "Open, list, show, raise, stop and resume runs."),
    "keys": ("bursar.cli.keys:keys", "List, create, rotate and revoke keys."),
    "budgets": ("bursar.cli.budgets:budgets", "List, set and remove the caps of keys and runs."),
    "ledger": ("bursar.cli.ledger:ledger", "Verify, inspect, correct, export and compact the books."),
    "events": ("bursar.cli.events:events", "List and follow what people want to hear of."),
    "canary": ("bursar.cli.canary:canary", "Show how often the gateways have proven that the cap holds."),
    "webhooks": ("bursar.cli.webhooks:webhooks", "List webhooks, and send one a test."),
    "reconcile": ("bursar.cli.reconcile:reconcile", "Compare the books with what the providers billed."),
    "prices": ("bursar.cli.prices:prices", "Show what models cost and what bounds them."),
    "mcp": ("bursar.cli.mcp:mcp", "Tell an agent its budget, as an MCP server."),
    "config": ("bursar.cli.config:config", "Check the settings, and compare them with the ledger."),
    "import": ("bursar.cli.imports:import_", "Turn another gateway's configuration into a bursar.toml."),
    "openapi": ("bursar.cli.openapi:openapi", "Write the OpenAPI description of the HTTP API."),
    "init": ("bursar.cli.init:init", "Write a commented bursar.toml."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported one by one, when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give all names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bursar", prog_name="bursar")
def cli() -> None:
    """A hard spending cap for AI agents: the next model call is refused before it is sent.

    Example: bursar run --usd 5 --calls 200 -- claude -p "fix the failing test"
    """


def main() -> None:
    """Run the command line; the console script."""
    sys.exit(cli(prog_name="bursar"))
