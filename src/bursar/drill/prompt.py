"""What the fake provider reads out of a request, with its own eyes: the text it charges for and the bound it keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bursar.drill.gemini import generation_config
from bursar.drill.till import Model, find_model

TOKENS_PER_MESSAGE = 3
TOKENS_PER_IMAGE = {"chat": 765, "responses": 765, "messages": 1_600, "gemini": 258}
_MEDIA_TYPES = frozenset({"image_url", "input_image", "image", "document", "input_file", "file", "input_audio"})
_MEDIA_PARTS = frozenset({"inlineData", "inline_data", "fileData", "file_data"})
_OPENAI_OUTPUT_MIN = 16


@dataclass(frozen=True, slots=True)
class Mistake:
    """A request that a provider answers with a client error; nothing is billed."""

    status: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Mark:
    """The client asks for everything up to this text to be cached for `ttl` (`5m` or `1h`)."""

    after_pieces: int
    ttl: str


@dataclass(slots=True)
class Text:
    """All text that is charged for, in the order in which a provider lays it out."""

    pieces: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    images: int = 0
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request that can be answered."""

    api: str
    """`chat`, `responses`, `messages` or `gemini`."""
    model_name: str
    model: Model
    stream: bool
    usage_wanted: bool
    """Whether a chat stream ends with a usage chunk."""
    output_tokens_max: int
    choices: int
    percent: int
    """What the service tier and other modifiers make of the list price."""
    tier: str
    text: Text


def read(api: str, body: bytes) -> Prompt | Mistake:
    """Read a request of one of the four APIs as its provider would."""
    try:
        fields = json.loads(body)
    except ValueError:
        return Mistake(400, "invalid_request_error", "We could not parse the JSON body of your request.")
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
        return Mistake(400, "invalid_request_error", "you must provide a model parameter")
    model = find_model(fields["model"])
    wanted = {"messages": "anthropic", "gemini": "google"}.get(api, "openai")
    if api == "gemini":
        config = generation_config(fields)
        fields |= {name: config.get(name) for name in ("maxOutputTokens", "candidateCount")}
    if model is None or model.provider != wanted:
        return Mistake(404, "not_found_error", f"The model `{fields['model']}` does not exist")
    bound = _output_bound(api, fields, model)
    if isinstance(bound, Mistake):
        return bound
    factor = _percent(api, fields, model)
    if isinstance(factor, Mistake):
        return factor
    return Prompt(
        api=api,
        model_name=fields["model"],
        model=model,
        stream=fields.get("stream") is True,
        usage_wanted=(fields.get("stream_options") or {}).get("include_usage") is True,
        output_tokens_max=bound,
        choices=int(fields.get({"chat": "n", "gemini": "candidateCount"}.get(api, "")) or 1),
        percent=factor,
        tier=str(fields.get("service_tier") or "auto").replace("auto", "default"),
        text=_text(api, fields),
    )


def _output_bound(api: str, fields: dict[str, Any], model: Model) -> int | Mistake:
    names = {
        "chat": ("max_completion_tokens", "max_tokens"),
        "responses": ("max_output_tokens",),
        "messages": ("max_tokens",),
        "gemini": ("maxOutputTokens",),
    }[api]
    sent = {name: fields[name] for name in names if fields.get(name) is not None}
    if len(sent) > 1:
        return Mistake(400, "invalid_request_error", "max_tokens and max_completion_tokens cannot both be set")
    if not sent:
        if api == "messages":
            return Mistake(400, "invalid_request_error", "max_tokens: Field required")
        return model.output_tokens_max
    ((name, bound),) = sent.items()
    if not isinstance(bound, int) or isinstance(bound, bool):
        return Mistake(400, "invalid_request_error", f"{name}: must be an integer")
    lowest = _output_min(api, fields)
    if not lowest <= bound <= model.output_tokens_max:
        limits = f"{lowest} to {model.output_tokens_max}"
        return Mistake(400, "invalid_request_error", f"{name}: {bound} is outside the range of this model, {limits}")
    return bound


def _output_min(api: str, fields: dict[str, Any]) -> int:
    if api == "responses":
        return _OPENAI_OUTPUT_MIN
    thinking = fields.get("thinking")
    if api == "messages" and isinstance(thinking, dict) and thinking.get("type") == "enabled":
        return int(thinking.get("budget_tokens") or 0) + 1
    return 1


def _percent(api: str, fields: dict[str, Any], model: Model) -> int | Mistake:
    tier = fields.get("service_tier") or "default"
    percent = model.tier_percent.get(tier)
    if percent is None:
        return Mistake(400, "invalid_request_error", f"service_tier: {tier!r} is not offered for this model")
    if api == "messages" and fields.get("speed") == "fast":
        percent *= 2
    if api == "messages" and fields.get("inference_geo") == "us":
        percent = percent * 110 // 100
    return percent


def _text(api: str, fields: dict[str, Any]) -> Text:
    text = Text()
    for tool in fields.get("tools") or []:
        text.pieces.append(json.dumps(tool, ensure_ascii=False, separators=(",", ":")))
        _mark(tool, text)
    for name in ("instructions", "system", "systemInstruction", "system_instruction"):
        _collect(fields.get(name), text)
    said = fields.get({"responses": "input", "gemini": "contents"}.get(api, "messages"))
    if isinstance(said, list):
        text.messages = len(said)
    _collect(said, text)
    _mark(fields, text)
    return text


def _collect(value: Any, text: Text) -> None:
    if isinstance(value, str):
        text.pieces.append(value)
    elif isinstance(value, list):
        for item in value:
            _collect(item, text)
    elif isinstance(value, dict):
        if value.get("type") in _MEDIA_TYPES or _MEDIA_PARTS & value.keys():
            text.images += 1
        else:
            for name, item in value.items():
                if name not in ("type", "role", "cache_control", "id", "status"):
                    _collect(item, text)
        _mark(value, text)


def _mark(value: Any, text: Text) -> None:
    control = value.get("cache_control") if isinstance(value, dict) else None
    if isinstance(control, dict) and control.get("type") == "ephemeral":
        text.marks.append(Mark(len(text.pieces), str(control.get("ttl") or "5m")))


def bytes_after_pieces(text: Text) -> Iterator[int]:
    """Give the running total of UTF-8 bytes after each piece, starting with 0 before the first."""
    total = 0
    yield total
    for piece in text.pieces:
        total += len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
        yield total
