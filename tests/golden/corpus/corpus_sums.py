"""The arithmetic of the golden corpus: works out, exactly, the sums that the pairs write down. Imports nothing of ours.

    python tests/golden/corpus/corpus_sums.py            say which pairs have numbers that their sums do not give
    python tests/golden/corpus/corpus_sums.py --fill     write the numbers that the sums give

A pair that was just written has its sums and no numbers; `--fill` does them, and the test then holds bursar to them.
"""

from __future__ import annotations

import ast
import base64
import json
import operator
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

PAIRS = Path(__file__).parent / "pairs"

FRAME = {
    # What a provider adds around the text, in tokens: above everything that is documented or was measured.
    "start": 1,
    "message": 16,
    "tool": 64,
    "call": 512,
    "claude_tools": 1_024,
    # Output beyond the bound that is sent, per choice.
    "margin": 64,
    # The bound of a call that names none.
    "unasked": 32_768,
}
NEAR = 16
"""Characters on each side of one that is not ASCII are taken as dear as it is, on Claude."""
NANODOLLARS_PER_MILLIONTH = 1_000

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CALLS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "ceil": lambda value: Fraction(ceil(value))}


def pairs() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give every pair of the corpus with its file."""
    for file in sorted(PAIRS.glob("*/*.json")):
        yield file, json.loads(file.read_text(encoding="utf-8"))


# ---- what a pair stands for -----------------------------------------------------------------------------------------


def expanded(value: Any) -> Any:
    """Give the JSON value with its short forms written out.

    {"$times": ["text", 1000]} is the text a thousand times; {"$png": [800, 600]} is the start of such a picture in
    base64, and {"$png_url": [800, 600]} that as a data URL.
    """
    if isinstance(value, list):
        return [expanded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, given),) = value.items()
        if name == "$times":
            return given[0] * given[1]
        if name == "$png":
            return png(*given)
        if name == "$png_url":
            return "data:image/png;base64," + png(*given)
    return {name: expanded(item) for name, item in value.items()}


def png(width: int, height: int) -> str:
    """Give the first bytes of a PNG of this size, in base64."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\x08\x02\0\0\0" + bytes(7)).decode()


def request_bytes(pair: Mapping[str, Any]) -> bytes:
    """Give the body that the client sends."""
    return json.dumps(expanded(pair["request"]), separators=(",", ":"), ensure_ascii=False).encode()


def reply_bytes(pair: Mapping[str, Any]) -> bytes:
    """Give the body that the provider answers with: JSON, named or plain events, frames, or bytes as they are."""
    reply = pair["reply"]
    if "json" in reply:
        return json.dumps(reply["json"]).encode()
    if "raw" in reply:
        return str(reply["raw"]).encode()
    if "frames" in reply:
        return b"".join(frame(kind, json.dumps(payload).encode()) for kind, payload in reply["frames"])
    pieces = []
    for event in reply["events"]:
        name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
        pieces.append(f"{name}data: {event if isinstance(event, str) else json.dumps(event)}\n\n")
    return "".join(pieces).encode()


def frame(kind: str, payload: bytes) -> bytes:
    """Give one frame of an AWS event stream; the name of an exception begins with an exclamation mark."""
    what = "exception" if kind.startswith("!") else "event"
    named = ((f":{what}-type", kind.lstrip("!")), (":content-type", "application/json"), (":message-type", what))
    head = b"".join(bytes([len(n)]) + n.encode() + b"\x07" + len(v).to_bytes(2) + v.encode() for n, v in named)
    prelude = (16 + len(head) + len(payload)).to_bytes(4) + len(head).to_bytes(4)
    body = prelude + zlib.crc32(prelude).to_bytes(4) + head + payload
    return body + zlib.crc32(body).to_bytes(4)


# ---- the sums -------------------------------------------------------------------------------------------------------


def facts(pair: Mapping[str, Any]) -> dict[str, Fraction]:
    """Give what the sums of a pair may name: the sizes of its request, what is added around it, and its rates."""
    text = request_bytes(pair).decode()
    shape = unicodedata.normalize("NFC", text)
    near = {
        at
        for place, character in enumerate(text)
        if not character.isascii()
        for at in range(place - NEAR, place + NEAR + 1)
        if 0 <= at < len(text)
    }
    lone = len(text) - len(near) if near else len(text)
    request = expanded(pair["request"])
    given = request.get("tools", request.get("toolConfig"))
    tools = "" if given is None else json.dumps(given, separators=(",", ":"), ensure_ascii=False)
    sizes = {
        "bytes": len(text.encode()),
        "media": sum(len(png_text) for png_text in _pictures(pair["request"])),
        "lone": lone,
        "mixed": len(shape.encode()) - lone,
        "tools_bytes": len(tools.encode()),
    }
    rates = {f"usd_{name}": Fraction(price) for name, price in pair["rates"].items()}
    return {name: Fraction(size) for name, size in {**FRAME, **sizes}.items()} | rates


def _pictures(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _pictures(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in ("$png", "$png_url"):
                yield png(*item)
            else:
                yield from _pictures(item)


def worked_out(sum_: str, names: Mapping[str, Fraction]) -> Fraction:
    """Work out one sum: whole and decimal numbers, names, + - * /, min, max and ceil."""

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() | float()):
                return Fraction(ast.get_source_segment(sum_, node) or "")
            case ast.Name(id=name):
                return names[name]
            case ast.BinOp(left=left, op=op, right=right):
                result: Fraction = _BINARY[type(op)](value(left), value(right))
                return result
            case ast.Call(func=ast.Name(id=name), args=given):
                called: Fraction = _CALLS[name](*(value(item) for item in given))
                return called
            case _:
                raise ValueError(f"not arithmetic: {ast.unparse(node)}")

    return value(ast.parse(sum_, mode="eval").body)


def numbers(pair: Mapping[str, Any]) -> dict[str, int]:
    """Give the numbers that the sums of a pair come to."""
    names = facts(pair)
    hold = pair["hold"]
    found = {"tokens_in": whole(worked_out(hold["tokens_in"], names))}
    names["tokens_in"] = Fraction(found["tokens_in"])
    found["hold"] = sum(nanodollars(worked_out(part, names)) for part in hold["usd_millionths"])
    bill = pair["bill"]
    if bill == "nothing":
        found["bill"] = 0
    elif bill == "the hold":
        found["bill"] = found["hold"]
    else:
        found["bill"] = nanodollars(worked_out(bill, names))
    return found


def whole(value: Fraction) -> int:
    """Give a number of tokens; raises ValueError for a part of one."""
    if value.denominator != 1:
        raise ValueError(f"{value} is not a whole number")
    return value.numerator


def nanodollars(usd_millionths: Fraction) -> int:
    """Give an amount in nanodollars, rounded up; a price in USD per million tokens is a millionth of a USD a token."""
    return ceil(usd_millionths * NANODOLLARS_PER_MILLIONTH)


def filled(pair: dict[str, Any]) -> str:
    """Give the text of the pair with its numbers written in."""
    return json.dumps({**pair, "numbers": numbers(pair)}, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Compare the numbers of all pairs with their sums, or fill them in."""
    wrong = [file for file, pair in pairs() if pair.get("numbers") != numbers(pair)]
    for file in wrong:
        print(file.relative_to(PAIRS))
        if "--fill" in arguments:
            file.write_text(filled(json.loads(file.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0 if "--fill" in arguments else len(wrong) and 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
