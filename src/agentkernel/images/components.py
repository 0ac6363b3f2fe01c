"""Languages as WebAssembly components: our own sources, made into a component by a tool that PyPI carries.

A component is the language's interpreter, our driver of it, and its standard library, initialised: what an instance
starts from is the memory after all of that ran.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import anyio.to_thread

from agentkernel.images import process
from agentkernel.images.progress import Progress
from agentkernel.images.recipe import digest_of
from agentkernel.images.shelf import Recorded
from agentkernel.model.errors import NotFound
from agentkernel.model.ids import Digest

FILE = "component.wasm"
BUILDER = "componentize-py>=0.25,<0.26"
"""Carries CPython for WASI, with its standard library."""
LANGUAGES = ("python",)
_INSTALL = ("install", "--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-compile")
_START = "import sys; from componentize_py import script; sys.exit(script())"


@dataclass(frozen=True, slots=True)
class Component:
    """A component ready to be compiled."""

    path: Path
    digest: Digest


def sources(language: str) -> dict[str, str]:
    """File name to text of a language's driver. Raises NotFound."""
    if language not in LANGUAGES:
        raise NotFound(f"there is no component for {language}", hint=f"there is one for {', '.join(LANGUAGES)}")
    folder = resources.files("agentkernel.images") / "guests" / language
    return {file.name: file.read_text() for file in folder.iterdir() if file.name.endswith((".py", ".wit"))}


def component_digest(language: str) -> Digest:
    """The key: sources and builder."""
    return Digest(digest_of({"sources": sources(language), "builder": BUILDER, "format": 1}))


async def build(folder: Path, language: str, progress: Progress) -> Recorded:
    """Fetch the builder and make the component in `folder`. Takes half a minute.

    Raises:
        ChildError: pip cannot get the builder, or it failed.
    """
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
