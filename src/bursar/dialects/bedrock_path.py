"""Paths of Bedrock's Converse API, which name the model and what to do with it: the one place that reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass

WHOLE, STREAMED, COUNT = "converse", "converse-stream", "count-tokens"
# One segment, in which the SDKs escape the colon and, in ARNs, the slash; nothing else has two spellings.
_METHOD = r"(?P<method>converse|converse-stream|count-tokens)"
_SENT = re.compile(r"/model/(?P<model>(?:[A-Za-z0-9._:-]|%3A|%3a|%2F|%2f){1,256})/" + _METHOD)
_PLAIN = re.compile(r"/model/(?P<model>[A-Za-z0-9](?:[A-Za-z0-9._:/-]{0,198}[A-Za-z0-9])?)/" + _METHOD)


# Profiles of a zone; counts are known by the model's own name only.
_ZONES = frozenset({"us", "us-gov", "eu", "apac", "au", "ca", "jp", "sa", "global"})


@dataclass(frozen=True, slots=True)
class BedrockPath:
    """What a path of the Converse API asks for."""

    model: str
    method: str

    @property
    def is_count(self) -> bool:
        """Whether it asks how many tokens a request has."""
        return self.method == COUNT


def plain_path(path: str) -> str | None:
    """Give a path as it was sent in its one plain spelling, or None when it is not of the Converse API."""
    match = _SENT.fullmatch(path)
    if match is None:
        return None
    model = match["model"].replace("%3A", ":").replace("%3a", ":").replace("%2F", "/").replace("%2f", "/")
    plain = f"/model/{model}/{match['method']}"
    return plain if _PLAIN.fullmatch(plain) else None


def read_plain(path: str) -> BedrockPath | None:
    """Read a path in its plain spelling; None for any other."""
    match = _PLAIN.fullmatch(path)
    return None if match is None else BedrockPath(match["model"], match["method"])


def counted_name(model: str) -> str:
    """Give the name under which the input of this model is counted: without the zone of its profile."""
    zone, _dot, rest = model.partition(".")
    return rest if zone in _ZONES else model
