"""Part of scripts/check: the package imports without its extras, quickly, and without side effects.

Every module is imported in a process where the extras' packages cannot be found; `import
asgi_llm_gateway` with every public name may add 150 ms at most to starlette's own import.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUDGET_MS = 150
_MODULES = {
    "ahocorasick-rs": ["ahocorasick_rs"],
    "argon2-cffi": ["argon2"],
    "opentelemetry-api": ["opentelemetry"],
    "prometheus-client": ["prometheus_client"],
    "uvicorn": ["uvicorn", "uvloop"],
}

WITHOUT_EXTRAS = """
import importlib, pkgutil, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Missing())
import asgi_llm_gateway as root
for module in pkgutil.walk_packages(root.__path__, root.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in root.__all__:
    getattr(root, name)
"""

TIMED = """
import time, starlette.applications, starlette.middleware
began = time.perf_counter()
import asgi_llm_gateway as root
for name in root.__all__:
    getattr(root, name)
print((time.perf_counter() - began) * 1000)
import sys
heavy = {"httpx", "httpx2", "redis", "tiktoken", "limits", "uvicorn", "openai"} & set(sys.modules)
print(",".join(sorted(heavy)))
"""


def blocked() -> set[str]:
    """Top-level modules of every extra but `dev` and `all`."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names: set[str] = set()
    for extra, requirements in extras.items():
        if extra in ("all", "dev"):
            continue
        for requirement in requirements:
            name = requirement.split(">")[0].split("[")[0].strip()
            names.update(_MODULES.get(name, [name.replace("-", "_").lower()]))
    return names


def run(code: str, compiled: str) -> str:
    """What a fresh interpreter prints for `code`; modules are compiled once, into a folder, as
    installing compiles them."""
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env=environ,
    ).stdout


def main() -> int:
    """Exit status: 0 when both hold."""
    with tempfile.TemporaryDirectory() as compiled:
        run(WITHOUT_EXTRAS.format(blocked=blocked()), compiled)
        print("imports without extras: ok")
        timings = [run(TIMED, compiled).split("\n") for _ in range(6)]
    best = min(float(lines[0]) for lines in timings)
    heavy = timings[0][1]
    print(f"import: {best:.0f} ms over starlette's own (budget {BUDGET_MS})")
    if heavy:
        print(f"imported although nobody used them: {heavy}")
    return 1 if best > BUDGET_MS or heavy else 0


if __name__ == "__main__":
    sys.exit(main())
