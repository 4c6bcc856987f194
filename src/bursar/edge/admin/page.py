"""The description as a page for people: plain HTML made here, so that no browser asks anybody else for anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
code{font-family:ui-monospace,monospace;font-size:.9em}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}
h3{margin-bottom:.3rem}.m{display:inline-block;min-width:4.5rem;font-weight:700;color:#075985}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
td,th{border:1px solid #ddd;padding:.25rem .5rem;text-align:left;
vertical-align:top}th{background:#f3f4f6}.r{color:#555}
@media(prefers-color-scheme:dark){body{color:#e5e5e5;background:#161616}th{background:#262626}td,th{border-color:#444}
.m{color:#7dd3fc}.r{color:#aaa}}
"""


def render(described: Mapping[str, Any]) -> str:
    """Give the page of a description."""
    about = "".join(f"<p>{_prose(part)}</p>" for part in described["info"]["description"].strip().split("\n\n"))
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'><title>bursar: HTTP API</title>"
    body = "".join((*_operations(described), "<h2>Bodies</h2>", *_bodies(described["components"]["schemas"])))
    version = escape(described["info"]["version"])
    start = f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head>"
    return f"{start}<body><h1>bursar {version}</h1>{about}{body}</body></html>"


def _operations(described: Mapping[str, Any]) -> Iterator[str]:
    by_tag: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            by_tag.setdefault(one["tags"][0], []).append((method.upper(), path, one))
    for tag, found in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>"
        for method, path, one in found:
            yield _operation(method, path, one)


def _operation(method: str, path: str, one: Mapping[str, Any]) -> str:
    rows = [
        (parameter["name"], parameter["in"], _type(parameter["schema"]), parameter.get("description", ""))
        for parameter in one.get("parameters", ())
    ]
    content = one.get("requestBody", {}).get("content", {})
    rows += [("body", kind, _type(body["schema"]), "") for kind, body in content.items()]
    answers = ", ".join(
        f"{status} {_type(kind['schema'])}" if status.startswith("2") else status
        for status, answer in one["responses"].items()
        for kind in answer.get("content", {"": {"schema": {}}}).values()
    )
    said = "".join(f"<p>{_prose(part)}</p>" for part in one.get("description", "").split("\n\n"))
    return (
        f"<h3 id={escape(one['operationId'])}><span class=m>{method}</span> <code>{escape(path)}</code></h3>{said}"
        f"<p class=r>Roles: {escape(', '.join(one['x-roles']))}. Answers: {answers}</p>{_table(rows)}"
    )


def _bodies(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        needed = set(schema.get("required", ()))
        rows = [
            (field, "required" if field in needed else "", _type(one), one.get("description", ""))
            for field, one in schema.get("properties", {}).items()
        ]
        said = _prose(schema.get("description", ""))
        yield f"<h3 id=body-{escape(name)}>{escape(name)}</h3><p>{said}</p>{_table(rows)}"


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    if not rows:
        return ""
    lines = (
        f"<tr><td><code>{escape(name)}</code><td>{escape(where)}<td>{kind}<td>{_prose(said)}</tr>"
        for name, where, kind, said in rows
    )
    return f"<table>{''.join(lines)}</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """Say in HTML what a value is."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f"<a href='#body-{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = escape(str(schema.get("type", "anything")))
    return f"{kind} <code>{escape(schema['pattern'])}</code>" if "pattern" in schema else kind


def _prose(text: str) -> str:
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
