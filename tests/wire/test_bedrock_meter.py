"""What is read of a stream in AWS's frames, however it is cut, and what is not believed; and of names in a path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from frames import frame

from bursar.call import Call, Refused, Unmetered, Usage
from bursar.dialects.protocol import Request
from bursar.dialects.table import DIALECTS

DIALECT = DIALECTS["bedrock_converse"]
KIND = "application/vnd.amazon.eventstream"
USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}


def event(kind: str, payload: object) -> bytes:
    return frame({":event-type": kind, ":message-type": "event"}, json.dumps(payload).encode())


START, STOP = event("messageStart", {"role": "assistant"}), event("messageStop", {"stopReason": "end_turn"})
METADATA = event("metadata", {"usage": USAGE, "serviceTier": {"type": "flex"}})
EXCEPTION = frame({":exception-type": "throttlingException", ":message-type": "exception"}, b'{"message":"no"}')


BODY = json.dumps({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}).encode()


def metered(raw: bytes, size: int) -> Usage | Unmetered:
    call = DIALECT.parse(Request("bedrock", "/model/m/converse-stream", {}, BODY))
    assert isinstance(call, Call)
    meter = DIALECT.meter(call, 200, KIND)
    passed = b"".join(meter.feed(raw[at : at + size]) for at in range(0, len(raw), size))
    rest, usage = meter.finish()
    assert passed + rest == raw
    return usage


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_the_last_frame_has_the_usage_however_the_stream_is_cut(size: int) -> None:
    assert metered(START + STOP + METADATA, size) == Usage(10, 5, service_tier="flex")


NOT_WHOLE = "the stream ended before its end"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", NOT_WHOLE),
        (START + METADATA, NOT_WHOLE),
        (START + STOP, NOT_WHOLE),
        (START + STOP + METADATA[:-1], NOT_WHOLE),
        (START + STOP + METADATA + START[:5], NOT_WHOLE),
        (START + EXCEPTION, "the stream ended with an error of the provider's"),
        (STOP + METADATA + EXCEPTION, "the stream ended with an error of the provider's"),
        (START + b"\0" * 40 + STOP + METADATA, "the length of a frame is damaged"),
        (STOP + event("metadata", []), "the reply is not a JSON object"),
        (STOP + event("metadata", {"usage": {"inputTokens": 1}}), "the usage has no `outputTokens`"),
        (event("messageStop", {"stopReason": "guardrail_intervened"}) + METADATA, "a guardrail of the account's"),
    ],
)
def test_what_is_not_whole_or_not_believed_has_no_usage(raw: bytes, why: str) -> None:
    for size in (1, 64, 10_000):
        usage: Any = metered(raw, size)
        assert isinstance(usage, Unmetered)
        assert usage.why.startswith(why)


@pytest.mark.parametrize("kind", ["inference-profile", "application-inference-profile", "prompt-router", "prompt"])
def test_an_arn_is_a_model_unless_it_is_a_stored_prompt(kind: str) -> None:
    arn = f"arn:aws:bedrock:us-east-1:123456789012:{kind}/ABCDEFGHIJ:1"
    read = DIALECT.parse(Request("bedrock", f"/model/{arn}/converse", {}, BODY))
    if kind == "prompt":
        assert isinstance(read, Refused)
        assert (read.status, read.message[:26]) == (422, "A stored prompt is refused")
    else:
        assert isinstance(read, Call)
        assert (read.model, read.stream) == (arn, False)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (402, "cap_exhausted", "ServiceQuotaExceededException"),
        (429, "run_stopped", "ServiceQuotaExceededException"),
        (429, "cap_held", "ThrottlingException"),
        (429, "other", "ThrottlingException"),
        (401, "invalid_key", "AccessDeniedException"),
        (404, "unmetered", "ResourceNotFoundException"),
        (422, "unpriced", "ValidationException"),
        (503, "ledger_unavailable", "ServiceUnavailableException"),
        (502, "upstream_silent", "InternalServerException"),
    ],
)
def test_an_error_has_the_type_that_the_sdks_of_aws_raise(status: int, code: str, kind: str) -> None:
    error = json.loads(DIALECT.error(status, code, "No.", {"run": "r1"}))
    assert error == {"__type": kind, "message": "No.", "bursar": {"run": "r1", "code": code}}
