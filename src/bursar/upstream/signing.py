"""Credentials of one request: a key, a token that expires, or a signature over the request itself.

`google-auth` and `botocore` are optional; they know how credentials are found and renewed, and nothing here does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bursar.upstream.fetch import Fetch, Fetched, FetchError

GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
AWS_SERVICE = "bedrock"
Headers = tuple[tuple[str, str], ...]


class SigningError(Exception):
    """There are no credentials, or they cannot be renewed now; nothing was sent."""


class MissingExtraError(Exception):
    """The library that knows these credentials is not installed; the message says which one is to be."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A request as it will be sent, but for its credentials."""

    method: str
    url: str
    body: bytes


class Signer(Protocol):
    """Makes the headers that let a request in; what it knows is never in its repr, a log or an error."""

    async def headers(self, request: Unsigned) -> Headers:
        """Give the credentials of this request; raises SigningError."""
        ...


class KeySigner:
    """A key that stays the same."""

    __slots__ = ("_headers",)

    def __init__(self, header: str, value: str) -> None:
        self._headers: Headers = ((header, value),) if value else ()

    async def headers(self, request: Unsigned) -> Headers:
        """Give the key's header, or none for a server that takes no key."""
        return self._headers


class GoogleSigner:
    """An access token of Google Cloud, renewed shortly before it ends."""

    def __init__(self, find: Callable[[], Any], fetch: Fetch) -> None:
        self._find = find
        self._fetch = fetch
        self._credentials: Any = None
        self._renewing = asyncio.Lock()

    async def headers(self, request: Unsigned) -> Headers:
        """Give the token that holds now; raises SigningError."""
        if not self._is_valid():
            async with self._renewing:
                if not self._is_valid():
                    await self._renew()
        made: dict[str, str] = {}
        self._credentials.apply(made)
        return tuple((name.lower(), value) for name, value in made.items())

    def _is_valid(self) -> bool:
        return self._credentials is not None and bool(self._credentials.valid)

    async def _renew(self) -> None:
        transport = _Transport(self._fetch, asyncio.get_running_loop())
        try:
            if self._credentials is None:
                # Looking for credentials may ask the machine's metadata server.
                self._credentials = await asyncio.to_thread(self._find)
            await asyncio.to_thread(self._credentials.refresh, transport)
        except (_google().exceptions.GoogleAuthError, OSError, ValueError, TypeError, LookupError) as error:
            # An answer that is no token fails in the library in any of these ways; its text can quote what was said.
            raise SigningError(f"Google gave no access token ({type(error).__name__})") from None


class _Transport:
    """Lets google-auth, which waits in a thread, ask through the gateway's own HTTP client."""

    def __init__(self, fetch: Fetch, loop: asyncio.AbstractEventLoop) -> None:
        self._fetch = fetch
        self._loop = loop

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **_more: object,
    ) -> Fetched:
        asked: concurrent.futures.Future[Fetched] = asyncio.run_coroutine_threadsafe(
            self._fetch(method, url, headers or {}, body or b""), self._loop
        )
        try:
            return asked.result()
        except FetchError as error:
            raise _google().exceptions.TransportError(str(error)) from error


class AwsSigner:
    """Signature version 4 over method, path and body."""

    def __init__(self, credentials: Callable[[], Any], region: str) -> None:
        self._credentials = credentials
        self._region = region

    async def headers(self, request: Unsigned) -> Headers:
        """Sign this request; raises SigningError."""
        auth, awsrequest = _aws("auth"), _aws("awsrequest")
        try:
            # Finding and renewing credentials may ask a server.
            credentials = await asyncio.to_thread(self._credentials)
        except (_aws("exceptions").BotoCoreError, OSError) as error:
            raise SigningError(f"AWS gave no credentials ({type(error).__name__})") from None
        if credentials is None:
            raise SigningError("there are no AWS credentials where bursar runs")
        signed = awsrequest.AWSRequest(request.method, request.url, headers={}, data=request.body)
        auth.SigV4Auth(credentials, AWS_SERVICE, self._region).add_auth(signed)
        return tuple((name.lower(), value) for name, value in signed.headers.items())


def google_signer(fetch: Fetch) -> GoogleSigner:
    """Take the default credentials of the machine or its user, when they are needed; raises MissingExtraError."""
    library = _google()

    def find() -> Any:
        credentials, _project = library.default(scopes=[GOOGLE_SCOPE])
        return credentials

    return GoogleSigner(find, fetch)


def aws_signer(region: str) -> AwsSigner:
    """Take the credentials that the AWS tools would take here; raises MissingExtraError."""
    session = _aws("session").Session()

    def frozen() -> Any:
        found = session.get_credentials()
        return None if found is None else found.get_frozen_credentials()

    return AwsSigner(frozen, region)


def _google() -> Any:
    try:
        importlib.import_module("google.auth.exceptions")
        return importlib.import_module("google.auth")
    except ImportError:
        raise MissingExtraError("Vertex needs google-auth: pip install 'bursar[vertex]'") from None


def _aws(module: str) -> Any:
    try:
        return importlib.import_module(f"botocore.{module}")
    except ImportError:
        raise MissingExtraError("Bedrock needs botocore: pip install 'bursar[bedrock]'") from None
