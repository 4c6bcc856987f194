"""Converse requests and replies of the corpus have the shapes of AWS's own service model: no field is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpus_sums import expanded, pairs

from bursar.call import Call
from bursar.dialects import bedrock
from bursar.dialects.protocol import Request

pytest.importorskip("botocore")

from botocore.session import get_session
from botocore.validate import ParamValidator

MODEL = get_session().get_service_model("bedrock-runtime")
CONVERSE, STREAM = MODEL.operation_model("Converse"), MODEL.operation_model("ConverseStream")
OURS = [pytest.param(pair, id=file.stem) for file, pair in pairs() if file.parent.name == "bedrock_converse"]
PATH = "/model/m/converse"


def ensure_fits(value: Any, shape: Any) -> None:
    found = ParamValidator().validate(value, shape)
    assert not found.has_errors(), found.generate_report()


@pytest.mark.parametrize("pair", OURS)
def test_a_pair_has_the_shapes_of_aws(pair: dict[str, Any]) -> None:
    ensure_fits({"modelId": "a.b", **expanded(pair["request"])}, CONVERSE.input_shape)
    reply = pair["reply"]
    if reply.get("status", 200) == 200 and "json" in reply:
        ensure_fits(reply["json"], CONVERSE.output_shape)
    members = STREAM.output_shape.members["stream"].members
    for kind, payload in reply.get("frames", ()):
        ensure_fits(payload, members[kind.lstrip("!")])


def test_no_field_that_is_known_or_refused_is_made_up() -> None:
    members = CONVERSE.input_shape.members
    assert members.keys() - {"modelId"} == bedrock._FIELDS
    assert CONVERSE.input_shape.members.keys() == STREAM.input_shape.members.keys()
    assert members["inferenceConfig"].members.keys() == bedrock._INFERENCE
    assert members["toolConfig"].members.keys() == bedrock._TOOL_CONFIG
    tool = members["toolConfig"].members["tools"].member
    assert tool.members.keys() == {"toolSpec", "systemTool", "cachePoint"}
    assert tool.members["toolSpec"].members.keys() == bedrock._TOOL_SPEC
    assert members["toolConfig"].members["toolChoice"].members.keys() == bedrock._TOOL_CHOICE
    assert members["outputConfig"].members.keys() == bedrock._OUTPUT_CONFIG
    assert members["serviceTier"].members.keys() == {"type"}
    assert members["performanceConfig"].members.keys() == {"latency"}
    block = members["messages"].member.members["content"].member.members
    walked = {"image", "document", "toolUse", "toolResult", "reasoningContent"}
    assert block.keys() == bedrock._TEXT_BLOCKS | bedrock._REFUSED_BLOCKS.keys() | walked
    assert block["image"].members.keys() == bedrock._IMAGE
    assert block["document"].members.keys() == bedrock._DOCUMENT
    assert block["document"].members["source"].members.keys() == bedrock._SOURCE
    assert block["toolUse"].members.keys() == bedrock._TOOL_USE
    assert block["toolResult"].members.keys() == bedrock._TOOL_RESULT
    inside = block["toolResult"].members["content"].member.members.keys()
    assert inside <= block.keys() | {"json"}


def test_what_the_golden_requests_ask_for_aws_would_take() -> None:
    cases = json.loads((Path(__file__).parents[1] / "bedrock_converse" / "read.json").read_text())
    tried = 0
    for case in cases["cases"]:
        body = case["body"] if "body" in case else {**cases["base"], **case.get("with", {})}
        raw = json.dumps(body).encode()
        if "quirks" in case or b"null" in raw:
            continue  # AWS's client sends neither what it does not know nor null
        assert isinstance(bedrock.BedrockConverse().parse(Request("bedrock", PATH, {}, raw)), Call)
        ensure_fits({"modelId": "a.b", **body}, CONVERSE.input_shape)
        tried += 1
    assert tried > 20
