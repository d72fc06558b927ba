"""One answer to "which endpoint is this", whoever asks and wherever the app is mounted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.endpoints import UNKNOWN, Endpoint, below_mount, endpoint_of, find

CALLS = {
    "/chat/completions": ("chat", "openai_chat", "json"),
    "/completions": ("completions", "openai_completions", "json"),
    "/edits": ("edits", "openai_completions", "json"),
    "/embeddings": ("embeddings", "openai_embeddings", "json"),
    "/engines/ada/embeddings": ("embeddings", "openai_embeddings", "json"),
    "/responses": ("responses", "openai_responses", "json"),
    "/images/generations": ("images_generations", "openai_images", "json"),
    "/images/edits": ("images_edits", "openai_images", "multipart"),
    "/images/variations": ("images_variations", "openai_images", "multipart"),
    "/audio/speech": ("audio_speech", "openai_audio", "json"),
    "/audio/transcriptions": ("audio_transcriptions", "openai_audio", "multipart"),
    "/audio/translations": ("audio_translations", "openai_audio", "multipart"),
    "/moderations": ("moderations", "openai_moderations", "json"),
    "/rerank": ("rerank", "openai_rerank", "json"),
    "/messages": ("messages", "anthropic", "json"),
    "/messages/count_tokens": ("count_tokens", "anthropic", "json"),
    "/models/gemini-pro:generateContent": ("generate_content", "gemini", "json"),
    "/models/gemini-pro:streamGenerateContent": ("stream_generate_content", "gemini", "json"),
    "/models/gemini-pro:countTokens": ("count_tokens", "gemini", "json"),
    "/models/e:embedContent": ("embed_content", "gemini", "json"),
    "/models/e:batchEmbedContents": ("batch_embed_contents", "gemini", "json"),
    "/models/imagen:predict": ("predict", "gemini", "json"),
    "/models/veo:predictLongRunning": ("predict_long_running", "gemini", "json"),
    "/tunedModels/mine:generateContent": ("generate_content", "gemini", "json"),
}
OTHERS = {
    "/models": ("models", "models"),
    "/models/gpt-4o": ("model", "models"),
    "/models/org/model": ("model", "models"),
    "/oneapi/proxy/main/v1/anything": ("proxy", "proxy"),
    "/files": ("files", "known"),
    "/files/file-1/content": ("files", "known"),
    "/chat/completions/chatcmpl-1": ("chat", "known"),
    "/responses/resp_1/cancel": ("responses", "known"),
    "/fine_tuning/jobs": ("fine_tuning", "known"),
    "/batches": ("batches", "known"),
    "/threads/t/runs": ("threads", "known"),
    "/something/else": ("unknown", "unknown"),
}
MOUNTS = ("", "/v1", "/v1beta", "/llm/v1", "/llm", "/a/b/v1")


@pytest.mark.parametrize("version", ["/v1", "/v1beta"])
@pytest.mark.parametrize("path", CALLS)
def test_every_call_is_found_below_its_version(path: str, version: str) -> None:
    found = find(version + path)
    assert (found.name, found.dialect, found.body) == CALLS[path]
    assert found.kind == "call"
    assert found.methods == ("POST",)
    assert found.versioned


@pytest.mark.parametrize("path", OTHERS)
def test_every_other_route_is_found_and_read_by_nobody(path: str) -> None:
    found = find("/v1" + path)
    assert (found.name, found.kind) == OTHERS[path]
    assert found.body == "stream"
    assert found.versioned


def find_names(path: str) -> tuple[str, str, str]:
    """Name, kind and dialect of a path in the tables."""
    if path in CALLS:
        return CALLS[path][0], "call", CALLS[path][1]
    return *OTHERS[path], "openai_chat"


@pytest.mark.parametrize("path", [*CALLS, *OTHERS])
@pytest.mark.parametrize("mount", MOUNTS)
def test_outside_and_inside_a_mount_the_same_endpoint_is_seen(mount: str, path: str) -> None:
    for version in ("", "/v1", "/v1beta"):
        outside, inside = find(mount + version + path), find(mount + version + path, mount)
        assert find(version + path, mount) == inside, "a host that takes its prefix off"
        assert (inside.name, inside.kind, inside.dialect) == find_names(path)
        assert inside.versioned == bool(mount or version)
        if inside.kind != "unknown" or "/v1" in mount + version:
            assert outside == inside


@pytest.mark.parametrize("path", [*CALLS, "/models", "/models/gpt-4o"])
@pytest.mark.parametrize("version", ["", "/v1"])
def test_a_mount_below_a_hosts_own_version_is_looked_through(path: str, version: str) -> None:
    full = "/api/v1/llm" + version + path
    assert find(full) == find(full, "/api/v1/llm")


SEGMENTS = st.sampled_from(
    ["v1", "v1beta", "chat", "completions", "models", "m:generateContent", "files", "x", "", ".."]
)


@given(st.lists(SEGMENTS, max_size=6), st.sampled_from(["/v1", "/llm/v1", "/gw/v1beta"]))
def test_outside_and_inside_agree_about_any_path_below_a_version(
    segments: list[str], mount: str
) -> None:
    tail = "".join("/" + segment for segment in segments)
    inside, outside = find(mount + tail, mount), find(mount + tail)
    assert inside == outside


def test_a_second_v1_after_the_mounts_own_does_no_harm() -> None:
    assert find("/v1/v1/chat/completions", "/v1").name == "chat"
    assert find("/v1/v1/chat/completions").name == "chat"


def test_a_foreign_route_after_the_version_stays_whole_whatever_it_ends_in() -> None:
    for root_path in ("", "/v1"):
        found = find("/v1/internal/files/3", root_path)
        assert (found.kind, found.path) == ("unknown", "/internal/files/3")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin/users",
        "/v1/./chat/completions",
        "/v1/chat/../chat/completions",
        "/v1/chat/completions/..",
        "/v1/%2e%2e/admin",
        "/v1/%252e%252e/chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1;x/chat/completions",
        "/v1/chat/completions;x=y",
        "\\v1\\chat/completions",
        "/v1/chat\\..\\completions",
        "/v1/chat/completions\x00",
        "/v1/chat/completions ",
        "/v1/chat/completions\r\n",
        "/v1/models/\x7f",
        "/v1/files/../../etc/passwd",
        "/v1/files/%00",
        "/V1/chat/completions\n/v1/chat/completions",
        "/v1" + "/a" * 20_000 + "/chat/completions",
    ],
)
@pytest.mark.parametrize("mount", ["", "/v1"])
def test_paths_no_honest_client_sends_are_nobodys(path: str, mount: str) -> None:
    found = find(path, mount)
    assert (found.kind, found.methods, found.body) == ("unknown", (), "stream")


@pytest.mark.parametrize(
    "path", ["/V1/CHAT/COMPLETIONS", "/v1/Chat/Completions", "/v1", "/v1/", "/"]
)
def test_case_counts_and_a_bare_mount_is_no_route(path: str) -> None:
    assert find(path).kind == "unknown"


def test_a_path_without_any_prefix_is_known_but_marked_as_the_wrong_base_url() -> None:
    for path in CALLS:
        assert not find(path).versioned
    assert find("/chat/completions", "/llm").versioned


def test_a_trailing_slash_names_the_same_endpoint() -> None:
    assert find("/v1/chat/completions/") == find("/v1/chat/completions")


def test_models_in_paths_are_read_whole() -> None:
    assert find("/v1beta/models/gemini-pro:generateContent").model == "gemini-pro"
    assert find("/v1/engines/text/embedding-3/embeddings").model == "text/embedding-3"
    assert find("/v1/models/org/model:free").model == "org/model:free"


def test_a_proxy_path_names_its_channel_and_keeps_the_rest() -> None:
    found = find("/v1/oneapi/proxy/main/v1/chat/completions")
    assert (found.kind, found.channel, found.rest) == ("proxy", "main", "/v1/chat/completions")
    assert find("/v1/oneapi/proxy/main").rest == "/"


@pytest.mark.parametrize(
    ("header", "dialect"),
    [(b"anthropic-version", "anthropic"), (b"x-goog-api-key", "gemini"), (b"x", "openai_chat")],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/v1/files", "/nothing", "//"])
def test_shared_routes_go_by_the_callers_headers(path: str, header: bytes, dialect: str) -> None:
    assert find(path, headers=[(b"accept", b"*/*"), (header, b"1")]).dialect == dialect


def test_a_calls_dialect_goes_by_its_path_alone() -> None:
    found = find("/v1/chat/completions", headers=[(b"anthropic-version", b"2023-06-01")])
    assert found.dialect == "openai_chat"


def test_every_endpoint_has_a_dialect_so_that_every_error_has_one() -> None:
    assert UNKNOWN.dialect
    assert find("/%").dialect


@pytest.mark.parametrize(
    ("path", "root_path", "below"),
    [
        ("/v1/chat", "/v1", "/chat"),
        ("/v1", "/v1", "/"),
        ("/v1/", "/v1", "/"),
        ("/chat", "/v1", "/chat"),
        ("/v1beta/chat", "/v1", "/v1beta/chat"),
        ("/v1/chat", "", "/v1/chat"),
    ],
)
def test_the_mount_is_taken_off_only_at_a_segment_border(
    path: str, root_path: str, below: str
) -> None:
    assert below_mount(path, root_path) == below


def test_the_scope_decides_by_path_and_root_path_and_not_by_raw_path() -> None:
    scope = {
        "path": "/llm/v1/embeddings",
        "root_path": "/llm/v1",
        "raw_path": b"/v1/chat/completions",
        "headers": [],
    }
    assert endpoint_of(scope).name == "embeddings"
    del scope["root_path"]
    assert endpoint_of(scope).name == "embeddings"


@given(st.text(max_size=60), st.sampled_from(["", "/v1", "/llm/v1"]))
def test_any_text_at_all_gets_an_answer(path: str, mount: str) -> None:
    assert isinstance(find(path, mount), Endpoint)
