"""Which programs setup fetches for which backend."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from agentkernel.admin import setup as setting_up
from agentkernel.admin.console import Console
from agentkernel.cli.admin_commands import admin
from agentkernel.images.store import Store
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend
from agentkernel.model.readiness import Readiness

pytestmark = pytest.mark.anyio


class Asked:
    """In place of a store that would download: it has everything, and remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self._folder = folder

    def resolve(self, runtime: str) -> Digest:
        return Digest("0" * 64)

    async def tool(self, name: str, progress: Any = None) -> Any:
        self.asked.append(name)
        return SimpleNamespace(root=Path("/"), version="1")

    async def kernel(self, progress: Any = None) -> Any:
        self.asked.append("kernel")
        return SimpleNamespace(release="6")

    async def ensure(self, runtime: str, progress: Any = None) -> Digest:
        self.asked.append(runtime)
        return self.resolve(runtime)

    async def root(self, digest: Digest) -> Path:
        return self._folder


@pytest.mark.parametrize(
    ("backends", "asked"),
    [
        ([Backend.MICROVM], ["qemu", "kernel", "base"]),
        ([Backend.GVISOR], ["runsc", "base"]),
        ([Backend.DOCKER], ["base"]),
        ([Backend.MICROVM, Backend.GVISOR], ["qemu", "runsc", "kernel", "base"]),
    ],
)
async def test_setup_fetches_what_the_named_backends_need_and_ends_with_the_table(
    backends: list[Backend], asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def examine(_: Store) -> dict[str, Readiness]:
        return {"docker": Readiness(usable=False, reason="no engine listens", remedy="start one")}

    monkeypatch.setattr(setting_up, "examine", examine)
    store, said = Asked(tmp_path), io.StringIO()
    await setting_up.setup(cast(Store, store), Console(said), ("base",), backends=backends)
    assert store.asked == asked
    row, why, remedy, tested = said.getvalue().splitlines()[-4:]
    assert [line.split() for line in (row, why, remedy)] == [
        ["docker", "no", "-", "-"],
        ["why", "not", "no", "engine", "listens"],
        ["remedy", "start", "one"],
    ]
    assert tested.split()[:2] == ["tested", "with"]


def test_setup_takes_backends_by_the_names_that_run_takes() -> None:
    said = CliRunner().invoke(admin, ["setup", "-b", "xen"]).output
    assert all(backend.value in said for backend in Backend)
