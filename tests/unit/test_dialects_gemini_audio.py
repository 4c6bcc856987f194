"""Audio has rates of its own: what a reply does not say of the input of a call with audio was audio."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar.call import Call, Usage
from bursar.dialects.protocol import Request
from bursar.dialects.table import DIALECTS

TEXT = {"text": "What is it?"}
AUDIO = {"inlineData": {"mimeType": "audio/wav", "data": "UklGRiQAAABXQVZF"}}
PATH = "/v1beta/models/gemini-2.5-flash:generateContent"


def audio_of(parts: list[dict[str, Any]], **usage: Any) -> tuple[int, int]:
    """Give the audio that is billed, fresh and cached, of 100 tokens."""
    body = json.dumps({"contents": [{"parts": parts}]}).encode()
    call = DIALECTS["gemini"].parse(Request("gemini", PATH, {}, body))
    assert isinstance(call, Call)
    meter = DIALECTS["gemini"].meter(call, 200, "application/json")
    meter.feed(json.dumps({"usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 1} | usage}).encode())
    found = meter.finish()[1]
    assert isinstance(found, Usage), found
    return found.audio_input_tokens, found.audio_cache_read_tokens


def kinds(**tokens: int) -> list[dict[str, object]]:
    return [{"modality": kind, "tokenCount": count} for kind, count in tokens.items()]


@pytest.mark.parametrize(
    ("usage", "fresh", "cached"),
    [
        ({}, 100, 0),
        ({"promptTokensDetails": []}, 100, 0),
        ({"promptTokensDetails": kinds(TEXT=10)}, 90, 0),
        ({"promptTokensDetails": kinds(TEXT=10, IMAGE=20, VIDEO=30, DOCUMENT=25)}, 15, 0),
        ({"promptTokensDetails": kinds(TEXT=10, AUDIO=60)}, 90, 0),
        ({"promptTokensDetails": kinds(TEXT=10, MODALITY_UNSPECIFIED=90)}, 90, 0),
        ({"promptTokensDetails": kinds(TEXT=40, AUDIO=60)}, 60, 0),
        ({"promptTokensDetails": kinds(TEXT=100)}, 0, 0),
        ({"promptTokensDetails": kinds(TEXT=101)}, 0, 0),
        ({"cachedContentTokenCount": 30}, 70, 30),
        ({"cachedContentTokenCount": 30, "promptTokensDetails": kinds(TEXT=10)}, 70, 20),
        ({"cachedContentTokenCount": 30, "promptTokensDetails": kinds(TEXT=40)}, 60, 0),
        (
            {
                "cachedContentTokenCount": 30,
                "promptTokensDetails": kinds(AUDIO=25),
                "cacheTokensDetails": kinds(AUDIO=25),
            },
            70,
            30,
        ),
    ],
)
def test_input_that_a_reply_does_not_tell_the_kind_of_was_audio_where_audio_went_in(
    usage: dict[str, Any], fresh: int, cached: int
) -> None:
    assert audio_of([AUDIO, TEXT], **usage) == (fresh, cached)


@pytest.mark.parametrize("usage", [{}, {"cachedContentTokenCount": 30}, {"promptTokensDetails": kinds(TEXT=10)}])
def test_nothing_was_audio_where_none_went_in(usage: dict[str, Any]) -> None:
    assert audio_of([TEXT], **usage) == (0, 0)
