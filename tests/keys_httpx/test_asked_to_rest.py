"""How long a provider asks to be left alone, from its headers."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.keys.httpx_auth import retry_after

NOW = 1_000_000_000.0  # 2001-09-09 01:46:40 UTC


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "86400"}, 3600.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Sun, 09 Sep 2001 01:47:10 GMT"}, 30.0),
        ({"retry-after": "Sun, 09 Sep 2001 01:00:00 GMT"}, 0.0),
        ({"retry-after": "Sun, 09 Sep 2091 01:00:00 GMT"}, 3600.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "much", "retry-after": "2"}, 2.0),
    ],
    ids=str,
)
def test_seconds_milliseconds_and_dates_are_read(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(httpx.Headers(headers), NOW) == seconds


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
def test_nothing_a_provider_writes_there_breaks_it(text: str) -> None:
    found = retry_after(httpx.Headers({"retry-after": text, "retry-after-ms": text}), NOW)
    assert found is None or 0.0 <= found <= 3600.0
