"""Tools that the provider runs: which are let through, what bounds them, and what is put into the request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from bursar.call import Call, Refused, ServerTool, ServerTools, Unmetered, Usage
from bursar.dialects.anthropic_messages import AnthropicMessages
from bursar.dialects.body import with_items
from bursar.dialects.openai_responses import OpenAIResponses
from bursar.dialects.protocol import Quirks, Request

ALL = Quirks(server_tools=frozenset(ServerTool), server_tool_uses=3)
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
FILES = {"type": "file_search", "vector_store_ids": ["vs_1"]}
FUNCTION = {"type": "function", "name": "f", "parameters": {}}


def claude(*tools: dict[str, Any], quirks: Quirks = ALL) -> Call | Refused:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": [], "tools": tools}
    return AnthropicMessages().parse(Request("anthropic", "/v1/messages", {}, json.dumps(body).encode(), quirks))


def gpt(*tools: dict[str, Any], quirks: Quirks = ALL, **more: Any) -> Call | Refused:
    body = {"model": "gpt-5", "input": "hi", "tools": tools, **more}
    return OpenAIResponses().parse(Request("openai", "/v1/responses", {}, json.dumps(body).encode(), quirks))


def bounds(call: Call | Refused) -> ServerTools:
    assert isinstance(call, Call), call
    return call.server_tools


def says(call: Call | Refused) -> str:
    assert isinstance(call, Refused)
    assert call.status in (400, 422)
    return call.message


# ---- what bounds a call -----------------------------------------------------------------------------------------


def test_a_call_without_such_tools_is_one_inference() -> None:
    for call in (claude({"name": "f", "input_schema": {}}), gpt(FUNCTION)):
        assert bounds(call) == ServerTools({}, passes_max=1, uses_unasked=0)
        assert isinstance(call, Call)
        assert call.output.choices == 1


@pytest.mark.parametrize(
    ("tools", "uses"),
    [
        ([SEARCH], {"web_search": 3}),
        ([SEARCH | {"max_uses": None}], {"web_search": 3}),
        ([SEARCH | {"max_uses": 7}], {"web_search": 7}),
        ([SEARCH | {"max_uses": 0}], {"web_search": 0}),
        ([SEARCH | {"max_uses": 7}, FETCH], {"web_search": 7, "web_fetch": 3}),
        ([SEARCH | {"max_uses": 7}, SEARCH], {"web_search": 10}),
    ],
)
def test_claude_is_asked_ten_times_at_most_with_the_whole_bound_of_the_output_each(
    tools: list[dict[str, Any]], uses: dict[str, int]
) -> None:
    call = claude(*tools)
    assert bounds(call) == ServerTools({ServerTool(name): most for name, most in uses.items()}, 10, 3)
    assert isinstance(call, Call)
    assert call.output.choices == 10
    assert call.input.fixed_tokens == 4_096 * len(tools)
    assert call.input.tools == len(tools)


@pytest.mark.parametrize(
    ("tools", "more", "uses", "passes"),
    [
        ([{"type": "web_search"}], {}, {"web_search": 3}, 4),
        ([{"type": "web_search_2025_08_26"}], {"max_tool_calls": None}, {"web_search": 3}, 4),
        ([{"type": "web_search"}, FILES], {"max_tool_calls": 5}, {"web_search": 5, "file_search": 5}, 6),
        ([{"type": "web_search"}], {"max_tool_calls": 0}, {"web_search": 0}, 1),
        ([{"type": "namespace", "name": "n", "tools": [FILES]}], {}, {"file_search": 3}, 4),
    ],
)
def test_gpt_is_asked_once_more_than_its_tools_may_be_called_with_one_bound_of_the_output(
    tools: list[dict[str, Any]], more: dict[str, Any], uses: dict[str, int], passes: int
) -> None:
    call = gpt(*tools, **more)
    assert bounds(call) == ServerTools({ServerTool(name): most for name, most in uses.items()}, passes, 3)
    assert isinstance(call, Call)
    assert call.output.choices == 1
    assert call.input.fixed_tokens == 4_096 * len(uses)


def test_a_tool_in_the_input_counts_like_one_among_the_tools() -> None:
    item = {"type": "additional_tools", "tools": [{"type": "web_search"}]}
    assert bounds(gpt(input=[item])).uses_max == {ServerTool.WEB_SEARCH: 3}


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "name", "kind"),
    [
        (lambda: claude(SEARCH, quirks=Quirks()), "web_search", "web_search_20250305"),
        (
            lambda: claude(FETCH, quirks=Quirks(server_tools=frozenset({"web_search"}))),
            "web_fetch",
            "web_fetch_20250910",
        ),
        (lambda: gpt(FILES, quirks=Quirks(server_tools=frozenset({"web_search"}))), "file_search", "file_search"),
        (lambda: gpt({"type": "web_search"}, quirks=Quirks()), "web_search", "web_search"),
    ],
)
def test_a_tool_that_is_not_let_through_is_refused_with_the_setting_that_would(
    call: Callable[[], Call | Refused], name: str, kind: str
) -> None:
    message = says(call())
    assert message.startswith(f"The tool type `{kind}` is refused: it runs on the provider's side")
    assert f'`[policy] server_tools = ["{name}"]` lets it through' in message
    assert message.endswith("keeps to one (of the built-in ones openai and anthropic).")


@pytest.mark.parametrize(
    "call",
    [
        lambda: claude({"type": "code_execution_20250825", "name": "code_execution"}),
        lambda: claude({"type": ["web_search_20250305"]}),
        lambda: gpt({"type": "web_search_preview"}),
        lambda: gpt({"type": "code_interpreter", "container": {"type": "auto"}}),
        lambda: gpt({"type": "mcp", "server_label": "x"}),
    ],
)
def test_a_tool_that_nothing_bounds_is_refused_whatever_is_let_through(call: Callable[[], Call | Refused]) -> None:
    assert "nothing bounds what it costs" in says(call())


@pytest.mark.parametrize(
    ("tool", "is_refused"),
    [
        (SEARCH, False),
        (SEARCH | {"allowed_callers": ["direct"]}, False),
        (SEARCH | {"allowed_callers": ["direct", "code_execution_20260120"]}, True),
        (SEARCH | {"allowed_callers": []}, True),
        (SEARCH | {"type": "web_search_20260209"}, True),
        (SEARCH | {"type": "web_search_20260318", "allowed_callers": ["direct"]}, False),
        (FETCH, False),
        (FETCH | {"type": "web_fetch_20260209"}, True),
        (FETCH | {"type": "web_fetch_20260309", "allowed_callers": ["direct"]}, False),
        (FETCH | {"type": "web_fetch_20260318", "allowed_callers": None}, True),
    ],
)
def test_a_tool_that_code_on_the_server_may_call_is_refused(tool: dict[str, Any], is_refused: bool) -> None:
    call = claude(tool)
    if is_refused:
        assert says(call).endswith('nothing bounds what runs there. Say `"allowed_callers": ["direct"]` in it.')
    else:
        assert bounds(call).passes_max == 10


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: claude(SEARCH | {"depth": 9}), "tools.web_search.depth"),
        (lambda: claude(FETCH | {"depth": 9}), "tools.web_fetch.depth"),
        (lambda: claude(SEARCH | {"defer_loading": True}), "tools.web_search.defer_loading"),
        (lambda: gpt({"type": "web_search", "depth": 9}), "tools.web_search.depth"),
        (lambda: gpt(FILES | {"user_location": {}}), "tools.file_search.user_location"),
    ],
)
def test_a_field_of_such_a_tool_that_is_not_known_is_refused(call: Callable[[], Call | Refused], field: str) -> None:
    assert f"`{field}`" in says(call())


@pytest.mark.parametrize(
    "call",
    [
        lambda: claude(SEARCH | {"max_uses": -1}),
        lambda: claude(SEARCH | {"max_uses": "3"}),
        lambda: gpt({"type": "web_search"}, max_tool_calls=-1),
        lambda: gpt({"type": "web_search"}, max_tool_calls=1.5),
    ],
)
def test_a_bound_that_is_no_count_is_refused(call: Callable[[], Call | Refused]) -> None:
    assert "must be a whole number from 0" in says(call())


def test_every_field_of_such_a_tool_that_costs_nothing_more_is_let_through() -> None:
    searching: dict[str, Any] = {
        "allowed_domains": [],
        "blocked_domains": [],
        "user_location": {},
        "cache_control": None,
    }
    fetching = {"citations": {}, "max_content_tokens": 9, "url_sources": {}, "use_cache": True, "strict": True}
    assert isinstance(claude(SEARCH | searching, FETCH | fetching | {"response_inclusion": "full"}), Call)
    web = {"type": "web_search", "filters": {}, "user_location": {}, "search_context_size": "low"}
    files = FILES | {"filters": {}, "max_num_results": 5, "ranking_options": {}}
    assert isinstance(gpt(web | {"external_web_access": False}, files), Call)


# ---- what is sent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "sent"),
    [
        ('[{"type":"web_search_20250305"}]', '[{"max_uses":3,"type":"web_search_20250305"}]'),
        ('[ {"max_uses" : null, "type":"web_fetch_20250910"} ]', '[ {"max_uses" : 3, "type":"web_fetch_20250910"} ]'),
        (
            '[{"name":"f", "input_schema":{}} ,\n {"type":"web_search_20250305"},{"type":"custom"}]',
            '[{"name":"f", "input_schema":{}} ,\n {"max_uses":3,"type":"web_search_20250305"},{"type":"custom"}]',
        ),
        ('[{"type":"web_search_20250305", "max_uses":9}]', '[{"type":"web_search_20250305", "max_uses":9}]'),
    ],
)
def test_a_bound_is_put_into_the_tools_that_came_with_none_and_nothing_else_is_touched(tools: str, sent: str) -> None:
    body = '{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[],"tools":' + tools + "}"
    call = AnthropicMessages().parse(Request("anthropic", "/v1/messages", {}, body.encode(), ALL))
    assert isinstance(call, Call)
    rendered = AnthropicMessages().render(call, 5, Quirks(takes_service_tier=False))
    assert rendered.decode() == body.replace(tools, sent)


@pytest.mark.parametrize(
    ("field", "sent"), [("", '"max_tool_calls":3,'), ('"max_tool_calls": 5,', '"max_tool_calls": 5,')]
)
def test_the_calls_of_tools_get_a_bound_where_the_client_set_none(field: str, sent: str) -> None:
    body = '{"model":"gpt-5",' + field + '"max_output_tokens":50,"input":"hi","tools":[{"type":"web_search"}]}'
    call = OpenAIResponses().parse(Request("openai", "/v1/responses", {}, body.encode(), ALL))
    assert isinstance(call, Call)
    rendered = OpenAIResponses().render(call, 50, Quirks(takes_service_tier=False)).decode()
    assert sorted(json.loads(rendered)) == ["input", "max_output_tokens", "max_tool_calls", "model", "tools"]
    assert sent in rendered


def test_a_call_without_such_tools_is_sent_as_it_is() -> None:
    for dialect, call in ((AnthropicMessages(), claude({"name": "f"})), (OpenAIResponses(), gpt(FUNCTION))):
        assert isinstance(call, Call)
        sent = json.loads(dialect.render(call, 50, Quirks(takes_service_tier=False)))
        assert "max_tool_calls" not in sent
        assert sent["tools"] == json.loads(call.body.text)["tools"]


@pytest.mark.parametrize("text", ["[]", "[ ]", "[1]", '[ 1 ,\t"]" , [2],{"a":[]} ]'])
def test_a_list_whose_items_are_left_alone_stays_as_it_was(text: str) -> None:
    assert with_items(text, lambda _value, item: item) == text


def test_the_items_of_a_list_are_given_with_their_values() -> None:
    changed = with_items('[1, "a" ,{"b": 2}]', lambda value, item: f"<{value} {item}>")
    assert changed == """[<1 1>, <a "a"> ,<{'b': 2} {"b": 2}>]"""


# ---- what is metered --------------------------------------------------------------------------------------------


def metered_gpt(output: list[Any], call: Call | Refused) -> Usage | Unmetered:
    assert isinstance(call, Call)
    meter = OpenAIResponses().meter(call, 200, "application/json")
    meter.feed(json.dumps({"output": output, "usage": {"input_tokens": 9, "output_tokens": 1}}).encode())
    return meter.finish()[1]


@pytest.mark.parametrize(
    ("item", "uses"),
    [
        ({"type": "web_search_call", "action": {"type": "search"}}, 1),
        ({"type": "web_search_call", "action": {"type": "open_page"}}, 0),
        ({"type": "web_search_call", "action": {"type": "find_in_page"}}, 0),
        ({"type": "web_search_call", "action": {"type": "buy"}}, 1),
        ({"type": "web_search_call", "action": None}, 1),
        ({"type": "web_search_call", "action": {"type": ["open_page"]}}, 1),
        ({"type": ["web_search_call"]}, 0),
        ("web_search_call", 0),
    ],
)
def test_what_is_not_known_to_be_free_is_a_search(item: object, uses: int) -> None:
    usage = metered_gpt([item], gpt({"type": "web_search"}))
    assert isinstance(usage, Usage)
    assert usage.tool_uses == ({ServerTool.WEB_SEARCH: uses} if uses else {})


def test_a_stream_is_counted_by_the_items_that_are_done_and_by_its_end_whichever_is_more() -> None:
    def event(kind: str, **more: object) -> bytes:
        return b"data: " + json.dumps({"type": f"response.{kind}", **more}).encode() + b"\n\n"

    def ended(times: int) -> bytes:
        usage = {"input_tokens": 9, "output_tokens": 1}
        return event("completed", response={"output": [search] * times, "usage": usage})

    search = {"type": "web_search_call", "action": {"type": "search"}}
    added, done = event("output_item.added", item=search), event("output_item.done", item=search)
    call = gpt({"type": "web_search"})
    assert isinstance(call, Call)
    for stream, uses in (
        (added + ended(0), 0),
        (done + ended(0), 1),
        (added + done + ended(1), 1),
        (done + ended(3), 3),
    ):
        meter = OpenAIResponses().meter(call, 200, "text/event-stream")
        meter.feed(stream)
        assert meter.finish()[1] == Usage(9, 1, tool_uses={ServerTool.WEB_SEARCH: uses} if uses else {})


def test_a_tool_that_was_not_offered_is_not_counted_but_held() -> None:
    usage = metered_gpt([{"type": "file_search_call"}], gpt({"type": "web_search"}))
    assert usage == Unmetered("a tool on the provider's side was used, and its fee is not in the usage")


USED = [{"type": "server_tool_use", "name": "web_search"}]


@pytest.mark.parametrize("content", [None, "text", [7], USED, [{"name": "web_fetch"}]])
@pytest.mark.parametrize("figure", [None, {"web_search_requests": 0}])
def test_a_use_of_claude_s_without_its_figure_is_held(content: object, figure: object) -> None:
    call = claude(SEARCH)
    assert isinstance(call, Call)
    meter = AnthropicMessages().meter(call, 200, "application/json")
    usage = {"input_tokens": 9, "output_tokens": 1, "server_tool_use": figure}
    meter.feed(json.dumps({"content": content, "usage": usage}).encode())
    found = meter.finish()[1]
    if content is USED and figure is None:
        assert found == Unmetered("a tool on the provider's side was used, and how often is not in the usage")
    else:
        assert found == Usage(9, 1)


@pytest.mark.parametrize("times", [-1, True, "1", 1.5, 10**12])
def test_a_figure_that_is_no_count_is_held(times: object) -> None:
    call = claude(SEARCH)
    assert isinstance(call, Call)
    meter = AnthropicMessages().meter(call, 200, "application/json")
    usage = {"input_tokens": 9, "output_tokens": 1, "server_tool_use": {"web_search_requests": times}}
    meter.feed(json.dumps({"usage": usage}).encode())
    assert meter.finish()[1] == Unmetered("`web_search_requests` is not a count of tokens")


def test_a_figure_of_a_tool_that_was_not_offered_is_held() -> None:
    call = claude(FETCH)
    assert isinstance(call, Call)
    meter = AnthropicMessages().meter(call, 200, "application/json")
    used = {"web_fetch_requests": 1, "web_search_requests": 1}
    meter.feed(json.dumps({"usage": {"input_tokens": 9, "output_tokens": 1, "server_tool_use": used}}).encode())
    why = "a tool on the provider's side was used (web_search_requests), and its fee is not held"
    assert meter.finish()[1] == Unmetered(why)


@pytest.mark.parametrize(
    "name", ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"]
)
@pytest.mark.parametrize("more", [0, 1])
def test_a_usage_of_less_than_its_inferences_have_used_is_held(name: str, more: int) -> None:
    call = claude(SEARCH)
    assert isinstance(call, Call)
    counts = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    usage: dict[str, Any] = dict.fromkeys(counts, 30)
    first, second = ({"type": "message", **dict.fromkeys(counts, part)} for part in (10, 20))
    usage["iterations"] = [first, second | {name: 20 + more}]
    meter = AnthropicMessages().meter(call, 200, "application/json")
    meter.feed(json.dumps({"usage": usage}).encode())
    found = meter.finish()[1]
    if more:
        assert found == Unmetered("the usage contradicts itself: less than its iterations have used")
    else:
        assert found == Usage(30, 30, 30, 30)
