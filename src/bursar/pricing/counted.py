"""A count of a call's input, which stands in for its bytes in the quote, and what is added to it to be safe."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bursar.call import Call

# The counts of the providers are documented as exact (OpenAI: what the model receives) or as an estimate that may be
# off by a small number (Anthropic). A twentieth and 64 tokens are above every difference that was reported.
PROVIDER_MARGIN_DIVISOR = 20
PROVIDER_MARGIN_TOKENS = 64
# Texts that a template joins without anything between them may be cut into tokens in another way at the seams.
TOKENIZER_MARGIN_DIVISOR = 50
# No usual text has more bytes per token; it only tells whether it is worth while to count.
BYTES_PER_TOKEN_HOPED = 8


class CountedBy(StrEnum):
    """Who counted; it decides what the count covers."""

    PROVIDER = "provider"
    """The provider's own free endpoint: text and tools in the frame that the model gets."""
    TOKENIZER = "tokenizer"
    """The model's published vocabulary, here: text only; the frame is bounded as it is without a count."""


@dataclass(frozen=True, slots=True)
class InputCount:
    """Tokens that somebody who knows the model's tokenizer has counted in the input of one call."""

    call: Call
    """The very call that was counted; a count proves nothing about any other."""
    tokens: int
    by: CountedBy


def provider_bound(tokens: int) -> int:
    """Give the most that the text and the tools can be billed as when the provider counts so many tokens."""
    return tokens + -(-tokens // PROVIDER_MARGIN_DIVISOR) + PROVIDER_MARGIN_TOKENS


def tokenizer_bound(tokens: int) -> int:
    """Give the most that the text can be billed as when its model's vocabulary makes so many tokens of it."""
    return tokens + -(-tokens // TOKENIZER_MARGIN_DIVISOR)
