"""Which endpoint of which dialect a request is for: method, path and headers in, one answer out.

Authentication, parts and routing all use this one answer. The mount's `root_path` is taken off the
path, an optional `/v1` or `/v1beta` after it, and what is left is looked up. A path that carries
more in front (an outer middleware sees the mount's prefix too) is matched by its longest known
suffix, so that everyone on a call's way sees the same endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import unquote

Bodies = Literal["json", "multipart", "stream"]
Kind = Literal["call", "models", "proxy", "known", "unknown"]

_GET = ("GET", "HEAD")
_POST = ("POST",)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of the API, as this request names it.

    kind: `call` is relayed to a channel that serves the model, `models` is answered by the
    gateway, `proxy` names its channel in the path, `known` is a route of the API that only a
    pass-through channel can serve, `unknown` is anything else. `path` is the route below the
    version (`/chat/completions`); `model` is the model a path names; `rest` is what follows the
    channel's name in a proxy path. A `json` body is buffered, of a `multipart` one the fields
    before the first file are read, a `stream` is read by nobody.
    """

    name: str
    dialect: str
    path: str
    methods: tuple[str, ...] = _POST
    body: Bodies = "json"
    kind: Kind = "call"
    model: str | None = None
    rest: str = ""
    channel: str | None = None
    versioned: bool = True
    """False when the path has neither a mount's prefix nor `/v1`: the base URL is wrong."""


def _call(name: str, dialect: str, path: str, body: Bodies = "json") -> Endpoint:
    return Endpoint(name, dialect, path, _POST, body)


_CALLS = (
    _call("chat", "openai_chat", "/chat/completions"),
    _call("completions", "openai_completions", "/completions"),
    _call("edits", "openai_completions", "/edits"),
    _call("embeddings", "openai_embeddings", "/embeddings"),
    _call("responses", "openai_responses", "/responses"),
    _call("images_generations", "openai_images", "/images/generations"),
    _call("images_edits", "openai_images", "/images/edits", "multipart"),
    _call("images_variations", "openai_images", "/images/variations", "multipart"),
    _call("audio_speech", "openai_audio", "/audio/speech"),
    _call("audio_transcriptions", "openai_audio", "/audio/transcriptions", "multipart"),
    _call("audio_translations", "openai_audio", "/audio/translations", "multipart"),
    _call("moderations", "openai_moderations", "/moderations"),
    _call("rerank", "openai_rerank", "/rerank"),
    _call("messages", "anthropic", "/messages"),
    _call("count_tokens", "anthropic", "/messages/count_tokens"),
)

_MODELS = Endpoint("models", "openai_chat", "/models", _GET, "stream", "models")
UNKNOWN = Endpoint("unknown", "openai_chat", "", (), "stream", "unknown")

_KNOWN = (
    "assistants", "audio", "batches", "chat", "containers", "conversations", "evals", "files",
    "fine-tunes", "fine_tuning", "images", "organization", "realtime", "responses", "skills",
    "threads", "uploads", "vector_stores", "videos",
)  # fmt: skip
"""First segments of the OpenAI API's routes that are no single call (OpenAI API reference)."""

_BY_PATH: dict[str, Endpoint] = {e.path: e for e in (*_CALLS, _MODELS)}
_EXACT: dict[str, Endpoint] = {
    prefix + path: e for prefix in ("/v1", "/v1beta") for path, e in _BY_PATH.items()
}
_UNVERSIONED: dict[str, Endpoint] = {p: replace(e, versioned=False) for p, e in _BY_PATH.items()}

_GEMINI = re.compile(
    r"(?:/models|/tunedModels)/(?P<model>[^:]+):(?P<verb>generateContent|streamGenerateContent"
    r"|countTokens|embedContent|batchEmbedContents|predict|predictLongRunning)\Z"
)
_GEMINI_NAMES = {
    "generateContent": "generate_content",
    "streamGenerateContent": "stream_generate_content",
    "countTokens": "count_tokens",
    "embedContent": "embed_content",
    "batchEmbedContents": "batch_embed_contents",
    "predict": "predict",
    "predictLongRunning": "predict_long_running",
}
_ENGINE = re.compile(r"/engines/(?P<model>.+)/embeddings\Z")
_MODEL = re.compile(r"/models/(?P<model>.+)\Z")
_PROXY = re.compile(r"/oneapi/proxy/(?P<channel>[^/]+)(?P<rest>/.*)?\Z")
_KNOWN_ROUTE = re.compile(rf"/(?:{'|'.join(map(re.escape, _KNOWN))})(?:/.*)?\Z")

