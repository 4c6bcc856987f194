"""What holds for every body and every stream, whatever is in them."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from fuzz_parsers import check
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar.call import Call, Refused, Unmetered, Usage
from bursar.dialects.body import Document, RefusedError, read
from bursar.dialects.fields import Seen, input_facts
from bursar.dialects.protocol import Dialect, Quirks, Request
from bursar.dialects.table import DIALECTS

PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "openai_completions": "/v1/completions",
    "openai_embeddings": "/v1/embeddings",
    "anthropic_messages": "/v1/messages",
    "gemini": "/v1beta/models/m:streamGenerateContent",
    "gemini_embeddings": "/v1beta/models/m:batchEmbedContents",
    "bedrock_converse": "/model/m/converse-stream",
}
BOUNDED = {"max_tokens", "max_completion_tokens", "max_output_tokens", "service_tier", "stream_options", "thinking"}
CONFIGS = {"generationConfig", "generation_config"}
CONFIGS_OF = {"gemini": CONFIGS, "bedrock_converse": {"inferenceConfig"}}
WITHOUT_OUTPUT = {"openai_embeddings", "gemini_embeddings"}
ALL = sorted(DIALECTS)
SETTINGS = settings(max_examples=150, deadline=None, database=None, print_blob=True)

# Names and values that mean something in one place are tried in every other.
NAMES = st.sampled_from(
    """
    model messages input stream stream_options include_usage max_tokens max_completion_tokens max_output_tokens n
    service_tier tools type content role text image_url url detail source data system thinking budget_tokens
    cache_control ttl metadata user_id session_id prompt_cache_key prompt_cache_options prediction modalities
    previous_response_id conversation reasoning mode context_management edits background inference_geo speed
    output environment execution usage functions client_metadata
    contents parts inlineData inline_data mimeType fileData generationConfig generation_config maxOutputTokens
    candidateCount candidate_count thinkingConfig thinkingBudget functionDeclarations googleSearch cachedContent
    serviceTier systemInstruction functionResponse requests prompt best_of echo dimensions
    inferenceConfig maxTokens toolConfig toolSpec cachePoint toolUse toolResult reasoningContent s3Location bytes
    additionalModelRequestFields anthropic_beta performanceConfig latency guardrailConfig outputConfig json
    """.split()  # noqa: SIM905
)
WORDS = st.sampled_from(
    """
    gpt-5 claude-sonnet-4-5 user message text input_text image image_url input_image base64 url function custom
    namespace additional_tools tool_result document content file default auto flex us fast 1h 5m enabled
    clear_thinking_20251015 function_call_output item_reference bash_20250124 data:image/png;base64,iVBORw0KGgo=
    """.split()  # noqa: SIM905
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
VALUES = st.recursive(
    SCALARS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=5),
    max_leaves=12,
)
REQUESTS = st.dictionaries(NAMES, VALUES, max_size=6).map(
    lambda fields: {"model": "m", "messages": [], "max_tokens": 9_000, **fields}
)
RESPONSES = st.dictionaries(NAMES, VALUES, max_size=6).map(lambda fields: {"model": "m", "input": "x", **fields})
GOOGLE = st.dictionaries(NAMES, VALUES, max_size=4).map(
    lambda fields: {"contents": [{"parts": [{"text": "x"}]}], **fields}
)
CONFIGURED = st.tuples(GOOGLE, st.sampled_from(sorted(CONFIGS)), st.dictionaries(NAMES, VALUES, max_size=3)).map(
    lambda made: {**made[0], made[1]: made[2]}
)
EMBEDDED = st.lists(st.dictionaries(NAMES, VALUES, max_size=2), max_size=3).map(
    lambda many: {"requests": [{"content": {"parts": [{"text": "x"}]}, **one} for one in many]}
)
CONVERSED = st.dictionaries(NAMES, VALUES, max_size=3).map(
    lambda fields: {"messages": [{"role": "user", "content": [{"text": "x"}, fields]}], "inferenceConfig": fields}
)
BODIES = REQUESTS | RESPONSES | GOOGLE | CONFIGURED | EMBEDDED | CONVERSED


def parse(name: str, raw: bytes) -> Call | Refused:
    headers = {"anthropic-beta": "", "openai-beta": ""}
    return DIALECTS[name].parse(Request("up", PATHS[name], headers, raw))


@pytest.mark.parametrize("name", ALL)
@SETTINGS
@given(raw=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_parse_never_raises_on_bytes(name: str, raw: bytes) -> None:
    assert isinstance(parse(name, raw), Call | Refused)


@pytest.mark.parametrize("name", ALL)
@SETTINGS
@given(body=BODIES | VALUES, escapes=st.booleans())
def test_parse_never_raises_on_json(name: str, body: object, escapes: bool) -> None:
    call = parse(name, json.dumps(body, ensure_ascii=escapes).encode("utf-8", "replace"))
    if isinstance(call, Call):
        assert call.input.text_bytes >= 0
        assert call.output.tokens_asked is None or 0 <= call.output.tokens_asked <= 10_000_000
        assert 0 <= call.output.tokens_min <= 10_000_001
        assert 1 <= call.output.choices <= 128
        assert all(name.isascii() and name.isprintable() for name in (call.model, call.service_tier))
    else:
        assert call.message.isprintable()


def members_as_sent(document: Document) -> dict[str, str]:
    body = document.body
    return {name: body.text[at.key_start : at.value_end] for name, at in body.members.items()}


@pytest.mark.parametrize("name", ALL)
@SETTINGS
@given(
    body=BODIES,
    spaces=st.integers(0, 3),
    escapes=st.booleans(),
    output_tokens=st.integers(1, 10_000_000),
    quirks=st.builds(
        Quirks,
        output_field=st.sampled_from(["", "max_tokens"]),
        takes_stream_options=st.booleans(),
        takes_service_tier=st.booleans(),
    ),
)
def test_render_changes_nothing_but_what_bounds_and_meters(
    name: str, body: dict[str, Any], spaces: int, escapes: bool, output_tokens: int, quirks: Quirks
) -> None:
    raw = json.dumps(body, indent=spaces or None, ensure_ascii=escapes).encode("utf-8", "replace")
    call = parse(name, raw)
    if not isinstance(call, Call):
        return
    sent = read(DIALECTS[name].render(call, output_tokens, quirks))
    before, after = members_as_sent(read(raw)), members_as_sent(sent)
    may_change = set() if name in WITHOUT_OUTPUT else CONFIGS_OF.get(name, BOUNDED)
    assert {name: text for name, text in before.items() if name not in may_change} == {
        name: text for name, text in after.items() if name not in may_change
    }
    holder = sent.values
    if name in CONFIGS_OF:
        (config,) = CONFIGS_OF[name] & holder.keys()
        holder = holder[config]  # type: ignore[assignment]
        before_bound = read(raw).values.get(config) or {}
        names = {"maxOutputTokens", "max_output_tokens", "maxTokens"}
        assert {k: v for k, v in holder.items() if k not in names} == {
            k: v
            for k, v in before_bound.items()  # type: ignore[attr-defined]
            if k not in names
        }
    bounds = [value for field, value in holder.items() if field.lower().startswith("max") and value is not None]
    assert bounds == ([] if name in WITHOUT_OUTPUT else [output_tokens])
    if call.stream and name in DROPPING and quirks.takes_stream_options:
        options = sent.values["stream_options"]
        assert isinstance(options, dict)
        assert options["include_usage"] is True


def texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain(value, *map(texts_in, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain(*map(texts_in, value))


TEXTS = st.recursive(
    st.text(max_size=20) | st.text('e\u0301\u0300\n\t"\\/nrtbf\U0001d160\ufb2cア', max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(SETTINGS, max_examples=500)
@given(value=TEXTS, escapes=st.booleans())
def test_the_text_is_never_measured_too_short(value: object, escapes: bool) -> None:
    try:
        raw = json.dumps({"a": value}, ensure_ascii=escapes).encode()
        document = read(raw)
    except (UnicodeEncodeError, RefusedError):
        return
    measured = input_facts(document, Seen())
    texts = list(texts_in(value))
    assert measured.text_bytes >= sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    assert measured.nfc_bytes >= sum(
        len(unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")) for text in texts
    )
    assert measured.is_ascii == all(text.isascii() for text in texts)


# Every dialect's stream: events, what the client gets that did not ask for usage, and the usage.
DROPPING = {"openai_chat", "openai_completions"}
GEMINI = {"promptTokenCount": 20, "candidatesTokenCount": 4, "thoughtsTokenCount": 3, "totalTokenCount": 27}
CHAT = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
MESSAGE = {"input_tokens": 20, "cache_read_input_tokens": 3, "output_tokens": 1}
RESPONSE = {"input_tokens": 20, "output_tokens": 7, "total_tokens": 27}
STREAMS: dict[str, tuple[list[object], Usage]] = {
    "openai_chat": (
        [
            {"choices": [{"delta": {"content": 'é "usage":{ \n\n'}}], "usage": None},
            {"choices": [], "usage": CHAT},
            "[DONE]",
        ],
        Usage(20, 7),
    ),
    "openai_completions": (
        [
            {"choices": [{"text": 'é "usage":{ \n\n'}], "usage": None},
            {"choices": [], "usage": CHAT},
            "[DONE]",
        ],
        Usage(20, 7),
    ),
    "gemini": (
        [
            {"candidates": [{"content": {"parts": [{"text": 'é "finishReason":"STOP"'}]}}]},
            {"candidates": [{"finishReason": "STOP"}], "usageMetadata": GEMINI},
        ],
        Usage(20, 7),
    ),
    "openai_responses": (
        [
            {"type": "response.output_text.delta", "delta": "response.completed"},
            {"type": "response.completed", "response": {"status": "completed", "usage": RESPONSE}},
        ],
        Usage(20, 7),
    ),
    "anthropic_messages": (
        [
            {"type": "message_start", "message": {"model": "m", "usage": MESSAGE}},
            {"type": "content_block_delta", "delta": {"text": "message_stop"}},
            {"type": "message_delta", "usage": {"output_tokens": 7}},
            {"type": "message_stop"},
        ],
        Usage(20, 7, cache_read_tokens=3, model="m"),
    ),
}


def stream_of(events: list[object], eol: str, pings: list[bool]) -> bytes:
    pieces = []
    for event, ping in zip(events, itertools.cycle(pings or [False])):
        data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
        pieces.append((f": ping{eol}{eol}" if ping else "") + f"data: {data}{eol}{eol}")
    return "".join(pieces).encode()


def call_of(name: str, asked: bool) -> Call:
    bodies: dict[str, dict[str, object]] = {
        "openai_chat": {"messages": [], "stream_options": {"include_usage": asked}},
        "openai_responses": {"input": "x"},
        "openai_completions": {"stream_options": {"include_usage": asked}},
        "openai_embeddings": {"input": "x"},
        "anthropic_messages": {"messages": [], "max_tokens": 5},
        "gemini": {"contents": [{}]},
        "gemini_embeddings": {"requests": [{"content": {}}]},
        "bedrock_converse": {"messages": [{}]},
    }
    common = (
        {}
        if name.startswith(("gemini", "bedrock"))
        else {"model": "m"} | ({} if name in WITHOUT_OUTPUT else {"stream": True})
    )
    call = parse(name, json.dumps({**common, **bodies[name]}).encode())
    assert isinstance(call, Call)
    return call


def through(dialect: Dialect, call: Call, stream: bytes, cuts: list[int]) -> tuple[bytes, Usage | Unmetered]:
    meter = dialect.meter(call, 200, "text/event-stream")
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    received = b"".join(meter.feed(stream[start:end]) for start, end in itertools.pairwise(edges))
    rest, usage = meter.finish()
    return received + rest, usage


@pytest.mark.parametrize("name", sorted(STREAMS))
@SETTINGS
@given(
    cuts=st.lists(st.integers(0, 2_000), max_size=30),
    eol=st.sampled_from(["\n", "\r\n", "\r"]),
    pings=st.lists(st.booleans(), max_size=4),
    asked=st.booleans(),
)
@example(cuts=[520], eol="\r\n", pings=[False, True], asked=False)
def test_however_a_stream_is_cut_bytes_and_usage_are_the_same(
    name: str, cuts: list[int], eol: str, pings: list[bool], asked: bool
) -> None:
    events, expected = STREAMS[name]
    stream = stream_of(events, eol, pings)
    received, usage = through(DIALECTS[name], call_of(name, asked), stream, cuts)
    assert usage == expected
    if asked or name not in DROPPING:
        assert received == stream
    else:
        lines = [line for line in received.decode().split(eol) if line.startswith("data:")]
        assert lines == [f"data: {json.dumps(events[0], ensure_ascii=False)}", "data: [DONE]"]


@pytest.mark.parametrize("name", ALL)
@SETTINGS
@given(stream=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=10), asked=st.booleans())
def test_a_stream_of_garbage_passes_and_is_not_metered(name: str, stream: bytes, cuts: list[int], asked: bool) -> None:
    received, usage = through(DIALECTS[name], call_of(name, asked), stream, cuts)
    assert received == stream
    assert isinstance(usage, Unmetered)


@pytest.mark.parametrize("name", sorted(STREAMS))
@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_that_breaks_off_anywhere_is_never_metered_lower(name: str, asked: bool) -> None:
    events, expected = STREAMS[name]
    stream = stream_of(events, "\n", [])
    for end in range(len(stream)):
        _, usage = through(DIALECTS[name], call_of(name, asked), stream[:end], [end // 2])
        assert usage == expected or isinstance(usage, Unmetered), end


@pytest.mark.parametrize("name", ALL)
@SETTINGS
@given(reply=VALUES, status=st.sampled_from([200, 201, 302, 400, 529]))
def test_a_reply_of_any_json_is_usage_or_not_metered(name: str, reply: object, status: int) -> None:
    raw = json.dumps(reply).encode()
    meter = DIALECTS[name].meter(call_of(name, asked=True), status, "application/json")
    assert meter.feed(raw) == raw
    rest, usage = meter.finish()
    assert rest == b""
    assert isinstance(usage, Usage | Unmetered)


@pytest.mark.parametrize("seed", range(3))
def test_the_fuzzer_finds_nothing_in_a_short_run(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(200):
        check(chance)
