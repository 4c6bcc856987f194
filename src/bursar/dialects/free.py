"""What may be asked of a provider without a hold: counts of tokens, which no provider bills.

This module is the only mint of `FreeRequest`, and `_WAYS` is the whole of what one can be.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bursar.call import Body, Call, Head, Refused
from bursar.dialects.bedrock_path import counted_name, read_plain
from bursar.dialects.body import RefusedError, read, shown, unbounded, unreadable
from bursar.dialects.fields import TOKENS_MAX, member_of, model_of, names
from bursar.dialects.gemini import only_model
from bursar.dialects.gemini_path import read_path
from bursar.dialects.input_text import NOT_INPUT
from bursar.dialects.meters import UntrustedError, json_object
from bursar.dialects.protocol import Request
from bursar.money import ensure

_SEAL = object()

ANSWER_BYTES_MAX = 65_536
"""The longest count that is read; the longest that was seen has some two hundred bytes."""


@dataclass(frozen=True, slots=True)
class FreeRequest:
    """A request that no provider bills, whatever is in it."""

    dialect: str
    upstream: str
    model: str
    body: bytes
    head: Head
    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        ensure(self.seal is _SEAL, "only the table of free ways makes a FreeRequest")


@dataclass(frozen=True, slots=True)
class _Way:
    """One free endpoint: its path, the fields that it documents, and where its count is."""

    path: str
    """With `{model}` where the model is in it."""
    fields: frozenset[str]
    counts_in: str
    not_input: frozenset[str] = frozenset()
    """Fields of a call in this dialect alone that put nothing before the model."""
    queries: frozenset[str] = frozenset({""})
    """The only query strings that are passed on."""


_GEMINI_FIELDS = names(
    """
    model contents systemInstruction system_instruction tools toolConfig tool_config generationConfig generation_config
    cachedContent cached_content safetySettings safety_settings
    """
)
_ENVELOPES = names("generateContentRequest generate_content_request")
_CONVERSE = "bedrock_converse"
_CONVERSE_FIELDS = names("messages system toolConfig additionalModelRequestFields")
_INPUTS = {"converse": _CONVERSE_FIELDS, "invokeModel": frozenset({"body"})}
_WAYS = {
    "anthropic_messages": _Way(
        path="/v1/messages/count_tokens",
        fields=names(
            """
            model messages system tools tool_choice thinking output_config output_format context_management
            cache_control speed
            """
        ),
        counts_in="input_tokens",
        queries=frozenset({"", "beta=true"}),
    ),
    "openai_responses": _Way(
        path="/v1/responses/input_tokens",
        fields=names(
            """
            model input instructions tools tool_choice parallel_tool_calls reasoning text truncation personality
            previous_response_id conversation
            """
        ),
        counts_in="input_tokens",
    ),
    "gemini": _Way(
        path="/v1beta/models/{model}:countTokens",
        fields=names("contents") | _ENVELOPES,
        counts_in="totalTokens",
    ),
    "bedrock_converse": _Way(
        path="/model/{model}/count-tokens",
        fields=frozenset({"input"}),
        counts_in="inputTokens",
        not_input=names("inferenceConfig additionalModelResponseFieldPaths requestMetadata performanceConfig"),
    ),
}
"""The closed table, by the dialect whose calls are counted."""
_BY_PATH = {way.path: dialect for dialect, way in _WAYS.items()}


def dialect_of(path: str) -> str | None:
    """Give the dialect of a free path, matched exactly, or None for every other path."""
    named = read_path(path)
    if named is not None and named.method == "countTokens":
        return "gemini"
    converse = read_plain(path)
    if converse is not None and converse.is_count:
        return _CONVERSE
    return _BY_PATH.get(path)


def free_request(request: Request) -> FreeRequest | Refused:
    """Read a client's own request for a count; never raises whatever the bytes are."""
    try:
        return _read(request)
    except RefusedError as error:
        return error.refused


