"""Where an endpoint is, from every way people write a base URL."""

from __future__ import annotations

import pytest

from asgi_llm_gateway.errors import ConfigurationError, InvalidRequest
from asgi_llm_gateway.providers.row import PATHS, Provider
from asgi_llm_gateway.providers.rows import PROVIDERS
from asgi_llm_gateway.providers.urls import endpoint_url
from asgi_llm_gateway.upstream.contract import Origin

CHAT = "/chat/completions"

JOINED = [
    # provider, base URL, endpoint path, URL
    ("openai", None, CHAT, "https://api.openai.com/v1/chat/completions"),
    ("openai", None, "/files/file-1/content", "https://api.openai.com/v1/files/file-1/content"),
    ("openai", None, "/files?limit=2", "https://api.openai.com/v1/files?limit=2"),
    ("groq", None, CHAT, "https://api.groq.com/openai/v1/chat/completions"),
    ("deepseek", None, CHAT, "https://api.deepseek.com/v1/chat/completions"),
    ("deepseek", None, "/completions", "https://api.deepseek.com/beta/completions"),
    ("ollama", None, "/embeddings", "http://localhost:11434/v1/embeddings"),
    ("vllm", None, "/rerank", "http://localhost:8000/v1/rerank"),
    # bare hosts
    ("custom", "api.x.com", CHAT, "https://api.x.com/v1/chat/completions"),
    ("custom", "//api.x.com", CHAT, "https://api.x.com/v1/chat/completions"),
    ("custom", "https://api.x.com", CHAT, "https://api.x.com/v1/chat/completions"),
    ("custom", "https://api.x.com/", CHAT, "https://api.x.com/v1/chat/completions"),
    ("custom", "https://api.x.com///", CHAT, "https://api.x.com/v1/chat/completions"),
    ("custom", "HTTPS://API.X.com", CHAT, "https://api.x.com/v1/chat/completions"),
    ("custom", "api.x.com:8443", CHAT, "https://api.x.com:8443/v1/chat/completions"),
    ("custom", "https://api.x.com:/", CHAT, "https://api.x.com/v1/chat/completions"),
    ("groq", "api.groq.com", CHAT, "https://api.groq.com/openai/v1/chat/completions"),
    ("groq", "https://proxy.x.com/openai", CHAT, "https://proxy.x.com/openai/v1/chat/completions"),
    ("custom", "https://8.8.8.8", CHAT, "https://8.8.8.8/v1/chat/completions"),
    ("custom", "8.8.8.8", CHAT, "https://8.8.8.8/v1/chat/completions"),
    # local hosts without a scheme
    ("custom", "localhost", CHAT, "http://localhost/v1/chat/completions"),
    ("custom", "localhost:1234", CHAT, "http://localhost:1234/v1/chat/completions"),
    ("custom", "127.0.0.1:9000", CHAT, "http://127.0.0.1:9000/v1/chat/completions"),
    ("custom", "192.168.1.7:80/v1", CHAT, "http://192.168.1.7:80/v1/chat/completions"),
    ("custom", "10.1.2.3", CHAT, "http://10.1.2.3/v1/chat/completions"),
    ("custom", "[::1]:8000", CHAT, "http://[::1]:8000/v1/chat/completions"),
    ("custom", "ollama:11434", CHAT, "http://ollama:11434/v1/chat/completions"),
    ("custom", "box.local", CHAT, "http://box.local/v1/chat/completions"),
    ("custom", "https://localhost", CHAT, "https://localhost/v1/chat/completions"),
    # versions and other paths
    ("custom", "https://api.x.com/v1", CHAT, "https://api.x.com/v1/chat/completions"),
    ("custom", "https://api.x.com/v1/", CHAT, "https://api.x.com/v1/chat/completions"),
    ("custom", "api.x.com/v1", "/audio/speech", "https://api.x.com/v1/audio/speech"),
    ("custom", "https://g.x.com/v1beta/openai/", CHAT, "https://g.x.com/v1beta/openai" + CHAT),
    ("custom", "https://ark.x.com/api/v3", CHAT, "https://ark.x.com/api/v3/chat/completions"),
    ("custom", "https://x.com/api/paas/v4/", "/embeddings", "https://x.com/api/paas/v4/embeddings"),
    ("custom", "https://x.com/llm", CHAT, "https://x.com/llm/chat/completions"),
    # full endpoints, of this endpoint and of others
    ("custom", "https://x.com/v1/chat/completions", CHAT, "https://x.com/v1/chat/completions"),
    ("custom", "https://x.com/v1/chat/completions/", CHAT, "https://x.com/v1/chat/completions"),
    ("custom", "https://x.com/v1/chat/completions", "/embeddings", "https://x.com/v1/embeddings"),
    ("custom", "https://x.com/v1/completions", CHAT, "https://x.com/v1/chat/completions"),
    ("custom", "https://x.com/v1/audio/speech", "/responses", "https://x.com/v1/responses"),
    ("custom", "https://x.com/v1/models", CHAT, "https://x.com/v1/chat/completions"),
    # (one without a version is taken at its word)
    ("custom", "https://x.com/chat/completions", CHAT, "https://x.com/chat/completions"),
    ("custom", "https://x.com/rerank", CHAT, "https://x.com/chat/completions"),
    ("custom", "https://x.com/api/v3/embeddings", CHAT, "https://x.com/api/v3/chat/completions"),
    # queries
    (
        "custom",
        "https://x.com/v1?api-version=1",
        CHAT,
        "https://x.com/v1" + CHAT + "?api-version=1",
    ),
    ("custom", "x.com?a=b", CHAT, "https://x.com/v1/chat/completions?a=b"),
    ("custom", "x.com/v1?a=b", "/files?limit=2", "https://x.com/v1/files?a=b&limit=2"),
    (
        "custom",
        "https://x.com/v1/chat/completions?a=b",
        "/embeddings",
        "https://x.com/v1/embeddings?a=b",
    ),
]


