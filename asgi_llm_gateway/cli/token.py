"""`llm-gateway token new`."""

from __future__ import annotations

import argparse
import json

from ..auth.token import AccessToken, new_token


def run(given: argparse.Namespace) -> int:
    """Print a secret on the first line and, below it, what settings keep of it."""
    secret = new_token()
    token = AccessToken.of(secret, name=given.name, group=given.group or "default")
    print(secret)
    print("\n# only its hash belongs into the settings file")
    print("[[access_tokens]]")
    print(f"name = {json.dumps(token.name)}")
    print(f'sha256 = "{token.sha256}"')
    if given.group:
        print(f"group = {json.dumps(token.group)}")
    return 0
