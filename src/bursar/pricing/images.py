"""How many input tokens an image can cost, by the rules that the providers publish."""

from __future__ import annotations

import re

from bursar.call import Image
from bursar.pricing.rates import Card, ImageBound, ImageRule

# Claude counts about w * h / 750 and at most 4,784 tokens (2,576 pixels on the long edge, squares of 28 pixels).
_CLAUDE_TOKENS_MAX = 5_000
_CLAUDE_MARGIN = 16
# Gemini 3 can be told to look at an image in ultra-high resolution.
_GEMINI_TOKENS_MIN = 2_240
_GEMINI_TILE_TOKENS = 258

# OpenAI: patterns of model names, the most tokens of one image, and the rule. The first that matches counts.
# Tile models: base + 8 tiles at most. Patch models: patches x multiplier.
_OPENAI: tuple[tuple[str, int, ImageBound], ...] = (
    (r"gpt-4o-mini", 48_169, ImageBound(ImageRule.TILES, low_detail_tokens=2_833)),
    (
        r"(gpt-4o|gpt-4\.1|gpt-4-turbo|gpt-4\.5|chatgpt-4o)(?!.*(mini|nano))",
        1_445,
        ImageBound(ImageRule.TILES, 100, 85),
    ),
    (r"gpt-5(-\d|-chat|-codex|-pro|$)(?!.*(mini|nano))", 1_190, ImageBound(ImageRule.TILES, 100, 70)),
    (r"(o1|o3)(?!.*mini)", 1_275, ImageBound(ImageRule.TILES, 100, 75)),
    (r"(gpt-4\.1|gpt-5)-(mini|nano)|o4-mini", 3_779, ImageBound(ImageRule.PATCHES, 246)),
    (r"gpt-5[.-][45](?!.*(mini|nano))", 10_000, ImageBound(ImageRule.PATCHES, 100)),
    (r"(gpt-5[.-]6|gpt-6(\.\d)?)(-sol|-astra|$)", 30_000, ImageBound(ImageRule.PATCHES, 100)),
)
# A model that no rule names: the most patches of any times the largest multiplier, and no less than eight tiles.
_OPENAI_OTHER = (73_800, ImageBound(ImageRule.PATCHES, 246, tokens_min=1_445))


def image_bound(provider: str, model: str, context_tokens: int) -> tuple[int, ImageBound]:
    """Give the most tokens that one image can cost on this model, and the rule for images of known size."""
    if provider == "anthropic":
        tokens_max, bound = _CLAUDE_TOKENS_MAX, ImageBound(ImageRule.CLAUDE)
    elif provider == "openai":
        found = (entry[1:] for entry in _OPENAI if re.match(entry[0], model))
        tokens_max, bound = next(found, _OPENAI_OTHER)
    elif provider == "google":
        tokens_max, bound = context_tokens, ImageBound(ImageRule.GEMINI)
    else:
        tokens_max, bound = context_tokens, ImageBound()
    return min(tokens_max, context_tokens), bound


def image_tokens(image: Image, card: Card) -> int:
    """Give the most input tokens that this image can cost on the card's model."""
    bound = card.image
    if image.low_detail and bound.low_detail_tokens is not None:
        return min(bound.low_detail_tokens, card.image_tokens_max)
    if image.width is None or image.height is None:
        return card.image_tokens_max
    return min(_by_size(image.width, image.height, bound, card.image_tokens_max), card.image_tokens_max)


def _by_size(width: int, height: int, bound: ImageBound, tokens_max: int) -> int:
    if bound.rule is ImageRule.PATCHES:
        return max(_ceil(_ceil(width, 32) * _ceil(height, 32) * bound.percent, 100), bound.tokens_min)
    if bound.rule is ImageRule.CLAUDE:
        # The squares of thin images are not full: count both ways.
        return max(_ceil(width * height, 750), _ceil(width, 28) * _ceil(height, 28)) + _CLAUDE_MARGIN
    if bound.rule is ImageRule.GEMINI:
        side = min(max(min(width, height) * 2 // 3, 256), 768)
        return max(_GEMINI_TILE_TOKENS * _ceil(width, side) * _ceil(height, side), _GEMINI_TOKENS_MIN)
    return tokens_max


def _ceil(part: int, whole: int) -> int:
    return -(-part // whole)
