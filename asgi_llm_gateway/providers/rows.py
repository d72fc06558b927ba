"""The providers that need no code of their own: one row each.

Model names and endpoints follow each provider's documentation as of November 2026. Adding a
provider is adding a row; a model that is missing here can be called all the same, these names only
say what a listing shows for a glob.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..errors import ConfigurationError
from .row import PATHS, Provider, Quirks

PROVIDERS: Final[Mapping[str, Provider]] = MappingProxyType(
    {
        # Any other host that speaks OpenAI's dialect; it may not know stream_options, but most do.
        "custom": Provider(name="custom", base_url=None, key_required=False),
        # https://api-docs.deepseek.com: completions (fill in the middle) is a beta with a path of
        # its own; deepseek-chat and deepseek-reasoner ended in July 2026.
        "deepseek": Provider(
            name="deepseek",
            base_url="https://api.deepseek.com/v1",
            endpoints=frozenset({"chat", "completions"}),
            models=("deepseek-v4-flash", "deepseek-v4-pro"),
            paths={"completions": "/beta/completions"},
            quirks=Quirks(multiple_choices=False),
            env="DEEPSEEK_API_KEY",
        ),
        # https://console.groq.com/docs/openai and /docs/models
        "groq": Provider(
            name="groq",
            base_url="https://api.groq.com/openai/v1",
            endpoints=frozenset(
                {
                    "audio_speech",
                    "audio_transcriptions",
                    "audio_translations",
                    "chat",
                    "responses",
                }
            ),
            models=(
                "canopylabs/orpheus-arabic-saudi",
                "canopylabs/orpheus-v1-english",
                "groq/compound",
                "groq/compound-mini",
                "llama-3.1-8b-instant",
                "llama-3.3-70b-versatile",
                "openai/gpt-oss-120b",
                "openai/gpt-oss-20b",
                "openai/gpt-oss-safeguard-20b",
                "qwen/qwen3-32b",
                "whisper-large-v3",
                "whisper-large-v3-turbo",
            ),
            version_path="/openai/v1",
            quirks=Quirks(multiple_choices=False),
            env="GROQ_API_KEY",
        ),
        # https://docs.ollama.com/api/openai-compatibility; what is there is what was pulled.
        "ollama": Provider(
            name="ollama",
            base_url="http://localhost:11434/v1",
            endpoints=frozenset(
                {
                    "audio_speech",
                    "audio_transcriptions",
                    "chat",
                    "completions",
                    "embeddings",
                    "images_generations",
                    "responses",
                }
            ),
            models=(
                "deepseek-r1",
                "embeddinggemma",
                "gemma3",
                "gemma4",
                "gpt-oss:120b",
                "gpt-oss:20b",
                "llama3.2",
                "llama3.3",
                "nomic-embed-text",
                "qwen3",
                "qwen3-vl",
            ),
            quirks=Quirks(multiple_choices=False),
            key_required=False,
            env="OLLAMA_API_KEY",
        ),
        # The names in OpenAI's own client library (3.54), without those past their shutdown date.
        "openai": Provider(
            name="openai",
            base_url="https://api.openai.com/v1",
            endpoints=frozenset(PATHS) - {"rerank"},
            models=(
                "gpt-4.1",
                "gpt-4.1-mini",
                "gpt-4o",
                "gpt-4o-mini",
                "gpt-4o-mini-tts",
                "gpt-4o-transcribe",
                "gpt-5",
                "gpt-5-mini",
                "gpt-5.4",
                "gpt-5.4-mini",
                "gpt-5.5",
                "gpt-5.6-sol",
                "gpt-6-astra",
                "gpt-6-luna",
                "gpt-6-sol",
                "gpt-6.2-astra",
                "gpt-6.2-sol",
                "gpt-image-1-mini",
                "gpt-image-2",
                "gpt-image-2.6-flare",
                "o3",
                "omni-moderation-latest",
                "text-embedding-3-large",
                "text-embedding-3-small",
                "whisper-1",
            ),
            env="OPENAI_API_KEY",
        ),
        # simulator/: in this process, or wherever `llm-gateway simulate` was started.
        "simulator": Provider(
            name="simulator",
            base_url=None,
            endpoints=frozenset(PATHS) - {"rerank"},
            models=(
                "dall-e-2",
                "gpt-4o",
                "gpt-4o-mini",
                "gpt-image-2",
                "omni-moderation-latest",
                "simulator",
                "text-embedding-3-small",
                "text-moderation-latest",
                "tts-1",
                "whisper-1",
            ),
            quirks=Quirks(in_process=True),
            key_required=False,
        ),
        # https://docs.vllm.ai/en/stable/serving/online_serving.html; one server, one model, named
        # on its command line.
        "vllm": Provider(
            name="vllm",
            base_url="http://localhost:8000/v1",
            endpoints=frozenset(
                {
                    "audio_transcriptions",
                    "audio_translations",
                    "chat",
                    "completions",
                    "embeddings",
                    "rerank",
                    "responses",
                }
            ),
            key_required=False,
            env="VLLM_API_KEY",
        ),
    }
)


def provider(name: str) -> Provider:
    """The row of this name; raises ConfigurationError, which lists the known names."""
    found = PROVIDERS.get(name)
    if found is None:
        known = ", ".join(sorted(PROVIDERS))
        raise ConfigurationError(f"no provider is named {name!r}; known are {known}")
    return found