_VERSION = re.compile(r"(?:/v1(?:beta)?(?=/|\Z))+")
"""More than one: the mount's own and the caller's, whose base URL ends in it too."""
_VERSION_END = re.compile(r"/v1(?:beta)?\Z")

_UNCLEAN = re.compile(r"[\x00-\x20\x7f\\;%]|//|/\.{1,2}(?:/|\Z)")
"""What no honest client sends and what path tricks are made of; such a path is nobody's."""
_MAX_SEGMENTS = 64
"""A suffix search tries each segment; no route below any mount is nearly as deep."""


def below_mount(path: str, root_path: str) -> str:
    """The path without the mount's prefix, whether or not the host left it in (ASGI does)."""
    if root_path and path.startswith(root_path):
        rest = path[len(root_path) :]
        if not rest or rest[0] == "/":
            return rest or "/"
    return path


def root_path_of(scope: Any) -> str:
    """Where the app is mounted: `root_path`, or what a host took off the path without a word.

    Litestar takes a mount's prefix off, ends the rest in a slash and leaves `root_path` empty; only
    `raw_path` still has it. It says no more than where we are: the endpoint goes by `path` alone.
    """
    root_path: str = scope.get("root_path", "")
    path: str = scope["path"]
    raw: bytes | None = scope.get("raw_path")
    if root_path or not raw or len(raw) <= len(path):
        return root_path
    whole, tail = unquote(raw.decode("latin-1")).rstrip("/"), path.rstrip("/")
    return whole[: len(whole) - len(tail)] if whole.endswith(tail) else ""


def find(path: str, root_path: str = "", headers: Iterable[tuple[bytes, bytes]] = ()) -> Endpoint:
    """The endpoint of a request; `UNKNOWN` (with a dialect) for what is none of ours."""
    tail = below_mount(path, root_path)
    found = _EXACT.get(tail)
    if found is None:
        found = _UNVERSIONED.get(tail)
        if found is None:
            # What stands outside the mount sees its `/v1` in the path: the same must be found here.
            version = _VERSION_END.search(root_path)
            found = _search(version[0] + tail if version else tail)
        if root_path and not found.versioned:
            found = replace(found, versioned=True)
    return found if found.kind == "call" else _in_callers_dialect(found, headers)


def endpoint_of(scope: Any) -> Endpoint:
    """`find` for an ASGI scope."""
    return find(scope["path"], root_path_of(scope), scope["headers"])


def _search(tail: str) -> Endpoint:
    """The longest suffix that is a route of the API; `/v1` in front of it is taken off.

    What follows a `/v1` and is none of our calls is a route of its own, whatever it ends in.
    """
    if _UNCLEAN.search(tail) or tail.count("/") > _MAX_SEGMENTS:
        return UNKNOWN
    trimmed = tail[:-1] if tail.endswith("/") else tail
    unknown: Endpoint | None = None
    start = 0
    while start >= 0:
        suffix = trimmed[start:]
        version = _VERSION.match(suffix)
        route = suffix[version.end() :] if version else suffix
        found = _route(route) if route else None
        if found and (version or unknown is None or found.kind != "known"):
            return found if version or start else replace(found, versioned=False)
        if version and unknown is None:
            unknown = replace(UNKNOWN, path=route)
        start = trimmed.find("/", start + (version.end() if version else 1))
    return unknown or replace(UNKNOWN, path=tail, versioned=False)


def _route(route: str) -> Endpoint | None:
    """The endpoint of a route that has nothing in front of it any more."""
    if found := _BY_PATH.get(route):
        return found
    if m := _GEMINI.match(route):
        return Endpoint(_GEMINI_NAMES[m["verb"]], "gemini", route, model=m["model"])
    if m := _ENGINE.match(route):
        return replace(_BY_PATH["/embeddings"], model=m["model"])
    if m := _MODEL.match(route):
        return Endpoint("model", "openai_chat", route, _GET, "stream", "models", model=m["model"])
    if m := _PROXY.match(route):
        rest = m["rest"] or "/"
        return Endpoint(
            "proxy", "openai_chat", route, (), "stream", "proxy", rest=rest, channel=m["channel"]
        )
    if _KNOWN_ROUTE.match(route):
        name = route.split("/", 2)[1]
        return Endpoint(name, "openai_chat", route, (), "stream", "known")
    return None


def _in_callers_dialect(found: Endpoint, headers: Iterable[tuple[bytes, bytes]]) -> Endpoint:
    """Routes that several APIs share are told apart by the headers their SDKs send."""
    for name, _ in headers:
        if name == b"anthropic-version":
            return replace(found, dialect="anthropic")
        if name == b"x-goog-api-key":
            return replace(found, dialect="gemini")
    return found
