"""Inputs that may come as one or as a list, as text or as tokens: embeddings and legacy completions."""

from __future__ import annotations

from bursar.dialects.body import unreadable

PIECES_MAX = 2_048
"""The longest list that the provider takes."""


def pieces_of(value: object, name: str) -> int:
    """Count the inputs in a value: one text, one list of tokens, or a list of texts or of lists of tokens.

    A token has at least one digit and a mark around it, so bytes bound tokens also where the client counts them itself.
    """
    if isinstance(value, str):
        return 1
    if not isinstance(value, list) or not value:
        raise unreadable(f"`{name}` must be a text, a list of tokens, or a list of either.")
    if _are_tokens(value):
        return 1
    if not all(isinstance(piece, str) or (isinstance(piece, list) and _are_tokens(piece)) for piece in value):
        raise unreadable(f"`{name}` must be a text, a list of tokens, or a list of either.")
    if len(value) > PIECES_MAX:
        raise unreadable(f"`{name}` has more than {PIECES_MAX} inputs.")
    return len(value)


def _are_tokens(value: list[object]) -> bool:
    return all(type(token) is int and token >= 0 for token in value)
