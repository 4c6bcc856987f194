"""Google's paths, which name the model and what to do with it: the one place that reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# No character of it has a second spelling: no percent sign, no slash, no dot at either end.
_PATH = re.compile(
    r"/(?:v1beta|v1)/models/(?P<model>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9])?):(?P<method>[A-Za-z]{1,40})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class GeminiPath:
    """What a path of Google's asks for."""

    model: str
    method: str

    @property
    def path(self) -> str:
        """Give the path in the one form that is sent on."""
        return f"/v1beta/models/{self.model}:{self.method}"


def read_path(path: str) -> GeminiPath | None:
    """Read a path, matched exactly: no decoding, no folding of case or slashes, no query; None for any other."""
    match = _PATH.fullmatch(path)
    return None if match is None else GeminiPath(match["model"], match["method"])
