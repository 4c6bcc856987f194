"""What makes credentials, without a network: nothing of a secret is shown, and a missing library is named."""

from __future__ import annotations

import asyncio
import importlib
from datetime import datetime
from typing import Any

import pytest

from bursar.upstream import fetch as fetching
from bursar.upstream.fetch import Fetched, FetchError, fetch
from bursar.upstream.signing import (
    AwsSigner,
    KeySigner,
    MissingExtraError,
    SigningError,
    Unsigned,
    aws_signer,
    google_signer,
)

REQUEST = Unsigned("POST", "https://bedrock-runtime.us-east-1.amazonaws.com/model/a%3A0/invoke", b'{"x":1}')


SIGNATURE = "Signature=f49160437f53887057fda2329e9d6fc31da9e1df68257c5fa7254cb2c2774d10"


async def never(*_asked: object) -> Fetched:
    raise FetchError("nobody is there")


async def test_a_key_is_sent_as_it_is_and_not_shown() -> None:
    signer = KeySigner("api-key", "s3cret")
    assert await signer.headers(REQUEST) == (("api-key", "s3cret"),)
    assert "s3cret" not in repr(signer)
    assert await KeySigner("api-key", "").headers(REQUEST) == ()


async def test_a_signature_is_that_of_the_library_at_the_same_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = pytest.importorskip("botocore.auth")
    credentials = pytest.importorskip("botocore.credentials").Credentials("AKIDEXAMPLE", "s3cret", "token")
    monkeypatch.setattr(auth, "get_current_datetime", lambda: datetime(2026, 11, 23, 12, 0, 0))
    made = dict(await AwsSigner(lambda: credentials, "us-east-1").headers(REQUEST))
    library = pytest.importorskip("botocore.awsrequest").AWSRequest("POST", REQUEST.url, headers={}, data=REQUEST.body)
    auth.SigV4Auth(credentials, "bedrock", "us-east-1").add_auth(library)
    assert made == {name.lower(): value for name, value in library.headers.items()}
    assert made["x-amz-date"] == "20261123T120000Z"
    assert made["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-east-1/bedrock/")
    # Computed once from the words of the standard; what signs must not change unseen.
    assert made["authorization"].endswith(SIGNATURE)


async def test_credentials_of_aws_that_cannot_be_renewed_are_named_without_their_text() -> None:
    exceptions = pytest.importorskip("botocore.exceptions")

    def broken() -> Any:
        raise exceptions.CredentialRetrievalError(provider="x", error_msg="s3cret")

    with pytest.raises(SigningError) as error:
        await AwsSigner(broken, "us-east-1").headers(REQUEST)
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None
    with pytest.raises(SigningError, match="no AWS credentials"):
        await AwsSigner(lambda: None, "us-east-1").headers(REQUEST)


async def test_where_the_machine_has_no_google_credentials_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = pytest.importorskip("google.auth")

    def none(**_asked: object) -> Any:
        raise auth.exceptions.DefaultCredentialsError("s3cret")

    monkeypatch.setattr(auth, "default", none)
    with pytest.raises(SigningError, match="DefaultCredentialsError") as error:
        await google_signer(never).headers(REQUEST)
    assert "s3cret" not in str(error.value)


async def test_many_calls_renew_a_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = pytest.importorskip("google.auth")

    class Credentials:
        valid = False
        renewals = 0

        def refresh(self, _transport: object) -> None:
            self.renewals += 1
            self.valid = True

        def apply(self, headers: dict[str, str]) -> None:
            headers["Authorization"] = f"Bearer t{self.renewals}"

    credentials = Credentials()
    monkeypatch.setattr(auth, "default", lambda **_asked: (credentials, "project"))
    signer = google_signer(never)
    got = await asyncio.gather(*(signer.headers(REQUEST) for _ in range(8)))
    assert set(got) == {(("authorization", "Bearer t1"),)}
    assert credentials.renewals == 1


@pytest.mark.parametrize(
    ("make", "package"),
    [(lambda: google_signer(never), "bursar[vertex]"), (lambda: aws_signer("x"), "bursar[bedrock]")],
)
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, make: Any, package: str) -> None:
    def missing(name: str, *_more: object) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError) as error:
        make()
    assert package in str(error.value)


# ---- the request for a token --------------------------------------------------------------------------------------


async def served_once(answer: bytes, seen: list[bytes]) -> tuple[asyncio.Server, str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_request_carries_its_own_headers_and_reads_the_answer_whole() -> None:
    seen: list[bytes] = []
    server, url = await served_once(b"HTTP/1.1 201 X\r\nX-Name: a\r\ncontent-length: 2\r\n\r\nhi", seen)
    async with server:
        got = await fetch("GET", f"{url}/a/b?c=d", {"Metadata-Flavor": "Google", "Host": "evil"}, b"")
    assert got == Fetched(201, {"x-name": "a", "content-length": "2"}, b"hi")
    assert seen[0].startswith(b"GET /a/b?c=d HTTP/1.1\r\n")
    assert b"metadata-flavor: Google\r\n" in seen[0]
    assert b"evil" not in seen[0]
    assert (await _fetched_root()).startswith(b"GET / HTTP/1.1\r\n")


async def _fetched_root() -> bytes:
    seen: list[bytes] = []
    server, url = await served_once(b"HTTP/1.1 204 X\r\n\r\n", seen)
    async with server:
        assert (await fetch("GET", url, {}, b"")).status == 204
    return seen[0]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nhi", b"nonsense\r\n\r\n"])
async def test_an_answer_that_is_none_is_an_error(answer: bytes) -> None:
    server, url = await served_once(answer, [])
    async with server:
        with pytest.raises(FetchError, match="gave no answer"):
            await fetch("GET", url, {}, b"")


async def test_an_answer_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "ANSWER_BYTES_MAX", 1)
    server, url = await served_once(b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nhi", [])
    async with server:
        with pytest.raises(FetchError, match="longer than 1 bytes"):
            await fetch("GET", url, {}, b"")


async def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FetchError, match="cannot connect"):
        await fetch("GET", "http://127.0.0.1:1", {}, b"")
