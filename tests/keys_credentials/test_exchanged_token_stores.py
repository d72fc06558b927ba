"""What every store of exchanged tokens promises: memory, a file, a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError, StateUnavailable
from asgi_llm_gateway.keys.credentials import (
    FileTokens,
    Found,
    Grant,
    MemoryTokens,
    SharedTokens,
    TokenStore,
)
from asgi_llm_gateway.keys.sealing import Seal
from asgi_llm_gateway.state import State
from tests.valkey import Valkey

GRANT = Grant("at-1", 4_000_000_100.0, 4_000_000_000.0, "rt-2", "terms")
LATER = replace(GRANT, secret="at-2", refresh="rt-3")
SEAL = Seal([b"k" * 32])
LEASE = 0.3
Make = Callable[..., TokenStore]


@pytest.fixture(params=["memory", "file", "sealed_file", "shared", "sealed_shared"])
def make(request: pytest.FixtureRequest, tmp_path: Path, valkey: Valkey) -> Make:
    """Makes a store; another one of the same place, where it has one."""
    kind = request.param
    seal = SEAL if "sealed" in kind else None
    memory: dict[str, MemoryTokens] = {}

    def made(**how: Any) -> TokenStore:
        if kind == "memory":
            return memory.setdefault("one", MemoryTokens(lease=LEASE, **how))
        if "file" in kind:
            return FileTokens(tmp_path / "tokens.json", seal=seal, lease=LEASE, **how)
        state = State(valkey.url, prefix=valkey.prefix)
        return SharedTokens(state, seal=seal, lease=LEASE, **how)

    return made


async def test_what_is_saved_is_found_by_everybody_under_its_name(make: Make) -> None:
    tokens = make()
    assert await tokens.load("n") == Found()
    assert await tokens.save("n", "me", GRANT, 0)
    assert await make().load("n") == Found(GRANT, 1)
    assert await make().load("other") == Found()


async def test_one_claims_and_the_others_are_told_so(make: Make) -> None:
    one, other = make(), make()
    claims = await asyncio.gather(*(store.claim("n", f"{store!r}") for store in (one, other)))
    if one is not other:
        assert sorted(found.mine for found in claims) == [False, True]
    assert (await one.claim("n", "third")).mine is False
    assert (await one.claim("else", "third")).mine is True


async def test_of_many_who_ask_at_once_one_gets_the_claim(make: Make) -> None:
    tokens = make()
    claims = await asyncio.gather(*(tokens.claim("n", f"owner-{i}") for i in range(20)))
    assert sum(found.mine for found in claims) == 1


async def test_claiming_again_is_the_same_claim(make: Make) -> None:
    tokens = make()
    assert (await tokens.claim("n", "me")).mine
    assert (await tokens.claim("n", "me")).mine


async def test_a_claim_is_freed_by_its_owner_only(make: Make) -> None:
    tokens = make()
    await tokens.claim("n", "me")
    await tokens.free("n", "you")
    assert not (await tokens.claim("n", "you")).mine
    await tokens.free("n", "me")
    assert (await tokens.claim("n", "you")).mine


async def test_saving_frees_the_claim(make: Make) -> None:
    tokens = make()
    await tokens.claim("n", "me")
    assert await tokens.save("n", "me", GRANT, 0)
    assert await tokens.claim("n", "you") == Found(GRANT, 1, True)


async def test_a_claim_whose_owner_died_lapses(make: Make) -> None:
    tokens = make()
    await tokens.claim("n", "dead")
    async with asyncio.timeout(5):
        while not (await tokens.claim("n", "me")).mine:  # noqa: ASYNC110 - a lease on a real clock
            await asyncio.sleep(0.05)


async def test_who_comes_late_does_not_overwrite_what_was_saved_meanwhile(make: Make) -> None:
    tokens = make()
    assert await tokens.save("n", "quick", GRANT, 0)
    assert not await tokens.save("n", "late", LATER, 0)
    assert await tokens.load("n") == Found(GRANT, 1)
    assert await tokens.save("n", "next", LATER, 1)
    assert await tokens.load("n") == Found(LATER, 2)


async def test_what_has_vanished_meanwhile_is_saved_all_the_same(make: Make) -> None:
    tokens = make()
    assert await tokens.save("n", "me", GRANT, 7)
    assert (await tokens.load("n")).grant == GRANT


async def test_stores_say_whether_they_outlive_the_process(make: Make) -> None:
    tokens = make()
    assert tokens.durable is not isinstance(tokens, MemoryTokens)


async def test_memory_holds_so_many_and_forgets_the_oldest() -> None:
    tokens = MemoryTokens(most=2)
    for name in ("a", "b", "c"):
        await tokens.save(name, "me", GRANT, 0)
    assert (await tokens.load("a")).grant is None
    assert (await tokens.load("c")).grant == GRANT


async def test_a_redis_grant_goes_when_it_is_no_use_any_more(valkey: Valkey) -> None:
    now = 4_000_000_000.0
    tokens = SharedTokens(State(valkey.url, prefix=valkey.prefix), kept=1000.0, clock=lambda: now)
    await tokens.save("rotated", "me", GRANT, 0)
    await tokens.save("plain", "me", replace(GRANT, refresh=None), 0)
    kept = {
        name: valkey.call("PTTL", f"{valkey.prefix}token:{{{name}}}")
        for name in ("rotated", "plain")
    }
    assert 990_000 < kept["rotated"] <= 1_000_000
    assert 86_400_000 < kept["plain"] <= 86_500_000


async def test_a_file_forgets_what_is_no_use_any_more(tmp_path: Path) -> None:
    now = [GRANT.expires_at]
    tokens = FileTokens(tmp_path / "t", kept=1000.0, clock=lambda: now[0])
    await tokens.save("old", "me", GRANT, 0)
    now[0] += 1001
    await tokens.save("new", "me", GRANT, 0)
    assert (await tokens.load("old")).grant is None
    assert "old" not in (tmp_path / "t").read_text()


async def test_the_file_is_for_its_owner_only_and_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text('{"version": 1}')
    path.chmod(0o644)
    tokens = FileTokens(path)
    tokens.check()
    await tokens.save("n", "me", GRANT, 0)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}  # noqa: ASYNC240
    assert modes == {
        "tokens.json": 0o600,
        "tokens.json.lock": 0o600,
    }


async def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "tokens.json")
    await FileTokens(tmp_path / "link").save("n", "me", GRANT, 0)
    assert (tmp_path / "link").is_symlink()
    assert (await FileTokens(tmp_path / "real" / "tokens.json").load("n")).grant == GRANT


async def test_a_write_that_fails_midway_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = FileTokens(tmp_path / "tokens.json")
    await tokens.save("n", "me", GRANT, 0)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StateUnavailable, match="No space"):
        await tokens.save("n", "me", LATER, 1)
    monkeypatch.undo()
    assert await tokens.load("n") == Found(GRANT, 1)
    assert await tokens.save("n", "me", LATER, 1)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "[]", '{"version": 2}', '{"tokens": 5}', '{"tokens": {"n": {"value": 1}}}'],
)
async def test_a_file_that_is_not_ours_is_never_written_to(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text)
    tokens = FileTokens(path)
    with pytest.raises(ConfigurationError, match="state_file"):
        tokens.check()
    with pytest.raises(ConfigurationError, match="state_file"):
        await tokens.save("n", "me", GRANT, 0)
    assert path.read_text() == text


def test_a_folder_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written") as caught:
        FileTokens(tmp_path / "nowhere" / "tokens.json").check()
    assert "\n" not in str(caught.value)


async def test_a_clock_set_back_does_not_lock_the_file_for_years(tmp_path: Path) -> None:
    now = [5_000_000.0]
    tokens = FileTokens(tmp_path / "t", clock=lambda: now[0])
    await tokens.claim("n", "before")
    now[0] = 1000.0
    assert (await tokens.claim("n", "after")).mine


@pytest.mark.parametrize("kind", ["file", "shared"])
async def test_sealed_tokens_cannot_be_read_without_the_seal(
    kind: str, tmp_path: Path, valkey: Valkey
) -> None:
    def made(seal: Seal | None) -> TokenStore:
        if kind == "file":
            return FileTokens(tmp_path / "t", seal=seal)
        return SharedTokens(State(valkey.url, prefix=valkey.prefix), seal=seal)

    await made(SEAL).save("n", "me", GRANT, 0)
    if kind == "file":
        raw = (tmp_path / "t").read_bytes()
    else:
        raw = valkey.call("HGET", f"{valkey.prefix}token:{{n}}", "grant")
    assert b"at-1" not in raw
    assert b"rt-2" not in raw
    for wrong in (None, Seal([b"x" * 32])):
        with pytest.raises(ConfigurationError, match=r"\[crypto\]"):
            await made(wrong).load("n")
    both = Seal([b"x" * 32, b"k" * 32])
    assert (await made(both).load("n")).grant == GRANT


async def test_what_was_stored_before_there_was_a_seal_is_still_read(tmp_path: Path) -> None:
    await FileTokens(tmp_path / "t").save("n", "me", GRANT, 0)
    assert (await FileTokens(tmp_path / "t", seal=SEAL).load("n")).grant == GRANT


async def test_an_access_token_stored_unsealed_is_fetched_anew_where_there_is_a_seal(
    tmp_path: Path,
) -> None:
    await FileTokens(tmp_path / "t").save("n", "me", replace(GRANT, refresh=None), 0)
    assert await FileTokens(tmp_path / "t", seal=SEAL).load("n") == Found(None, 1)


async def test_an_access_token_that_cannot_be_read_is_a_miss(tmp_path: Path) -> None:
    plain = replace(GRANT, refresh=None)
    await FileTokens(tmp_path / "t", seal=SEAL).save("n", "me", plain, 0)
    assert await FileTokens(tmp_path / "t").load("n") == Found(None, 1)


@pytest.mark.parametrize(
    ("value", "lost"), [(b"2-p{}", False), (b"2rp{}", True), (b"1rp{", True), (b"", False)]
)
async def test_what_another_version_stored_is_missed_only_if_it_can_be_had_again(
    valkey: Valkey, value: bytes, lost: bool
) -> None:
    tokens = SharedTokens(State(valkey.url, prefix=valkey.prefix))
    valkey.call("HSET", f"{valkey.prefix}token:{{n}}", "grant", value, "serial", 3)
    if lost:
        with pytest.raises(ConfigurationError, match="stored refresh token"):
            await tokens.load("n")
    else:
        assert await tokens.load("n") == Found(None, 3)


async def test_one_keys_tokens_cannot_be_put_in_the_place_of_anothers(valkey: Valkey) -> None:
    tokens = SharedTokens(State(valkey.url, prefix=valkey.prefix))
    await tokens.save("mine", "me", GRANT, 0)
    value = valkey.call("HGET", f"{valkey.prefix}token:{{mine}}", "grant")
    valkey.call("HSET", f"{valkey.prefix}token:{{yours}}", "grant", value, "serial", 1)
    with pytest.raises(ConfigurationError):
        await tokens.load("yours")