def count_of(call: Call) -> FreeRequest | None:
    """Make the request that counts the input of a call, or None where no free way sees all of it."""
    way = _WAYS.get(call.dialect)
    if way is None or _left_out(call, way):
        return None
    if call.dialect == _CONVERSE:
        if call.model.startswith("arn:"):
            return None  # whose tokens those are, its name does not say
        members = [f'"input":{{"converse":{{{",".join(_members(call.body, _CONVERSE_FIELDS))}}}}}']
    elif call.dialect == "gemini":
        inside = _members(call.body, _GEMINI_FIELDS - {"model"})
        members = [f'"generateContentRequest":{{{",".join([_named(call.model), *inside])}}}']
    else:
        members = _members(call.body, way.fields)
    body = "{" + ",".join(members) + "}"
    return _mint(call.dialect, call.upstream, _counted_model(call), body.encode(), _head(way, call))


def counted(free: FreeRequest, status: int, body: bytes) -> int | None:
    """Read the count out of an answer, or None when there is none that could be one."""
    if status != 200 or len(body) > ANSWER_BYTES_MAX:
        return None
    try:
        tokens = json_object(body).get(_WAYS[free.dialect].counts_in)
    except UntrustedError:
        return None
    return tokens if type(tokens) is int and 0 < tokens <= TOKENS_MAX else None


def _mint(dialect: str, upstream: str, model: str, body: bytes, head: Head) -> FreeRequest:
    return FreeRequest(dialect, upstream, model, body, head, _SEAL)


def _read(request: Request) -> FreeRequest:
    dialect = dialect_of(request.path)
    if dialect is None:
        raise RefusedError(Refused(404, "unmetered", "This path is not in the table of what is free."))
    way = _WAYS[dialect]
    values = read(request.body).values
    _only_documented(values, way.fields, "")
    model = _model_asked(request.path, values)
    query = request.head.target.partition("?")[2]
    if query not in way.queries:
        raise unreadable(f"The query `{shown(query)}` is not known to bursar at this path.")
    target = request.path + (f"?{query}" if query else "")
    return _mint(dialect, request.upstream, model, request.body, Head(target, request.head.headers))


def _model_asked(path: str, values: dict[str, object]) -> str:
    """Give the model of a count, once everything inside the request is known; raises RefusedError."""
    converse, google = read_plain(path), read_path(path)
    if converse is not None:
        inside = values.get("input")
        _only_documented(inside, frozenset(_INPUTS), "input.")
        for name, fields in _INPUTS.items():
            if (given := member_of(inside, name)) is not None:
                _only_documented(given, fields, f"input.{name}.")
        return converse.model
    if google is None:
        return model_of(values)
    for name in _ENVELOPES & values.keys():
        _only_documented(values[name], _GEMINI_FIELDS, f"{name}.")
        only_model(member_of(values[name], "model"), google.model)
    return google.model


def _only_documented(values: object, known: frozenset[str], outer: str) -> None:
    if not isinstance(values, dict):
        raise unreadable(f"`{outer.rstrip('.')}` must be an object.")
    if unknown := values.keys() - known:
        raise unbounded(
            f"The field `{outer}{shown(min(unknown))}` is not one that this endpoint documents, so nobody knows "
            "that it is free. Remove it."
        )


def _members(body: Body, wanted: frozenset[str]) -> list[str]:
    """Give the members that are wanted as the client wrote them."""
    return [body.text[at.key_start : at.value_end] for name, at in body.members.items() if name in wanted]


def _named(model: str) -> str:
    return f'"model":"models/{model}"'


def _left_out(call: Call, way: _Way) -> set[str]:
    """Give the members that may be input and are not counted: a count without them would bound nothing."""
    seen = {"gemini": _GEMINI_FIELDS, _CONVERSE: _CONVERSE_FIELDS}.get(call.dialect, way.fields)
    return call.body.members.keys() - seen - NOT_INPUT - way.not_input


def _counted_model(call: Call) -> str:
    return counted_name(call.model) if call.dialect == _CONVERSE else call.model


def _head(way: _Way, call: Call) -> Head:
    return Head(way.path.replace("{model}", _counted_model(call)), call.head.headers)
