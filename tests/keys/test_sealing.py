"""Secrets at rest."""

from __future__ import annotations

import base64
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.keys.sealing import Seal, SealError

OLD, NEW = b"o" * 32, b"n" * 32


@given(value=st.binary(max_size=300), about=st.binary(max_size=40))
def test_what_is_sealed_opens_again_and_shows_nothing(value: bytes, about: bytes) -> None:
    seal = Seal([NEW])
    sealed = seal.seal(value, about=about)
    assert seal.open(sealed, about=about) == value
    assert sealed != seal.seal(value, about=about)
    assert len(value) < 4 or value not in sealed


def test_the_first_key_seals_and_all_open() -> None:
    before, both, after = Seal([OLD]), Seal([NEW, OLD]), Seal([NEW])
    assert both.open(before.seal(b"sk-1")) == b"sk-1"
    assert after.open(both.seal(b"sk-1")) == b"sk-1"
    with pytest.raises(SealError, match=r"not given in \[crypto\]"):
        after.open(before.seal(b"sk-1"))


@pytest.mark.parametrize("length", range(40))
def test_no_part_of_a_sealed_value_opens(length: int) -> None:
    seal = Seal([NEW])
    with pytest.raises(SealError):
        seal.open(seal.seal(b"sk-1234")[:length])


def test_a_changed_or_foreign_value_does_not_open() -> None:
    seal = Seal([NEW])
    sealed = seal.seal(b"sk-1", about=b"one")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(SealError):
            seal.open(bytes(changed), about=b"one")
    with pytest.raises(SealError, match="belongs elsewhere"):
        seal.open(sealed, about=b"two")
    with pytest.raises(SealError, match="unknown version"):
        seal.open(b"sk-plain", about=b"one")


@pytest.mark.parametrize("size", [16, 24, 32])
def test_keys_are_written_in_base64_or_hex(size: int) -> None:
    key = bytes(range(size))
    texts = [
        key.hex(),
        key.hex().upper(),
        base64.b64encode(key).decode() + "\n",
        base64.urlsafe_b64encode(key).decode().rstrip("="),
    ]
    sealed = Seal([key]).seal(b"sk-1")
    for text in texts:
        assert Seal.of([text]).open(sealed) == b"sk-1"


@pytest.mark.parametrize("text", ["", "short", "kein schlüssel!", base64.b64encode(b"x" * 31)])
def test_a_key_that_is_none_is_refused_and_not_shown(text: str | bytes) -> None:
    shown = text if isinstance(text, str) else text.decode()
    with pytest.raises(ConfigurationError, match="openssl rand -base64 32") as refused:
        Seal.of([shown], where="[crypto] keys")
    assert not shown or shown not in str(refused.value)
    with pytest.raises(ConfigurationError):
        Seal([])
    with pytest.raises(ConfigurationError):
        Seal([b"too short"])


def test_a_seal_shows_no_key() -> None:
    assert repr(Seal([NEW, OLD])) == "Seal(2 keys)"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r"asgi-llm-gateway\[crypto\]"):
        Seal([NEW])
