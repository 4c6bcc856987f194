"""The input side of Google's requests: what is in the contents, and which tools are offered."""

from __future__ import annotations

from bursar.dialects.body import Document, unbounded, utf8_bytes, value_text
from bursar.dialects.fields import Seen, names
from bursar.dialects.protocol import Quirks
from bursar.dialects.spelling import folded, listed

_CONTENT = frozenset({"role", "parts"})
_PART = names(
    """
    text thought thoughtSignature functionCall functionResponse executableCode codeExecutionResult
    inlineData fileData videoMetadata mediaResolution partMetadata
    """
)
_BLOB = frozenset({"mimeType", "data", "displayName"})
_FILE = frozenset({"mimeType", "fileUri", "displayName"})
_RESPONSE = names("id name response parts willContinue scheduling")
_RESPONSE_PART = frozenset({"inlineData", "fileData"})
_RESOLUTION = frozenset({"level"})
_FUNCTIONS = "functionDeclarations"
_SERVER_SIDE = {
    "googleSearch": "every search is billed, and what it brings into the input is not bounded.",
    "googleSearchRetrieval": "every search is billed, and what it brings into the input is not bounded.",
    "enterpriseWebSearch": "every search is billed, and what it brings into the input is not bounded.",
    "exaAiSearch": "every search is billed, and what it brings into the input is not bounded.",
    "parallelAiSearch": "every search is billed, and what it brings into the input is not bounded.",
    "googleMaps": "every use is billed, and what it brings into the input is not bounded.",
    "urlContext": "what it fetches goes into the input, and how much that is is not bounded.",
    "fileSearch": "what it finds goes into the input, and how much that is is not bounded.",
    "retrieval": "what it finds goes into the input, and how much that is is not bounded.",
    "codeExecution": "the model is called again for every run of its code, as often as it likes.",
    "mcpServers": "the server calls tools and the model again, as often as it likes.",
    "computerUse": "it brings functions of the provider's own into the input, and their size is not published.",
}
_TOOL = frozenset({_FUNCTIONS, *_SERVER_SIDE})
_TOOL_CONFIG = frozenset({"functionCallingConfig", "retrievalConfig"})


def take_contents(seen: Seen, contents: object, name: str, quirks: Quirks) -> None:
    """Walk over contents, one object or a list of them."""
    for content in listed(contents, name):
        seen.messages += 1
        for part in listed(folded(content, name, _CONTENT, quirks).get("parts"), f"{name}.parts"):
            _part(seen, folded(part, f"{name}.parts", _PART, quirks), quirks)


def take_tools(seen: Seen, document: Document, values: dict[str, object], quirks: Quirks) -> None:
    """Walk over the tools: functions are the client's, everything else runs on the server."""
    for tool in listed(values.get("tools"), "tools"):
        for name, value in folded(tool, "tools", _TOOL, quirks).items():
            if name == _FUNCTIONS:
                seen.tools += len(listed(value, f"tools.{name}"))
            elif value is not None:  # `"googleSearch": {}` asks for it
                raise unbounded(f"The tool `{name}` is refused: {_SERVER_SIDE[name]} Functions are allowed.")
    folded(values.get("toolConfig"), "toolConfig", _TOOL_CONFIG, quirks)
    seen.tool_json_bytes += utf8_bytes(value_text(document.body, "tools"))


def only_text(content: object, name: str, quirks: Quirks) -> None:
    """Refuse what an embedding of text does not take: anything else has rates of its own."""
    for part in listed(folded(content, name, _CONTENT, quirks).get("parts"), f"{name}.parts"):
        for kind, value in folded(part, f"{name}.parts", _PART, quirks).items():
            if kind != "text" and value is not None:
                raise unbounded(f"`{kind}` in an embedding is refused: only text is billed at a rate that is held.")


def _part(seen: Seen, part: dict[str, object], quirks: Quirks) -> None:
    folded(part.get("mediaResolution"), "mediaResolution", _RESOLUTION, quirks)
    _media(seen, part, quirks)
    response = folded(part.get("functionResponse"), "functionResponse", _RESPONSE, quirks)
    for inner in listed(response.get("parts"), "functionResponse.parts"):
        _media(seen, folded(inner, "functionResponse.parts", _RESPONSE_PART, quirks), quirks)


def _media(seen: Seen, part: dict[str, object], quirks: Quirks) -> None:
    blob = folded(part.get("inlineData"), "inlineData", _BLOB, quirks)
    if blob:
        _blob(seen, blob)
    if folded(part.get("fileData"), "fileData", _FILE, quirks):
        # What is there, and how long it plays, is seen by the provider alone; what the client calls it proves nothing.
        seen.opaque = seen.audio = True


def _blob(seen: Seen, blob: dict[str, object]) -> None:
    kind = blob.get("mimeType")
    family = kind.partition("/")[0].lower() if isinstance(kind, str) else ""
    if family == "image":
        seen.take_base64(blob.get("data"), low_detail=False)
    elif family != "text":  # in base64, a text has more characters than it has bytes
        seen.opaque = True
        seen.audio = seen.audio or kind != "application/pdf"
