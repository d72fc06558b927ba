"""How many tokens a call will probably put in: a guess that is corrected when usage is known."""

from __future__ import annotations

from typing import Any

from ..dialects.registry import DIALECTS
from ..exchange.body import JSONBody
from ..exchange.record import Exchange

CHARACTERS_A_TOKEN = 4
"""English prose has about as many (OpenAI's guide to tokens)."""


def input_tokens(exchange: Any) -> int:
    """The call's input, every text of it counted at 4 characters a token; at least 1.

    Images, files and tools' schemas beyond their words count nothing here, nor does a body that is
    no JSON. Anything but an Exchange (a pool used without a gateway) is 1.
    """
    if not isinstance(exchange, Exchange) or not isinstance(exchange.body, JSONBody):
        return 1
    dialect = DIALECTS.get(exchange.endpoint.dialect)
    if dialect is None:
        return 1
    characters = sum(len(text.value) for text in dialect.request_texts(exchange.body.document))
    return max(1, -(-characters // CHARACTERS_A_TOKEN))
