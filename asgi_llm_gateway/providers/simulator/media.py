"""Images and audio: small real PNGs, bytes that begin like audio, and transcripts of nothing.

A transcript says the file's name and size, so that a test sees whether all of it arrived.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any, Final

from .answer import Answer, Piece, Refusal, json_answer, plain
from .request import Request, missing
from .text import count, tokenise

_SIDE: Final = 8
_CHUNK: Final = 4096
_BYTES_PER_TOKEN: Final = 960
"""Of speech: 20 ms of 24 kHz 16-bit sound."""
_BYTES_PER_SECOND: Final = 32_000
"""Of a file to transcribe, taken as 16 kHz 16-bit sound."""
_AUDIO: Final[dict[str, tuple[bytes, bytes]]] = {
    "aac": (b"audio/aac", b"\xff\xf1\x50\x80"),
    "flac": (b"audio/flac", b"fLaC"),
    "mp3": (b"audio/mpeg", b"ID3\x04\x00\x00"),
    "opus": (b"audio/ogg", b"OggS"),
    "pcm": (b"audio/pcm", b""),
    "wav": (b"audio/wav", b"RIFF"),
}


def images(request: Request) -> Answer:
    """POST /images/generations, /images/edits and /images/variations."""
    if request.endpoint != "images_generations" and not request.files.get("image"):
        raise missing("image")
    prompt = "" if request.endpoint == "images_variations" else request.text("prompt")
    inline = request.model.startswith(("gpt-image", "chatgpt-image"))
    wanted = request.body.get("response_format")
    if wanted not in (None, "b64_json", "url"):
        raise Refusal(400, "Invalid 'response_format'.", param="response_format")
    data = []
    for index in range(request.integer("n", 1, high=10)):
        if inline or wanted == "b64_json":
            data.append({"b64_json": base64.b64encode(_png(request, index)).decode()})
        else:
            data.append(
                {"url": f"https://images.simulator.invalid/{request.id('img-', index)}.png"}
            )
    body: dict[str, Any] = {"created": request.created, "data": data}
    if inline:
        tokens = count(prompt)
        details = {"text_tokens": tokens, "image_tokens": 0}
        produced = 100 * len(data)
        body["usage"] = {
            "input_tokens": tokens,
            "input_tokens_details": details,
            "output_tokens": produced,
            "total_tokens": tokens + produced,
        }
    return json_answer(body)


def speech(request: Request) -> Answer:
    """POST /audio/speech: bytes in proportion to the text, streamed."""
    text = request.text("input")
    wanted = request.body.get("response_format") or "mp3"
    if wanted not in _AUDIO:
        raise Refusal(400, "Invalid 'response_format'.", param="response_format")
    kind, magic = _AUDIO[wanted]
    sound = magic + request.rng("sound").randbytes(_BYTES_PER_TOKEN * max(1, count(text)))
    pieces = (Piece(sound[at : at + _CHUNK]) for at in range(0, len(sound), _CHUNK))
    return Answer(200, [(b"content-type", kind)], tuple(pieces), streamed=True)


def transcriptions(request: Request) -> Answer:
    """POST /audio/transcriptions and /audio/translations."""
    uploads = request.files.get("file")
    if not uploads:
        raise missing("file")
    text = f"The file {uploads[0].filename} holds {uploads[0].size} bytes."
    seconds = round(uploads[0].size / _BYTES_PER_SECOND, 2)
    wanted = request.body.get("response_format") or "json"
    if wanted == "json":
        return json_answer(_heard(request, text, uploads[0].size, seconds))
    if wanted == "text":
        return plain(f"{text}\n".encode(), b"text/plain; charset=utf-8")
    if wanted == "verbose_json":
        return json_answer(_verbose(request, text, seconds))
    if wanted in ("srt", "vtt"):
        head = "1\n" if wanted == "srt" else "WEBVTT\n\n"
        mark = "," if wanted == "srt" else "."
        stamps = " --> ".join(_stamp(at, mark) for at in (0.0, seconds))
        return plain(f"{head}{stamps}\n{text}\n\n".encode(), b"text/plain; charset=utf-8")
    raise Refusal(400, "Invalid 'response_format'.", param="response_format")


def _heard(request: Request, text: str, size: int, seconds: float) -> dict[str, Any]:
    if request.endpoint == "audio_translations":
        return {"text": text}
    if request.model.startswith("whisper"):
        return {"text": text, "usage": {"type": "duration", "seconds": round(seconds)}}
    heard, said = size // _BYTES_PER_TOKEN, count(text)
    usage = {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
        "output_tokens": said,
        "total_tokens": heard + said,
    }
    return {"text": text, "usage": usage}


def _verbose(request: Request, text: str, seconds: float) -> dict[str, Any]:
    translated = request.endpoint == "audio_translations"
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": seconds,
        "text": text,
        "tokens": list(range(len(tokenise(text)))),
        "temperature": 0.0,
        "avg_logprob": -0.1,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.01,
    }
    return {
        "task": "translate" if translated else "transcribe",
        "language": "english" if translated else request.body.get("language") or "english",
        "duration": seconds,
        "text": text,
        "segments": [segment],
        "usage": {"type": "duration", "seconds": round(seconds)},
    }


def _stamp(seconds: float, mark: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{mark}{thousandths:03d}"


def _png(request: Request, index: int) -> bytes:
    """A square of one colour (PNG specification: signature, IHDR, IDAT, IEND)."""
    row = b"\x00" + request.rng(index).randbytes(3) * _SIDE
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * _SIDE)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
