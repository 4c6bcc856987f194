"""Texts that are meant to have more tokens than a gateway would hold for, made from a seed."""

from __future__ import annotations

import base64
import random
import string
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

CHARACTERS_MIN = 400
"""A pattern is repeated to about this length, so that what stands around it in a request hardly counts."""
ASCII = "".join(map(chr, range(32, 127))) + "\n\t"
MARKS = "~!@#$%^&*()_+-=[]{}|;:'\",.<>/?`\\"
EXPANDING = [
    character for character in map(chr, range(0xA0, 0x30000)) if len(unicodedata.normalize("NFC", character)) > 1
]
"""They become two or three characters in the normal form that Claude's tokenizer reads."""
COMBINING = [character for character in map(chr, range(0x300, 0x20F0)) if unicodedata.combining(character)]
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\u202a\u202e\ufe0f\ufe0e\U000e0020\U000e0041\U000e007f"
SPACES = " \u00a0\u1680\u2000\u2003\u2009\u202f\u205f\u3000\t\n\r\x0b\x0c\x85\u2028\u2029"
CONTROLS = "".join(map(chr, [*range(1, 32), *range(127, 160)]))
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|fim_prefix|>",
    "<start_of_turn>",
    "<bos>",
    "<eos>",
    "<unused99>",
    "\n\nHuman:",
    "<0x0A>",
    "▁",
]
SCRIPTS = [
    (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF),
    (0x900, 0x97F), (0xE00, 0xE7F), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1E00, 0x1EFF),
    (0x2070, 0x209F), (0x2100, 0x214F), (0x2190, 0x23FF), (0x2500, 0x27BF), (0x2C60, 0x2C7F), (0x3040, 0x30FF),
    (0x3130, 0x318F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA720, 0xA7FF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF),
    (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE70, 0xFEFE), (0xFF00, 0xFFEF), (0x10000, 0x100FF),
    (0x10280, 0x103DF), (0x10400, 0x1044F), (0x12000, 0x123FF), (0x1D000, 0x1D1FF), (0x1D400, 0x1D7FF),
    (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF), (0x2F800, 0x2FA1D), (0xE0000, 0xE01EF), (0xF0000, 0xF00FF),
]  # fmt: skip
WORDS = """
the Bursar HOLDS purse iPhone don't naïve ﬃ ǅ ß İ Å \u0966 \u06f1 Ⅷ ½ ㎏ 한 각 谁 の
👩\u200d👩\u200d👧 🇩🇪 e\u0301 \u1e9b\u0323
""".split()  # noqa: SIM905 - as in a text

Maker = Callable[[random.Random], str]


class Text(NamedTuple):
    """A pattern, and how often it is repeated."""

    pattern: str
    times: int

    @property
    def whole(self) -> str:
        return self.pattern * self.times


def text_of(pattern: str) -> Text:
    """Give the text of a pattern."""
    return Text(pattern, max(1, CHARACTERS_MIN // max(1, len(pattern))))


def _from(letters: str | list[str], low: int, high: int) -> Maker:
    return lambda chance: "".join(chance.choice(letters) for _ in range(chance.randint(low, high)))


def _script(chance: random.Random) -> str:
    low, high = chance.choice(SCRIPTS)
    return "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 24)))


def _any(chance: random.Random) -> str:
    points = (chance.choice([chance.randrange(0x80, 0xD800), chance.randrange(0xE000, 0x110000)]) for _ in range(24))
    return "".join(map(chr, points))


PARTS = [
    _script,
    _from(MARKS, 1, 3),
    _from(string.ascii_letters, 1, 3),
    _from(EXPANDING, 1, 2),
    _from(SPACES, 1, 2),
    _from(INVISIBLE, 1, 2),
]


def _alternating(chance: random.Random) -> str:
    """Two alphabets in turn: where kinds of characters meet, most tokenizers begin a new token."""
    one, other = chance.sample(PARTS, 2)
    left, right = one(chance)[:2], other(chance)[:2]
    return (left + right) * chance.randint(1, 4)


def _lonely(chance: random.Random) -> str:
    """A run of dear ASCII with one other character every now and then: near it is dearer than far from it."""
    run = _from(ASCII, 1, 3)(chance) * 40
    other = _alternating(chance)[:3] + chance.choice(["", chance.choice(EXPANDING), chance.choice(INVISIBLE)])
    return run[: chance.choice([1, 8, 15, 16, 17, 31, 32, 33, 48, 80])] + other


def _cases(chance: random.Random) -> str:
    letters = _from(string.ascii_letters, 2, 9)(chance)
    return "".join(chance.choice([str.upper, str.lower])(letter) for letter in letters) + chance.choice(
        ["", *MARKS, " "]
    )


def _stacked(chance: random.Random) -> str:
    return chance.choice("aeouAEOUקא가") + "".join(chance.choices(COMBINING, k=chance.randint(1, 8)))


def _base64(chance: random.Random) -> str:
    return base64.b64encode(chance.randbytes(chance.choice([9, 60, 300]))).decode()


def _numbers(chance: random.Random) -> str:
    return chance.choice(
        [
            f"{chance.random():.17g} ",
            chance.randbytes(16).hex(),
            f"0x{chance.getrandbits(32):X},",
            str(chance.getrandbits(256)),
        ]
    )


def _mixture(chance: random.Random) -> str:
    return "".join(chance.choice(MAKERS[:-1])(chance)[:6] for _ in range(chance.randint(2, 6)))


MAKERS: list[Maker] = [
    _from(ASCII, 1, 3),
    _from(ASCII, 20, 60),
    _from(MARKS, 1, 4),
    _from(string.ascii_letters + MARKS, 2, 4),
    _cases,
    _script,
    _any,
    _alternating,
    _lonely,
    _stacked,
    _from(EXPANDING, 1, 12),
    _from(INVISIBLE, 1, 4),
    _from(SPACES, 1, 5),
    _from(CONTROLS, 1, 6),
    _from(SPECIAL, 1, 3),
    _from(WORDS, 1, 8),
    _base64,
    _numbers,
    _from(string.ascii_letters + string.digits, 3, 20),
    _mixture,
]


def fresh(chance: random.Random) -> Text:
    """Give a text of any kind."""
    return text_of(chance.choice(MAKERS)(chance))


def mutant(chance: random.Random, text: Text) -> Text:
    """Give a text that differs a little from one that had many tokens."""
    pattern = list(text.pattern) or [" "]
    for _ in range(chance.choice([1, 1, 2, 3])):
        at = chance.randrange(len(pattern))
        match chance.randrange(5):
            case 0:
                pattern[at] = chance.choice(chance.choice(MAKERS)(chance) or " ")
            case 1:
                pattern.insert(at, chance.choice(chance.choice(MAKERS)(chance) or " "))
            case 2 if len(pattern) > 1:
                del pattern[at]
            case 3:
                pattern[at] = pattern[at].swapcase()
            case _:
                pattern[at] = chr(min(0x10FFFF, max(1, ord(pattern[at][0]) + chance.choice([-1, 1, 32, 0x100]))))
    found = "".join(pattern)[:400].encode("utf-8", "ignore").decode()
    return text_of(found or " ")
