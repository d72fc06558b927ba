"""A store's URL is taken apart, or refused with a line that helps and holds no password."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.state import StoreURL
from asgi_llm_gateway.state.url import _SCHEMES

LOCAL = ("localhost", 6379)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("memory://", StoreURL(kind="memory")),
        ("redis://localhost", StoreURL(kind="server", hosts=(LOCAL,))),
        ("REDIS://localhost:6380/3", StoreURL(kind="server", hosts=(("localhost", 6380),), db=3)),
        ("redis://[::1]:7/", StoreURL(kind="server", hosts=(("::1", 7),))),
        ("redis://[::1]", StoreURL(kind="server", hosts=(("::1", 6379),))),
        (
            "rediss://:p%40s%2Fs@h?verify=no&timeout=0.5",
            StoreURL(
                kind="server",
                tls=True,
                hosts=(("h", 6379),),
                password="p@s/s",
                verify=False,
                timeout=0.5,
            ),
        ),
        (
            "redis://u:a@b:c@h",
            StoreURL(kind="server", hosts=(("h", 6379),), user="u", password="a@b:c"),
        ),
        ("unix:///run/r%20s.sock?db=2", StoreURL(kind="unix", path="/run/r s.sock", db=2)),
        ("unix://:pw@/s", StoreURL(kind="unix", path="/s", password="pw")),
        (
            "redis+cluster://a,b:7001,[::1]:2",
            StoreURL(kind="cluster", hosts=(("a", 6379), ("b", 7001), ("::1", 2))),
        ),
        (
            "rediss+sentinel://u:p@a,b:7/main/1?sentinel_password=s&ca_file=/c.pem",
            StoreURL(
                kind="sentinel",
                tls=True,
                hosts=(("a", 26379), ("b", 7)),
                service="main",
                user="u",
                password="p",
                db=1,
                sentinel_password="s",
                ca_file="/c.pem",
            ),
        ),
    ],
)
def test_every_form_of_url_is_understood(url: str, parts: StoreURL) -> None:
    assert StoreURL.parse(url) == parts


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", "must begin with memory://, redis://"),
        ("localhost:6379", "must begin with"),
        ("postgresql://h", "must begin with"),
        ("memory://x", "nothing may follow"),
        ("memory://?timeout=1", "known here: none"),
        ("redis://", "a host is missing"),
        ("redis://:pw@", "a host is missing"),
        ("redis://:pa#ss@h", "%23"),
        ("redis://:pa/ss@h", "%2F"),
        ("redis://:pa?ss@h", "known here: timeout="),
        ("redis://h:port", "from 1 to 65535"),
        ("redis://h:0", "from 1 to 65535"),
        ("redis://h:65536", "from 1 to 65535"),
        ("redis://h:٣", "from 1 to 65535"),
        ("redis://a b", "signs that no host has"),
        ("redis://[::1", "in brackets"),
        ("redis://[::1]7", "in brackets"),
        ("redis://user@h", "USER:PASSWORD@"),
        ("redis://h/zero", "the database is no number"),
        ("redis://h/0/1", "too much follows"),
        ("redis://a,b", "redis+cluster://"),
        ("redis://h?timeout=0", "seconds over 0"),
        ("redis://h?timeout=nan", "seconds over 0"),
        ("redis://h?timeout=soon", "seconds over 0"),
        ("redis://h?timeout=1&timeout=2", "stands twice"),
        ("redis://h?verify=no", "known here: timeout="),
        ("rediss://h?verify=maybe", "yes or no"),
        ("redis://:%ff@h", "UTF-8"),
        ("redis+cluster://h/1", "no other database"),
        ("redis+sentinel://h", "the service's name is missing"),
        ("unix://", "path of the socket is missing"),
        ("unix:///", "path of the socket is missing"),
        ("unix://run/s", "three slashes"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_one_line_that_helps(url: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StoreURL.parse(url)
    message = caught.value.message
    assert message.startswith("[state] store: ")
    assert hint in message
    assert "\n" not in message
    assert not {"pw", "pa", "ss"} & set(message.replace("#", " ").split())


def test_neither_repr_nor_str_show_a_password() -> None:
    url = StoreURL.parse("redis+sentinel://u:hushhush@h/s?sentinel_password=hushhush")
    assert "hushhush" not in repr(url)
    assert str(url) == "redis+sentinel://h:26379/s/0"
    assert str(StoreURL.parse("unix://:hushhush@/s?db=1")) == "unix:///s?db=1"
    assert str(StoreURL.parse("memory://")) == "memory://"
    assert str(StoreURL.parse("redis://:hushhush@[::1]/2")) == "redis://[::1]:6379/2"


words = st.text(min_size=1, max_size=20)
hosts = st.lists(
    st.tuples(st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True), st.integers(1, 65535)),
    min_size=1,
    max_size=3,
)


@given(words, words, hosts, words, st.integers(0, 99), st.booleans())
def test_what_is_percent_encoded_comes_back_whole(
    user: str, password: str, hosts: list[tuple[str, int]], service: str, db: int, tls: bool
) -> None:
    scheme = "rediss+sentinel" if tls else "redis+sentinel"
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    where = ",".join(f"{host}:{port}" for host, port in hosts)
    url = StoreURL.parse(f"{scheme}://{login}@{where}/{quote(service, safe='')}/{db}")
    assert (url.user, url.password, url.hosts) == (user, password, tuple(hosts))
    assert (url.service, url.db, url.tls) == (service, db, tls)


@given(
    st.sampled_from(sorted(_SCHEMES)), st.text(st.sampled_from("ab:/@?#%[],=&. 0123456789é\0\n"))
)
def test_any_text_is_either_a_store_or_refused_in_one_line(scheme: str, rest: str) -> None:
    try:
        url = StoreURL.parse(f"{scheme}://{rest}")
    except ConfigurationError as failure:
        url, refused = None, failure.message
    if url is None:
        assert "\n" not in refused
    else:
        assert url.kind == "memory" or url.path or url.hosts
        assert all(host and 0 < port < 65536 for host, port in url.hosts)
