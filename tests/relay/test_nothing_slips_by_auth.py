"""A mount outside the prefixes of the part that names callers is refused, not served to anybody."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette

from asgi_llm_gateway import Channel, Relay, TokenAuthMiddleware
from tests.asgi import OURS, STARLETTE, call

CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
HEADERS = {"content-type": "application/json"}
TOKEN = {"authorization": "Bearer sk-alice"}


def host(mount: str, **options: object) -> Starlette:
    app = Starlette()
    app.add_middleware(TokenAuthMiddleware, access_tokens={"sk-alice": {"name": "a"}}, **options)
    channel = Channel(name="c", provider="simulator", models=["*"], model_mapping={"m": "gpt-4o"})
    app.mount(mount, Relay([channel]))
    return app


@pytest.mark.parametrize("mount", ["/llm/v1", "/openai"])
async def test_a_mount_the_prefixes_do_not_name_is_refused_with_the_line_to_change(
    mount: str,
) -> None:
    answer = await call(
        host(mount),
        "POST",
        f"{mount}/chat/completions",
        headers=HEADERS,
        body=CHAT,
        may_write=OURS | STARLETTE,
    )
    assert answer.status == 401
    assert b"prefixes" in answer.body


@pytest.mark.parametrize("mount", ["/llm/v1", "/openai"])
async def test_with_its_prefix_named_the_mount_serves_callers_and_only_them(mount: str) -> None:
    app = host(mount, prefixes=(mount,))
    path = f"{mount}/chat/completions"
    refused = await call(app, "POST", path, headers=HEADERS, body=CHAT, may_write=OURS | STARLETTE)
    served = await call(
        app, "POST", path, headers={**HEADERS, **TOKEN}, body=CHAT, may_write=OURS | STARLETTE
    )
    assert (refused.status, served.status) == (401, 200)
