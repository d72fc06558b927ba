"""Tokens of a call's input, guessed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from asgi_llm_gateway.exchange.body import JSONBody, StreamBody
from asgi_llm_gateway.exchange.record import Exchange
from asgi_llm_gateway.keys.estimating import input_tokens


def exchange(path: str, document: Any) -> Exchange:
    made = Exchange(
        {"type": "http", "path": path, "root_path": "", "headers": [], "method": "POST"}
    )
    made.body = JSONBody(json.dumps(document).encode())
    return made


@pytest.mark.parametrize(("characters", "tokens"), [(0, 1), (1, 1), (4, 1), (5, 2), (4000, 1000)])
def test_four_characters_are_a_token(characters: int, tokens: int) -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "é" * characters}]}
    assert input_tokens(exchange("/v1/chat/completions", asked)) == tokens


def test_every_text_counts_and_an_image_does_not() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    parts = [{"type": "text", "text": "a" * 40}, image, {"type": "text", "text": "b" * 40}]
    asked = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    assert input_tokens(exchange("/v1/chat/completions", asked)) == 20
    assert input_tokens(exchange("/v1/embeddings", {"model": "m", "input": ["a" * 8] * 3})) == 6


def test_what_cannot_be_read_counts_as_one() -> None:
    assert input_tokens(None) == 1
    silent = exchange("/v1/chat/completions", {})
    silent.body = StreamBody()
    assert input_tokens(silent) == 1
    strange = exchange("/v1/chat/completions", {"messages": [{"content": "a" * 400}]})
    strange.endpoint = replace(strange.endpoint, dialect="none of ours")
    assert input_tokens(strange) == 1
