"""The usage in the golden corpus has the shape that the providers' own SDKs know: no field of it is made up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anthropic.types.beta import BetaMessageDeltaUsage, BetaUsage
from corpus_sums import pairs
from openai.types import CompletionUsage
from openai.types.create_embedding_response import Usage as EmbeddingUsage
from openai.types.responses import ResponseUsage
from pydantic import BaseModel

# Fields that other servers than the SDK's own add to it.
ADDED = {"queue_time", "total_time", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"}
METERED = [
    pytest.param(file.parent.name, pair, id=f"{file.parent.name}/{file.stem}")
    for file, pair in pairs()
    if "usage" in pair and file.parent.name != "bedrock_converse"
]


def replies(pair: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "json" in pair["reply"]:
        yield pair["reply"]["json"]
    for event in pair["reply"].get("events", ()):
        if isinstance(event, dict):
            yield event


def usages(folder: str, reply: dict[str, Any]) -> Iterator[tuple[type[BaseModel], dict[str, Any]]]:
    """Give every usage of a reply with the SDK's type of it."""
    match folder:
        case "openai_chat" | "openai_completions":
            yield CompletionUsage, reply.get("usage")
        case "openai_embeddings":
            yield EmbeddingUsage, reply.get("usage")
        case "openai_responses":
            usage = reply.get("response", reply).get("usage")
            if usage:
                # Answers from before the cache was written to leave it out.
                usage = {**usage, "input_tokens_details": {"cache_write_tokens": 0, **usage["input_tokens_details"]}}
            yield ResponseUsage, usage
        case "anthropic_messages":
            whole = reply if "role" in reply else reply.get("message", {})
            yield BetaUsage, whole.get("usage")
            if reply["type"] == "message_delta":
                yield BetaMessageDeltaUsage, reply["usage"]
        case _:
            from google.genai.types import GenerateContentResponseUsageMetadata

            yield GenerateContentResponseUsageMetadata, reply.get("usageMetadata")


@pytest.mark.parametrize(("folder", "pair"), METERED)
def test_usage_has_the_shape_of_the_sdks(folder: str, pair: dict[str, Any]) -> None:
    found = [(kind, usage) for reply in replies(pair) for kind, usage in usages(folder, reply) if usage]
    assert found or "raw" in pair["reply"]
    for kind, usage in found:
        optional = {} if kind is not BetaMessageDeltaUsage else dict.fromkeys(kind.model_fields)
        kind.model_validate({**optional, **usage})
        known = {name for name, field in kind.model_fields.items()} | {
            field.alias for field in kind.model_fields.values()
        }
        assert usage.keys() - ADDED <= known
