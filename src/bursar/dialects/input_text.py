"""What of a request is input, for whoever counts its tokens: which fields are none, and every text in the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from bursar.call import Call
from bursar.dialects.fields import names

TOKENS_PER_NODE = 4
"""Above what a template puts around one value: indents, quotes, colons, commas, brackets, the words of a type."""

NOT_INPUT = names(
    """
    model max_tokens max_completion_tokens max_output_tokens n best_of stream stream_options service_tier serviceTier
    speed inference_geo temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty seed stop
    stop_sequences logit_bias logprobs top_logprobs metadata client_metadata user safety_identifier store include
    prompt_cache_key prompt_cache_options prompt_cache_retention max_tool_calls parallel_tool_calls diagnostics
    verbosity reasoning_effort
    """
)
"""Top-level fields that put no text before the model, beyond a few words in the frame of every call."""

_READ = frozenset({"openai_chat", "openai_completions", "openai_responses"})
# Definitions reach the model in a form of the server's own, perhaps as JSON with its escapes.
_DEFINITIONS = frozenset({"tools", "functions", "response_format", "text", "tool_choice", "function_call"})


@dataclass(frozen=True, slots=True)
class InputText:
    """Every text of the input, cut where a template may cut it, and how many values there are."""

    texts: tuple[str, ...]
    nodes: int

    @property
    def frame_tokens(self) -> int:
        """Give the most tokens that stand between the texts."""
        return TOKENS_PER_NODE * self.nodes


def input_text(call: Call) -> InputText | None:
    """Give the texts of a call, or None where something in it is no text or its dialect is not read here."""
    if call.dialect not in _READ or call.input.images or call.input.opaque:
        return None
    texts: list[str] = []
    nodes = 0
    for name, value in json.loads(call.body.text).items():
        if name in NOT_INPUT:
            continue
        for text in _leaves({name: value}):
            nodes += 1
            texts.append(text)
            if name in _DEFINITIONS and (escaped := json.dumps(text)[1:-1]) != text:
                texts.append(escaped)
    return InputText(tuple(texts), nodes)


def _leaves(value: object) -> Iterator[str]:
    """Give every name and every value inside as text, one a node; lists and objects give an empty one of their own."""
    level = [value]
    while level:
        below: list[object] = []
        for node in level:
            if isinstance(node, dict):
                yield ""
                yield from node
                below += node.values()
            elif isinstance(node, list):
                yield ""
                below += node
            else:
                yield node if isinstance(node, str) else json.dumps(node)
        level = below
