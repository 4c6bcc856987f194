"""What a provider may meter for a request, by its documented limits. Knows nothing of how bursar bounds a call."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

# What providers document, or what was measured on them: tokens per message, per reply, per tool and for having tools.
PER_MESSAGE, PER_REPLY, PER_TOOL, FOR_TOOLS = 4, 3, 20, 12
CLAUDE_FOR_TOOLS = 804
CLAUDE_TYPED_TOOLS = {"bash_20250124": 325, "text_editor_20250728": 700, "computer_toolset_20260801": 4_590}
# The worst that a reconstruction of Claude's tokenizers was seen to make of a byte.
CLAUDE_PER_ASCII_BYTE, CLAUDE_PER_OTHER_BYTE = 1.67, 2.33
CLAUDE_IMAGE, GEMINI_TILE, GEMINI_HIGHEST_RESOLUTION = 4_784, 258, 2_240


@dataclass(frozen=True)
class Picture:
    """An image of the request."""

    width: int
    height: int
    low: bool = False


def texts(value: Any) -> Iterator[str]:
    """Give every text and every key in a JSON value: all that a model could be shown."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *texts(item))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def byte_level_tokens(shown: list[str]) -> int:
    """Give the most tokens that a byte-level tokenizer makes: one of each byte."""
    return sum(len(text.encode()) for text in shown)


def claude_tokens(shown: list[str]) -> int:
    """Give the most tokens that were seen for such texts."""
    total = 0.0
    for text in shown:
        rate = CLAUDE_PER_ASCII_BYTE if text.isascii() else CLAUDE_PER_OTHER_BYTE
        total += rate * len(unicodedata.normalize("NFC", text).encode())
    return floor(total)


def openai_image(model: str, picture: Picture) -> int:
    """Give the tokens of an image by OpenAI's guide, for the models that it names; nothing for others."""
    width, height = picture.width, picture.height
    tiles = {
        "gpt-4o-mini": (2_833, 5_667),
        "gpt-4o": (85, 170),
        "gpt-4.1": (85, 170),
        "gpt-5": (70, 140),
        "o1": (75, 150),
    }
    if model in tiles:
        base, each = tiles[model]
        return base if picture.low else base + each * _tiles_of(width, height)
    patches = {"gpt-5-mini": 1.62, "gpt-5-nano": 2.46, "gpt-4.1-mini": 1.62, "gpt-4.1-nano": 2.46, "o4-mini": 1.72}
    if model in patches:
        return floor(min(1_536, ceil(width / 32) * ceil(height / 32)) * patches[model])
    return 0


def _tiles_of(width: int, height: int) -> int:
    """Fit into 2048 x 2048, then the shorter side to 768 at most, and count squares of 512."""
    shrink = min(1.0, 2048 / max(width, height))
    shrink *= min(1.0, 768 / (min(width, height) * shrink))
    return ceil(floor(width * shrink + 0.5) / 512) * ceil(floor(height * shrink + 0.5) / 512)


def claude_image(picture: Picture) -> int:
    """Give the tokens of an image by Anthropic's guide: its area by 750, or its squares of 28 pixels."""
    shrink = min(1.0, 2576 / max(picture.width, picture.height))
    width, height = max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))
    return min(CLAUDE_IMAGE, max(width * height // 750, ceil(width / 28) * ceil(height / 28)))


def gemini_image(picture: Picture) -> int:
    """Give the tokens of an image by Google's guide: tiles of 258, or what the resolution of Gemini 3 makes of it."""
    width, height = picture.width, picture.height
    if max(width, height) <= 384:
        return GEMINI_HIGHEST_RESOLUTION
    unit = min(max(floor(min(width, height) / 1.5), 256), 768)
    return max(GEMINI_TILE * ceil(width / unit) * ceil(height / unit), GEMINI_HIGHEST_RESOLUTION)


def tool_json(tools: list[Any]) -> list[str]:
    """Give the definitions of tools as they are put in front of a model: each as JSON."""
    return [json.dumps(tool, ensure_ascii=False, separators=(",", ":")) for tool in tools]
