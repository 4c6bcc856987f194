"""Counts with a real tokenizer: JSON texts in, one a line, JSON counts out. Runs where that tokenizer is installed.

python token_counters.py tiktoken|gemma|claude [FOLDER OF VOCABULARIES]
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

Counter = Callable[[str], list[int]]


def tiktoken_counter(folder: Path) -> tuple[list[str], Counter]:
    """OpenAI's own library, with the vocabularies that LiteLLM's wheel carries."""
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    import tiktoken  # type: ignore[import-not-found]

    names = ["o200k_base", "cl100k_base", "p50k_base"]
    encodings = [tiktoken.get_encoding(name) for name in names]
    return names, lambda text: [len(encoding.encode(text, disallowed_special=())) for encoding in encodings]


def gemma_counter(folder: Path) -> tuple[list[str], Counter]:
    """The tokenizer of Gemma 3, which Google's SDK takes for Gemini 2.0 to 3."""
    from tokenizers import Tokenizer  # type: ignore[import-not-found]

    encoding = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return ["gemma3"], lambda text: [len(encoding.encode(text, add_special_tokens=False).ids)]


def claude_counter(_folder: Path) -> tuple[list[str], Counter]:
    """The published reconstruction of Claude's tokenizers, one version of each of its three families."""
    import ctok  # type: ignore[import-not-found]

    versions = ["3.0", "4.7", "4.8"]
    frames = [ctok.token_count("a", version) - 1 for version in versions]

    def count(text: str) -> list[int]:
        return [max(0, ctok.token_count(text, v) - frame) for v, frame in zip(versions, frames, strict=True)]

    return [f"claude {version}" for version in versions], count


COUNTERS = {"tiktoken": tiktoken_counter, "gemma": gemma_counter, "claude": claude_counter}


def main(family: str, folder: str = ".") -> None:
    """Answer with the names of the encodings, then a line of counts for each text."""
    names, count = COUNTERS[family](Path(folder))
    print(json.dumps(names), flush=True)
    for line in sys.stdin:
        print(json.dumps(count(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
