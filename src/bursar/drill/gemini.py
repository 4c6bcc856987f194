"""Google's own API at the fake provider: its paths, what it charges for, and how its answers look on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bursar.drill.till import Metered

if TYPE_CHECKING:
    from bursar.drill.shapes import Answer, Choice

_PATH = re.compile(r"/v1(?:beta)?/models/(?P<model>[^/:]+):(?P<method>\w+)")
_WORDS = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}


def asked_by_path(path: str) -> tuple[str, str]:
    """Give model and method of a path; empty when it is not Google's."""
    found = _PATH.fullmatch(path)
    return (found["model"], found["method"]) if found else ("", "")


def with_path(body: bytes, model: str, method: str) -> bytes:
    """Give the body with what the path says in it, as the other APIs have it; what is no object stays as it is."""
    try:
        fields = json.loads(body)
    except ValueError:
        return body
    if not isinstance(fields, dict):
        return body
    fields = fields.get("generateContentRequest") or fields
    return json.dumps({**fields, "model": model, "stream": method == "streamGenerateContent"}).encode()


def generation_config(fields: dict[str, Any]) -> dict[str, Any]:
    """Give the generation config by its camel-case names, whatever the client's spelling."""
    given = fields.get("generationConfig") or fields.get("generation_config") or {}
    return {re.sub("_([a-z])", lambda found: found[1].upper(), name): value for name, value in given.items()}


def gemini_usage(used: Metered) -> dict[str, Any]:
    """Give the usage as Google reports it: thoughts apart from the rest of the output, and no zeros."""
    counts = {
        "promptTokenCount": used.all_input_tokens,
        "cachedContentTokenCount": used.cache_read_tokens,
        "candidatesTokenCount": used.output_tokens - used.reasoning_tokens,
        "thoughtsTokenCount": used.reasoning_tokens,
        "totalTokenCount": used.all_input_tokens + used.output_tokens,
    }
    return {name: count for name, count in counts.items() if count}


def gemini_error(status: int, message: str) -> dict[str, Any]:
    """Give an error as Google does."""
    return {"error": {"code": status, "message": message, "status": _WORDS.get(status, "UNKNOWN")}}


def gemini_body(answer: Answer) -> dict[str, Any]:
    """Give the answer as one object."""
    candidates = [_candidate(index, _parts(choice), _finish(choice)) for index, choice in enumerate(answer.choices)]
    return _reply(answer, candidates, answer.usage)


def gemini_events(answer: Answer) -> Iterator[bytes]:
    """Give the answer as server-sent events; each carries the usage so far, and the last one all of it."""
    so_far = None
    if isinstance(answer.usage, dict):
        so_far = {"promptTokenCount": answer.usage.get("promptTokenCount")}
    last = len(answer.choices) - 1
    for index, choice in enumerate(answer.choices):
        for piece in choice.pieces:
            yield _event(_reply(answer, [_candidate(index, [{"text": piece}], None)], so_far))
        calls = _parts(choice)[1 if choice.pieces else 0 :]
        end = _candidate(index, calls, _finish(choice))
        yield _event(_reply(answer, [end], answer.usage if index == last else so_far))


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\r\n\r\n" % json.dumps(value, separators=(",", ":")).encode()


def _reply(answer: Answer, candidates: list[dict[str, Any]], usage: Any) -> dict[str, Any]:
    made = {"candidates": candidates, "modelVersion": answer.prompt.model_name, "responseId": answer.id}
    return made if usage is None else {**made, "usageMetadata": usage}


def _candidate(index: int, parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": index}
    return candidate if finish is None else {**candidate, "finishReason": finish}


def _parts(choice: Choice) -> list[dict[str, Any]]:
    text: list[dict[str, Any]] = [{"text": "".join(choice.pieces)}] if choice.pieces else []
    calls = [{"functionCall": {"name": tool.name, "args": json.loads(tool.arguments)}} for tool in choice.tool_calls]
    return text + calls


def _finish(choice: Choice) -> str:
    return "MAX_TOKENS" if choice.is_cut else "STOP"
