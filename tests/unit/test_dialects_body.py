"""The body on the border: what is read, what is edited, what is said about it."""

from __future__ import annotations

import pytest

from bursar.dialects.body import (
    BRACKETS_MAX,
    DEPTH_MAX,
    RefusedError,
    object_with,
    read,
    shown,
    value_text,
    with_members,
)
from bursar.dialects.fields import RUNS_MAX, Seen, input_facts


def test_the_places_of_members_are_those_of_the_text() -> None:
    text = ' { "a" : [1, 2] ,\n"b":"x" } '
    document = read(text.encode())
    assert document.values == {"a": [1, 2], "b": "x"}
    assert [text[m.key_start : m.value_end] for m in document.body.members.values()] == ['"a" : [1, 2]', '"b":"x"']
    assert value_text(document.body, "a") == "[1, 2]"
    assert value_text(document.body, "c") == ""


def test_edits_touch_what_they_name() -> None:
    body = read(b'{"a":1 ,"b" : {"x":[ ]},"c":"\xc3\xa9"}').body
    assert with_members(body, {}) == b'{"a":1 ,"b" : {"x":[ ]},"c":"\xc3\xa9"}'
    assert with_members(body, {"c": "2", "a": "[]"}) == b'{"a":[] ,"b" : {"x":[ ]},"c":2}'
    assert with_members(body, {"n": "0", "b": "3"}) == b'{"n":0,"a":1 ,"b" : 3,"c":"\xc3\xa9"}'


def test_an_object_in_an_object_is_edited_likewise() -> None:
    assert object_with('{ "x": 1 , "y":2}', "y", "true") == '{ "x": 1 , "y":true}'
    assert object_with('{"x":1}', "y", "true") == '{"y":true,"x":1}'
    assert object_with("{ }", "y", "true") == '{"y":true}'


def test_nesting_is_bounded() -> None:
    deepest = DEPTH_MAX - 1
    read(('{"a":' + "[" * deepest + "]" * deepest + "}").encode())
    for depth in (DEPTH_MAX, 5_000, 200_000):
        with pytest.raises(RefusedError, match="100 deep"):
            read(('{"a":' + "[" * depth + "]" * depth + "}").encode())


def test_brackets_in_texts_and_side_by_side_are_no_nesting() -> None:
    assert read(('{"a":"' + "[" * 1_000 + '","b":[' + ",".join(["{}"] * 1_000) + "]}").encode()).plain_bytes > 4_000


def test_the_number_of_objects_is_bounded() -> None:
    read(b'{"a":"' + b"[" * (BRACKETS_MAX - 1) + b'"}')
    with pytest.raises(RefusedError, match="1000000 opening brackets"):
        read(b'{"a":[' + b"[]," * BRACKETS_MAX + b"1]}")


def test_numbers_are_bounded_in_length() -> None:
    assert read(b'{"a":-' + b"9" * 309 + b',"b":1.' + b"5" * 1_000 + b"}").values["a"] == -(10**309) + 1
    with pytest.raises(RefusedError, match="310 digits"):
        read(b'{"a":[{"b":' + b"9" * 311 + b"}]}")


@pytest.mark.parametrize("raw", [b"\xff", b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\xaf"}', '{"a":1}'.encode("utf-16")])
def test_only_utf_8_is_read(raw: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        read(raw)
    assert (caught.value.refused.status, caught.value.refused.code) == (400, "unreadable")


def test_what_is_shown_of_a_client_is_short_printable_ascii() -> None:
    assert shown("max_tokens") == "max_tokens"
    assert shown("a\r\nset-cookie: x") == "a\\r\\nset-cookie: x"
    assert shown("x" * 1_000) == "x" * 60 + "..."
    assert shown(["x"]) == "list"


def test_the_letter_of_an_escape_does_not_join_with_the_marks_behind_it() -> None:
    """In the JSON text the r of an escape and its two marks are one letter of three bytes; in the text, five."""
    text = "\r\u0323\u0304" * 100
    raw = '{"a":"' + text.replace("\r", "\\r") + '"}'
    assert input_facts(read(raw.encode()), Seen()).nfc_bytes >= len(text.encode()) == 500


@pytest.mark.parametrize(
    ("text", "mixed"),
    [
        ("a" * 100, 0),
        ("a" * 100 + "é" + "b" * 100, 33),
        ("a" * 100 + "éü" + "b" * 20 + "—" + "c" * 100, 16 + 2 + 20 + 1 + 16),
        ("é" + "b" * 100, 1 + 6 + 16),
        ("a" * 100 + "é", 16 + 1 + 2),
    ],
)
def test_ascii_is_lone_where_nothing_else_is_near(text: str, mixed: int) -> None:
    raw = ('{"a":"' + text + '"}').encode()
    facts = input_facts(read(raw), Seen())
    assert facts.lone_ascii_bytes == len(text) + 8 - mixed


def test_a_text_that_is_mixed_all_over_has_no_lone_ascii() -> None:
    far_apart = ("x" * 99 + "é") * RUNS_MAX
    assert input_facts(read(('{"a":"' + far_apart + '"}').encode()), Seen()).lone_ascii_bytes > 0
    assert input_facts(read(('{"a":"' + far_apart + 'x"}').encode()), Seen()).lone_ascii_bytes > 0
    assert input_facts(read(('{"a":"' + far_apart + far_apart[:100] + '"}').encode()), Seen()).lone_ascii_bytes == 0


def test_media_is_not_lone_ascii() -> None:
    facts = input_facts(read(('{"a":"' + "x" * 100 + '"}').encode()), Seen(media_chars=90))
    assert (facts.lone_ascii_bytes, facts.text_bytes) == (18, 18)
    mixed = input_facts(read(('{"a":"é' + "x" * 100 + '"}').encode()), Seen(media_chars=100))
    assert mixed.lone_ascii_bytes == 0
