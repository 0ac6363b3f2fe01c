"""A small project for npm: a few local packages, which are packed and copied as those of a registry; no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

FOLDER = "/workspace/npm"
PACKAGES = 5
MODULES = 6
INSTALL = [
    "sh",
    "-ec",
    f"cd {FOLDER}/app; rm -rf node_modules package-lock.json; "
    "npm install --install-links --offline --no-audit --no-fund --loglevel=error; "
    "node -e 'require(\"package-0\")'",
]
"""The last step proves that it was installed."""


def project() -> list[dict[str, object]]:
    """Files for a request's `files`: an application, and packages of a few modules, each needing the next one."""
    return [{"path": f"{FOLDER}/{path}", "content_base64": _encoded(content)} for path, content in _files()]


def _files() -> Iterator[tuple[str, str]]:
    yield "app/package.json", _manifest("app", range(PACKAGES))
    for number in range(PACKAGES):
        name = f"package-{number}"
        last = number + 1 == PACKAGES
        modules = "".join(f"require('./module-{each}');" for each in range(MODULES))
        yield f"{name}/package.json", _manifest(name, ())
        yield f"{name}/index.js", modules if last else f"{modules}require('package-{number + 1}');"
        for each in range(MODULES):
            yield f"{name}/module-{each}.js", f"module.exports = {each};\n" * 40


def _manifest(name: str, needs: range | tuple[()]) -> str:
    dependencies = {f"package-{number}": f"file:../package-{number}" for number in needs}
    return json.dumps({"name": name, "version": "1.0.0", "main": "index.js", "dependencies": dependencies})


def _encoded(content: str) -> str:
    return base64.b64encode(content.encode()).decode()
