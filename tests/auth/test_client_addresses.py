"""Where a call comes from, and whom to believe about it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.auth.client_ip import TrustedProxies, parse_address, parse_networks
from asgi_llm_gateway.errors import ConfigurationError
from tests.auth.doors import door, knock


def address(
    peer: Any, *forwarded: str, trusted: tuple[str, ...] = ("10.0.0.0/8", "::1")
) -> str | None:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    client = (peer, 5000) if isinstance(peer, str) else peer
    seen = TrustedProxies.of(trusted).address_of({"headers": headers, "client": client})
    return None if seen is None else str(seen)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:443", "192.0.2.1"),
        ("2001:DB8:0::0001", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[::1]:80", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25]:80", "fe80::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:a00:1", "10.0.0.1"),
        ("[::ffff:10.0.0.1]:1", "10.0.0.1"),
        ("0:0:0:0:0:ffff:10.0.0.1", "10.0.0.1"),
        ("", None),
        ("unknown", None),
        ("localhost", None),
        ("_hidden", None),
        ("010.0.0.1", None),
        ("0x7f.0.0.1", None),
        ("2130706433", None),
        ("127.1", None),
        ("10.0.0.1%eth0", None),
        ("::1%", None),
        ("[10.0.0.1", None),
        ("[[::1]]", None),
        ("10.0.0.1:port", None),
        ('"[::1]:80"', None),
        ("10.0.0.1\r\n", None),
        ("\uff11\uff10.0.0.1", None),
        ("1" * 10_000, None),
    ],
)
def test_an_address_is_read_in_every_form_it_is_written_in(text: str, wanted: str | None):
    seen = parse_address(text)
    assert (None if seen is None else str(seen)) == wanted


@given(st.text())
def test_no_text_breaks_the_reading_of_an_address(text: str):
    seen = parse_address(text)
    assert seen is None or parse_address(str(seen)) == seen


@pytest.mark.parametrize(
    ("peer", "forwarded", "wanted"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["127.0.0.1"], "192.0.2.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("::ffff:10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["127.0.0.1, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["127.0.0.1, 192.0.2.7, 10.9.9.9"], "192.0.2.7"),
        ("10.0.0.1", ["127.0.0.1, 192.0.2.7", "10.9.9.9,::1"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.7:80, [::1]:443"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7, rubbish"], None),
        ("10.0.0.1", ["rubbish, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7, "], None),
        ("10.0.0.1", [""], None),
        ("10.0.0.1", ["192.0.2.7, rubbish, 10.0.0.2"], None),
        ("10.0.0.1", ["1.1.1.1," * 5000 + "192.0.2.7"], "192.0.2.7"),
        ("testclient", ["192.0.2.7"], None),
        ("", ["192.0.2.7"], None),
        (None, ["192.0.2.7"], None),
    ],
)
def test_only_trusted_proxies_are_believed_and_only_from_the_right(
    peer: Any, forwarded: list[str], wanted: str | None
):
    assert address(peer, *forwarded) == wanted


def test_without_trusted_proxies_nobody_is_believed():
    assert address("10.0.0.1", "192.0.2.7", trusted=()) == "10.0.0.1"


def test_a_unix_socket_is_believed_only_when_it_is_named():
    assert address(None, "192.0.2.7", trusted=("unix",)) == "192.0.2.7"
    assert address(None, trusted=("unix",)) is None
    assert address(None, "192.0.2.7", trusted=("127.0.0.1",)) is None
    assert address("198.51.100.1", "192.0.2.7", trusted=("unix",)) == "198.51.100.1"


@pytest.mark.parametrize("header", ["x-real-ip", "forwarded", "true-client-ip", "cf-connecting-ip"])
async def test_other_headers_say_nothing_about_the_address(header: str):
    tokens = {"sk-alice": {"name": "alice", "ips": ["192.0.2.7"]}}
    app, _ = door(access_tokens=tokens, trusted_proxies=["10.0.0.0/8"])
    for value in ("192.0.2.7", "for=192.0.2.7"):
        answer = await knock(app, headers=[(header, value)], client=("10.0.0.1", 1))
        assert answer.status == 403


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_mapped_networks_become_plain_ones(block: str, wanted: str):
    assert [str(network) for network in parse_networks([block], where="ips")] == [wanted]


@pytest.mark.parametrize("bad", ["10.0.0.0/8", ["nonsense"], [None], [True]])
def test_trusted_proxies_that_are_none_are_named(bad: Any):
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        door(trusted_proxies=bad)


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        ("10.1.2.3", None, 200),
        ("::ffff:10.1.2.3", None, 200),
        ("2001:db8::5", None, 200),
        ("11.1.2.3", None, 403),
        ("::10.1.2.3", None, 403),
        ("172.16.0.1", "10.1.2.3", 200),
        ("172.16.0.1", "10.1.2.3, 11.1.1.1", 403),
        ("172.16.0.1", "garbage", 403),
        ("11.1.2.3", "10.1.2.3", 403),
        ("garbage", None, 403),
        (None, None, 403),
    ],
)
async def test_a_token_bound_to_addresses_is_good_from_there_only(
    peer: str | None, forwarded: str | None, status: int
):
    tokens = {"sk-alice": {"name": "alice", "ips": ["10.0.0.0/8", "2001:db8::/32"]}}
    app, inside = door(access_tokens=tokens, trusted_proxies=["172.16.0.0/12"])
    headers = [("x-forwarded-for", forwarded)] if forwarded else []
    client = (peer, 4000) if peer else None
    answer = await knock(app, headers=headers, client=client)
    assert answer.status == status
    assert len(inside.scopes) == (status == 200)
    if status == 403:
        assert answer.json["error"]["message"].startswith("this access token may not do that")
        assert answer.json["error"]["type"] == "permission_error"