@pytest.mark.parametrize(("name", "base", "path", "url"), JOINED)
def test_an_endpoint_is_found_from_any_form_of_base_url(
    name: str, base: str | None, path: str, url: str
) -> None:
    assert endpoint_url(PROVIDERS[name], base, path) == url
    Origin.split(url)


@pytest.mark.parametrize("pasted", sorted(PATHS.values()))
@pytest.mark.parametrize("wanted", sorted(PATHS.values()))
def test_a_full_url_of_any_endpoint_leads_to_every_other(pasted: str, wanted: str) -> None:
    url = endpoint_url(PROVIDERS["custom"], f"https://x.com/v1{pasted}", wanted)
    assert url == f"https://x.com/v1{wanted}"


@pytest.mark.parametrize(
    ("base", "model", "url"),
    [
        ("https://x.com/{model}/v1", "m", "https://x.com/m/v1/chat/completions"),
        ("https://x.com/d/{model}", "a/b c", "https://x.com/d/a%2Fb%20c/chat/completions"),
        ("https://x.com/v1?m={model}", "a&b=c", "https://x.com/v1/chat/completions?m=a%26b%3Dc"),
        ("https://x.com/v1?m={model}", "ü#?", "https://x.com/v1/chat/completions?m=%C3%BC%23%3F"),
        ("x.com/{model}/chat/completions", "m", "https://x.com/m/chat/completions"),
    ],
)
def test_the_model_takes_its_place_quoted(base: str, model: str, url: str) -> None:
    assert endpoint_url(PROVIDERS["custom"], base, CHAT, model=model) == url


@pytest.mark.parametrize("model", [None, "", ".", "..", "\ud800"])
def test_a_model_that_would_change_the_path_is_refused(model: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        endpoint_url(PROVIDERS["custom"], "https://x.com/{model}/v1", CHAT, model=model)
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("base", "override", "url"),
    [
        ("https://x.com/v1", "/my/chat", "https://x.com/my/chat"),
        ("https://x.com/v1?k=v", "/my/chat", "https://x.com/my/chat?k=v"),
        ("https://x.com/v1", "/my/chat?a=b", "https://x.com/my/chat?a=b"),
        ("https://x.com/v1/embeddings", "my/chat", "https://x.com/v1/my/chat"),
        ("x.com", "my/chat", "https://x.com/v1/my/chat"),
        ("https://x.com/v1?k=v", "https://y.com/z", "https://y.com/z"),
        ("https://x.com/v1", "http://y.com:81/{model}/z?a=b", "http://y.com:81/m/z?a=b"),
        ("https://x.com/v1", "https://y.com", "https://y.com/"),
        ("https://x.com/v1", "/{model}/chat", "https://x.com/m/chat"),
    ],
)
def test_one_endpoint_can_be_moved(base: str, override: str, url: str) -> None:
    paths = {"chat": override}
    assert endpoint_url(PROVIDERS["custom"], base, CHAT, paths=paths, model="m") == url
    others = endpoint_url(PROVIDERS["custom"], base, "/models", paths=paths)
    assert "my" not in others
    assert "y.com" not in others


def test_a_channels_override_goes_before_the_providers() -> None:
    row = Provider(name="p", base_url="https://x.com", paths={"chat": "/theirs", "rerank": "/r"})
    assert endpoint_url(row, None, CHAT, paths={"chat": "/ours"}) == "https://x.com/ours"
    assert endpoint_url(row, None, CHAT) == "https://x.com/theirs"
    assert endpoint_url(row, None, "/rerank", paths={"chat": "/ours"}) == "https://x.com/r"


@pytest.mark.parametrize(
    "base",
    [
        "",
        " https://x.com",
        "https://x.com/v1\n",
        "https://x.com\r\nHost: evil",
        "https://x.com/\x00",
        "https://x.com/a b",
        "https://x.com/v1#frag",
        "https://user:hunter2@x.com/v1",
        "user:hunter2@x.com",
        "ftp://x.com",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "/v1",
        "https://x.com:99999",
        "https://x.com:0",
        "https://x.com:port",
        "https://[::1",
        "https://[::1%25eth0]/",
        "https://a..b/",
        "https://x%2ecom/",
        "https://{model}.x.com/v1",
        "https://x.com/{other}",
        "https://x.com/{model",
        "https://bücher.example",
        "https:\\\\x.com",
    ],
)
def test_what_is_no_http_url_is_refused_without_repeating_secrets(base: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        endpoint_url(PROVIDERS["custom"], base, CHAT, model="m")
    assert "base_url" in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "override", ["https://u:hunter2@x.com/y", "/a b", "a\nb", "", "/x#y", "ftp://x.com", "/{other}"]
)
def test_an_override_is_checked_like_a_base_url(override: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        endpoint_url(PROVIDERS["openai"], None, CHAT, paths={"chat": override})
    assert "hunter2" not in caught.value.message


def test_a_provider_without_an_address_asks_for_one() -> None:
    with pytest.raises(ConfigurationError, match="'custom' needs a base_url"):
        endpoint_url(PROVIDERS["custom"], None, CHAT)


@pytest.mark.parametrize(
    "path",
    [
        "/files/../../admin",
        "/files/%2e%2E/x",
        "/..",
        "/files/a b",
        "/files/a\r\nx: y",
        "/files/\x00",
        "/files/ü",
        "/files/#x",
        "/files/{model}",
    ],
)
def test_a_callers_path_cannot_leave_the_api(path: str) -> None:
    with pytest.raises(InvalidRequest):
        endpoint_url(PROVIDERS["openai"], None, path)
