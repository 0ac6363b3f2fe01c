"""Which image a name meant when it was last looked for: small files below the data folder."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from agentkernel.model.ids import Digest


@dataclass(frozen=True, slots=True)
class Named:
    """One name. `image` is the digest of what is on the shelf."""

    name: str
    image: Digest


class Names:
    """All that are known. Files are replaced, never written to: readers need no lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> Digest | None:
        """What it meant, or None."""
        found = _read(self._path(name))
        return found.image if found and found.name == name else None

    def put(self, name: str, image: Digest) -> None:
        """Remember it."""
        if self.get(name) == image:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = self._folder / f".{secrets.token_hex(8)}"
        beside.write_text(json.dumps(asdict(Named(name, image))))
        os.replace(beside, self._path(name))  # noqa: PTH105

    def forget(self, name: str) -> bool:
        """Whether it was known."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def all(self) -> list[Named]:
        """By name."""
        paths = self._folder.glob("[0-9a-f]*") if self._folder.is_dir() else ()
        return sorted((named for path in paths if (named := _read(path))), key=lambda named: named.name)

    def _path(self, name: str) -> Path:
        return self._folder / hashlib.sha256(name.encode()).hexdigest()


def _read(path: Path) -> Named | None:
    try:
        return Named(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
