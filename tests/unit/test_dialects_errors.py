"""Errors are in the provider's own shape, so that the SDKs raise their own typed errors."""

from __future__ import annotations

import json
from decimal import Decimal

import anthropic
import openai
import pytest
from google.genai import errors as google_errors

from bursar.dialects.table import DIALECTS

DETAILS = {"scope": "run", "unit": "usd", "limit": Decimal("5.00")}
CASES = [
    (400, "unreadable", "invalid_request_error", "invalid_request_error"),
    (422, "unbounded", "invalid_request_error", "invalid_request_error"),
    (401, "key_unknown", "authentication_error", "authentication_error"),
    (403, "not_allowed", "permission_error", "permission_error"),
    (404, "unmetered", "invalid_request_error", "not_found_error"),
    (429, "cap_exhausted", "insufficient_quota", "billing_error"),
    (400, "cap_exhausted", "insufficient_quota", "billing_error"),
    (402, "cap_exhausted", "insufficient_quota", "billing_error"),
    (429, "run_stopped", "insufficient_quota", "billing_error"),
    (429, "cap_held", "rate_limit_exceeded", "rate_limit_error"),
    (429, "other", "rate_limit_exceeded", "rate_limit_error"),
    (503, "ledger_unavailable", "server_error", "api_error"),
]


@pytest.mark.parametrize(("status", "code", "openai_type", "anthropic_type"), CASES)
def test_an_error_says_its_kind_its_code_and_the_details(
    status: int, code: str, openai_type: str, anthropic_type: str
) -> None:
    for name, kind in (
        ("openai_chat", openai_type),
        ("openai_responses", openai_type),
        ("openai_completions", openai_type),
        ("openai_embeddings", openai_type),
        ("anthropic_messages", anthropic_type),
    ):
        body = json.loads(DIALECTS[name].error(status, code, "The cap is spent.", DETAILS))
        assert body["error"]["type"] == kind
        assert body["error"]["code"] == code
        assert body["error"]["message"] == "The cap is spent."
        assert body["error"]["bursar"] == {"scope": "run", "unit": "usd", "limit": "5.00"}
        assert ("type" in body) == (name == "anthropic_messages")


def test_the_openai_sdk_raises_its_typed_error_with_our_message_and_details() -> None:
    body = DIALECTS["openai_chat"].error(429, "cap_exhausted", "The cap is spent.", DETAILS)
    with openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1") as client:
        error = client._make_status_error_from_response(response(client, 429, body))
    assert isinstance(error, openai.RateLimitError)
    assert (error.code, error.type) == ("cap_exhausted", "insufficient_quota")
    assert "The cap is spent." in str(error)
    assert isinstance(error.body, dict)
    assert error.body["bursar"]["scope"] == "run"


def test_the_anthropic_sdk_raises_its_typed_error_with_our_message_and_details() -> None:
    body = DIALECTS["anthropic_messages"].error(402, "cap_exhausted", "The cap is spent.", DETAILS)
    with anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1:9") as client:
        error = client._make_status_error_from_response(response(client, 402, body))
    assert type(error).__name__ == "PaymentRequiredError"
    assert "The cap is spent." in str(error)
    assert isinstance(error.body, dict)
    assert error.body["error"]["bursar"]["scope"] == "run"


def response(client: openai.OpenAI | anthropic.Anthropic, status: int, body: bytes):  # type: ignore[no-untyped-def]
    """Make a response of the HTTP library that this SDK happens to use."""
    request = client._client.build_request("POST", "http://127.0.0.1:9/")
    library = __import__(type(request).__module__.partition(".")[0])
    return library.Response(status, content=body, request=request)


@pytest.mark.parametrize("name", ["gemini", "gemini_embeddings"])
@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        (400, "unreadable", "INVALID_ARGUMENT"),
        (401, "invalid_key", "UNAUTHENTICATED"),
        (402, "cap_exhausted", "FAILED_PRECONDITION"),
        (403, "model_not_allowed", "PERMISSION_DENIED"),
        (404, "unmetered", "NOT_FOUND"),
        (422, "unbounded", "INVALID_ARGUMENT"),
        (429, "cap_exhausted", "RESOURCE_EXHAUSTED"),
        (500, "internal", "INTERNAL"),
        (503, "ledger_unavailable", "UNAVAILABLE"),
    ],
)
def test_an_error_for_google_has_its_number_its_word_and_our_code(name: str, status: int, code: str, word: str) -> None:
    details = {**DETAILS, "resets_at": None, "code": "of the details"}
    body = json.loads(DIALECTS[name].error(status, code, "The cap is spent.", details))
    error = body["error"]
    assert (error["code"], error["status"], error["message"]) == (status, word, "The cap is spent.")
    assert error["bursar"]["scope"] == "run"
    assert error["bursar"]["code"] == code
    assert error["bursar"]["resets_at"] is None
    (info,) = error["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (code.upper(), "bursar")
    assert info["metadata"]["limit"] == "5.00"
    assert "resets_at" not in info["metadata"]  # they are texts


def test_the_google_sdk_raises_its_typed_error_with_our_message_and_details() -> None:
    body = DIALECTS["gemini"].error(402, "cap_exhausted", "The cap is spent.", DETAILS)
    error = google_errors.ClientError(402, json.loads(body))
    assert (error.code, error.status, error.message) == (402, "FAILED_PRECONDITION", "The cap is spent.")
    assert error.details["error"]["bursar"]["code"] == "cap_exhausted"
