"""The same request for another upstream: read again there, by that upstream's own ways, when the first one fails."""

from __future__ import annotations

import fnmatch
import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from bursar.call import Call, Head
from bursar.dialects.body import with_members
from bursar.dialects.protocol import Dialect, Quirks, Request
from bursar.edge.callers import may


@dataclass(frozen=True, slots=True)
class Route:
    """An upstream, and the model to ask it for."""

    upstream: str
    model: str
    """Empty: the model that the client asked for."""

    @classmethod
    def of(cls, text: str) -> Route:
        """Read `UPSTREAM` or `UPSTREAM/MODEL`."""
        upstream, _, model = text.partition("/")
        return cls(upstream, model)


class Fallbacks:
    """What the settings say about all models."""

    def __init__(self, routes: Mapping[str, Iterable[str]]) -> None:
        self._routes = [(pattern, tuple(map(Route.of, texts))) for pattern, texts in routes.items()]

    def after(self, call: Call) -> tuple[Route, ...]:
        """Give what comes after the upstream that the call is for; nothing where it is not in a list."""
        for pattern, routes in self._routes:
            if not fnmatch.fnmatchcase(call.model, pattern):
                continue
            for place, route in enumerate(routes):
                if route.upstream == call.upstream and route.model in ("", call.model):
                    return routes[place + 1 :]
        return ()


class SpareCalls:
    """Reads the request for the next upstream, when it is asked for and not before."""

    def __init__(
        self,
        call: Call,
        dialect: Dialect,
        headers: Mapping[str, str],
        routes: Iterable[Route],
        quirks: Mapping[str, Quirks],
        models: Iterable[str],
    ) -> None:
        self._call = call
        self._dialect = dialect
        self._headers = headers
        self._routes = deque(routes)
        self._quirks = quirks
        """Of every upstream that can be called."""
        self._models = tuple(models)
        """What the caller's key may use."""

    def take(self) -> Call | None:
        """Give the next upstream's call; those that may not, or cannot, take it are passed over."""
        while self._routes:
            route = self._routes.popleft()
            is_allowed = not route.model or may(self._models, route.model)
            call = self._read(route) if route.upstream in self._quirks and is_allowed else None
            if call is not None:
                return call
        return None

    def _read(self, route: Route) -> Call | None:
        first = self._call
        head, body = first.head, first.body.text.encode()
        if route.model and "model" in first.body.members:
            body = with_members(first.body, {"model": json.dumps(route.model)})
        elif route.model:
            head = replace(head, target=_with_model(head, first.model, route.model))
        path = head.target.partition("?")[0]
        quirks = self._quirks[route.upstream]
        call = self._dialect.parse(Request(route.upstream, path, self._headers, body, quirks, head))
        return call if isinstance(call, Call) else None


def _with_model(head: Head, old: str, new: str) -> str:
    """Give the target with another model, for a dialect that names it in the path."""
    target = head.target.replace(f"/models/{old}:", f"/models/{new}:", 1)
    return target.replace(f"/model/{old}/", f"/model/{new}/", 1)
