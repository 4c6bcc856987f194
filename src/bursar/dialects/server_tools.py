"""Tools that the provider runs: let through where the operator says so, and never without a bound."""

from __future__ import annotations

from bursar.call import ServerTool, ServerTools
from bursar.dialects.body import object_with, shown, unbounded, with_items
from bursar.dialects.fields import Seen, member_of, names, only_known_in, whole
from bursar.dialects.meters import UntrustedError, count, inner
from bursar.dialects.protocol import Quirks

TOOL_TOKENS = 4_096
"""More than a description that the provider itself gives to the model is known to take."""

ANTHROPIC_PASSES_MAX = 10
"""The provider pauses a turn after so many inferences (`pause_turn`).

`max_uses` bounds only the uses: one above it gets an error for its result, and the model is asked again.
"""
ANTHROPIC_MARK = b'"server_tool_use"'
"""Occurs in the event that begins a use."""
_ANTHROPIC_TOOLS = {
    **dict.fromkeys(names("web_search_20250305 web_search_20260209 web_search_20260318"), ServerTool.WEB_SEARCH),
    **dict.fromkeys(
        names("web_fetch_20250910 web_fetch_20260209 web_fetch_20260309 web_fetch_20260318"), ServerTool.WEB_FETCH
    ),
}
# The older ones are called by the model only; the newer ones, unless told otherwise, by code that runs on the server.
_CALLED_DIRECTLY = frozenset({"web_search_20250305", "web_fetch_20250910"})
_ANTHROPIC_FIELDS = names(
    """
    type name max_uses allowed_callers allowed_domains blocked_domains user_location cache_control strict
    citations max_content_tokens url_sources use_cache response_inclusion
    """
)

OPENAI_MARK = b'_search_call"'
"""Occurs in the events about the items that are paid by the use."""
OPENAI_USES_FIELD = "max_tool_calls"
OPENAI_PAID_ITEMS = {"web_search_call": ServerTool.WEB_SEARCH, "file_search_call": ServerTool.FILE_SEARCH}
"""Each item of the output is one use."""
_OPENAI_TOOLS = {
    "web_search": ServerTool.WEB_SEARCH,
    "web_search_2025_08_26": ServerTool.WEB_SEARCH,
    "file_search": ServerTool.FILE_SEARCH,
}
_OPENAI_FIELDS = {
    ServerTool.WEB_SEARCH: names("type filters user_location search_context_size external_web_access"),
    ServerTool.FILE_SEARCH: names("type vector_store_ids filters max_num_results ranking_options"),
}
# "Search actions incur a tool call cost" (OpenAI's guide to the tool); the others read what a search has found.
_UNPAID_ACTIONS = ("open_page", "find_in_page")


# ---- Anthropic ------------------------------------------------------------------------------------------------------


def takes_anthropic_tool(seen: Seen, kind: object, tool: dict[str, object], quirks: Quirks) -> bool:
    """Note a tool of the provider's own that is let through; say whether it is one, or refuse it."""
    if not isinstance(kind, str) or kind not in _ANTHROPIC_TOOLS:
        return False
    found = _ANTHROPIC_TOOLS[kind]
    _only_let_through(found, kind, quirks)
    only_known_in(tool, f"tools.{found}", _ANTHROPIC_FIELDS, quirks)
    callers = tool.get("allowed_callers")
    if callers != ["direct"] and (callers is not None or kind not in _CALLED_DIRECTLY):
        raise unbounded(
            f"The tool type `{kind}` is refused where code on the server may call it: nothing bounds what runs there. "
            'Say `"allowed_callers": ["direct"]` in it.'
        )
    uses = whole(tool, "max_uses", 0)
    seen.server_tools[found] = seen.server_tools.get(found, 0) + (quirks.server_tool_uses if uses is None else uses)
    seen.fixed_tokens += TOOL_TOKENS
    return True


def anthropic_bounds(seen: Seen, quirks: Quirks) -> ServerTools:
    """Give what bounds the tools that were met."""
    if not seen.server_tools:
        return ServerTools()
    return ServerTools(seen.server_tools, ANTHROPIC_PASSES_MAX, quirks.server_tool_uses)


def with_max_uses(tools: str, uses: int) -> str:
    """Give the tools with a bound in each of the provider's own that came with none."""

    def bounded(tool: object, text: str) -> str:
        is_unbounded = member_of(tool, "type") in _ANTHROPIC_TOOLS and member_of(tool, "max_uses") is None
        return object_with(text, "max_uses", str(uses)) if is_unbounded else text

    return with_items(tools, bounded)


def anthropic_uses(message: dict[str, object], offered: ServerTools) -> dict[ServerTool, int]:
    """Give how often the tools were used, from a whole message; raises UntrustedError."""
    reported = inner(inner(message, "usage"), "server_tool_use")
    for name, value in reported.items():
        if value and name not in {f"{tool}_requests" for tool in offered.uses_max}:
            raise UntrustedError(f"a tool on the provider's side was used ({name}), and its fee is not held")
    content = message.get("content")
    for block in content if isinstance(content, list) else ():
        # Uses that failed are not in the figure, but the figure is always there.
        used = member_of(block, "name")
        if member_of(block, "type") == "server_tool_use" and reported.get(f"{used}_requests") is None:
            raise UntrustedError("a tool on the provider's side was used, and how often is not in the usage")
    uses = {tool: count(reported, f"{tool}_requests") for tool in offered.uses_max}
    return {tool: times for tool, times in uses.items() if times}


# ---- OpenAI ---------------------------------------------------------------------------------------------------------


def takes_openai_tool(seen: Seen, kind: str, tool: dict[str, object], quirks: Quirks) -> bool:
    """Note a tool of the provider's own that is let through; say whether it is one, or refuse it."""
    found = _OPENAI_TOOLS.get(kind)
    if found is None:
        return False
    _only_let_through(found, kind, quirks)
    only_known_in(tool, f"tools.{found}", _OPENAI_FIELDS[found], quirks)
    seen.server_tools[found] = quirks.server_tool_uses
    seen.fixed_tokens += TOOL_TOKENS
    return True


def openai_bounds(seen: Seen, values: dict[str, object], quirks: Quirks) -> ServerTools:
    """Give what bounds the tools that were met: `max_tool_calls` is for all of them together."""
    if not seen.server_tools:
        return ServerTools()
    asked = whole(values, OPENAI_USES_FIELD, 0)
    uses = quirks.server_tool_uses if asked is None else asked
    return ServerTools(dict.fromkeys(seen.server_tools, uses), uses + 1, quirks.server_tool_uses)


def openai_uses(items: object) -> dict[ServerTool, int]:
    """Count the items of an output that are paid by the use."""
    uses: dict[ServerTool, int] = {}
    for item in items if isinstance(items, list) else ():
        kind = member_of(item, "type")
        tool = OPENAI_PAID_ITEMS.get(kind) if isinstance(kind, str) else None
        if tool is not None and member_of(member_of(item, "action"), "type") not in _UNPAID_ACTIONS:
            uses[tool] = uses.get(tool, 0) + 1
    return uses


def _only_let_through(tool: ServerTool, kind: str, quirks: Quirks) -> None:
    if tool not in quirks.server_tools:
        raise unbounded(
            f"The tool type `{shown(kind)}` is refused: it runs on the provider's side and is paid by the use. "
            f'`[policy] server_tools = ["{tool}"]` lets it through, with a bound, at an upstream that keeps to one '
            "(of the built-in ones openai and anthropic)."
        )
