"""Words for the simulator: a tokenisation anybody can redo, and prose and JSON made from a seed.

One token is one word or one punctuation mark, with the white space before it; white space at the
end of a text is a token of its own. Joined, the tokens of a text are the text.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any, Final

_TOKEN: Final = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")

_ADJECTIVES: Final = [
    "quiet",
    "bright",
    "patient",
    "narrow",
    "early",
    "distant",
    "careful",
    "plain",
    "hollow",
    "steady",
]
_NOUNS: Final = [
    "river",
    "market",
    "garden",
    "letter",
    "engine",
    "harbour",
    "window",
    "teacher",
    "forest",
    "bridge",
    "signal",
    "kitchen",
    "mountain",
    "library",
    "ship",
    "orchard",
    "answer",
    "morning",
    "road",
    "clock",
]
_VERBS: Final = [
    "follows",
    "crosses",
    "finds",
    "remembers",
    "opens",
    "carries",
    "meets",
    "watches",
    "leaves",
    "reaches",
]
_PLACES: Final = ["near", "under", "beside", "behind", "beyond", "above", "before"]
_MAX_DEPTH: Final = 6


def tokenise(text: str) -> list[str]:
    """The tokens of a text; joined they are the text again."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """How many tokens a text is."""
    return len(tokenise(text))


def text_of(content: Any) -> str:
    """The text in a message's content, a string or a list of parts; other parts have none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part if isinstance(part, str) else _part_text(part) for part in content)
    return " ".join(text for text in texts if text)


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


def prose(rng: Random, at_least: int, at_most: int) -> str:
    """Whole sentences of about as many tokens as drawn between the two bounds."""
    goal = rng.randint(at_least, max(at_least, at_most))
    sentences: list[str] = []
    total = 0
    while total < goal:
        sentence = (
            f"The {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} {rng.choice(_VERBS)} the"
            f" {rng.choice(_NOUNS)} {rng.choice(_PLACES)} the {rng.choice(_NOUNS)}."
        )
        sentences.append(sentence)
        total += count(sentence)
    return " ".join(sentences)


def example(schema: Any, rng: Random, depth: int = 0) -> Any:
    """A value that fits the common words of a JSON schema: type, properties, items, enum, const."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return rng.choice(schema["enum"])
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list) and schema[word]:
            return example(schema[word][0], rng, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object":
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        return {name: example(inner, rng, depth + 1) for name, inner in properties.items()}
    if kind == "array":
        return [example(schema.get("items"), rng, depth + 1)]
    simple: dict[Any, Any] = {
        "string": rng.choice(_NOUNS),
        "integer": rng.randint(1, 9),
        "number": rng.randint(1, 9) + 0.5,
        "boolean": True,
    }
    return simple.get(kind)
