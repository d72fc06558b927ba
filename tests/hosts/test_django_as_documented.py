"""The Django snippet of docs/embedding.md in a process of its own, since Django's settings are the
process's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEFORE = """
import sys, types
from starlette.middleware import Middleware
from asgi_llm_gateway import Channel, Gateway, TokenAuthMiddleware
import django.conf
from django.http import HttpResponse
from django.urls import path

gateway = Gateway(
    [Channel(name="try", provider="simulator", models=["*"])],
    middleware=[Middleware(TokenAuthMiddleware, access_tokens={"sk-alice": {"name": "alice"}})],
)
sys.modules["urls"] = urls = types.ModuleType("urls")
urls.urlpatterns = [path("hello", lambda request: HttpResponse("hello"))]
django.conf.settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="urls", SECRET_KEY="a test's")
"""
AFTER = """
import asyncio, httpx
from tests.asgi_lifespan import lifespan

async def main():
    async with lifespan(application) as started:
        assert started.supported and gateway.resources.current is not None
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            print((await client.get("/hello")).text)
            for token in ("sk-alice", "sk-mallory"):
                answer = await client.post(
                    "/v1/chat/completions",
                    json={"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]},
                    headers={"authorization": f"Bearer {token}"},
                )
                print(answer.status_code)

asyncio.run(main())
"""


def test_the_snippet_serves_django_and_the_gateway() -> None:
    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```text\n(.*?get_asgi_application.*?)```", page, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + snippet + AFTER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["hello", "200", "401"]
