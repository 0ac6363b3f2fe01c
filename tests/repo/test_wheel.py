"""The wheel: what is in it, and that it works where nothing else of ours is."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.daemons import short_home

from agentkernel import __version__
from agentkernel.images.tools import MACHINES

ROOT = Path(__file__).parents[2]
BUILD_S = 420
"""The first cross build of a machine takes about a minute; later ones come from the compiler's cache."""
ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
PT_INTERP = 3

pytestmark = pytest.mark.vm


def call(*words: str | Path, timeout_s: float = BUILD_S, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make wheel` makes it, but not into the checkout's dist."""
    target = tmp_path_factory.mktemp("wheel")
    for machine in MACHINES:
        call("make", "-s", "-C", "guest", f"agent-{machine}", AGENTKERNEL_PYTHON=sys.executable)
        call("make", "-s", "-C", "host", f"ARCH={machine}", AGENTKERNEL_PYTHON=sys.executable)
    call(sys.executable, "-m", "build", "--wheel", "--outdir", target, ROOT)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment that has the wheel and what it depends on."""
    place = tmp_path_factory.mktemp("clean")
    venv.create(place, with_pip=True)
    call(place / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    return place / "bin"


def segments(program: bytes) -> list[int]:
    """Kinds of the program headers of a 64-bit little-endian ELF file."""
    (start,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    return [struct.unpack_from("<I", program, start + number * size)[0] for number in range(count)]


def test_the_wheel_is_for_any_python_and_says_so(wheel: Path) -> None:
    assert wheel.name == f"agentkernel-{__version__}-py3-none-any.whl"


def test_the_wheel_carries_all_that_the_package_has(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and path.suffix in {".js", ".py", ".sh", ".toml", ".typed", ".wit"}
    }
    programs = {f"agentkernel/_bin/{kind}-{machine}" for kind in ("agent", "supervisor") for machine in MACHINES}
    assert "agentkernel/py.typed" in sources
    assert "agentkernel/images/recipes/base.toml" in sources
    assert found == sources | programs


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", ["agent", "supervisor"])
def test_its_programs_are_static_and_for_the_machine_in_their_name(wheel: Path, kind: str, machine: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entry = archive.getinfo(f"agentkernel/_bin/{kind}-{machine}")
        program = archive.read(entry)
    assert program[:6] == b"\x7fELF\x02\x01"
    assert struct.unpack_from("<H", program, 18)[0] == ELF_MACHINE[machine]
    assert PT_INTERP not in segments(program)
    assert entry.external_attr >> 16 & 0o111, "executable"
    assert os.fsencode(ROOT) not in program, "no path of where it was built"


@pytest.fixture
def home(installed: Path) -> Iterator[Path]:
    """A state folder, whose daemon ends with the test."""
    with short_home() as place:
        yield place
        call(installed / "agentkernel", "daemon", "stop", AGENTKERNEL_HOME=str(place))


def test_a_command_runs_from_the_wheel_alone(installed: Path, home: Path) -> None:
    settings = {"AGENTKERNEL_HOME": str(home), "AGENTKERNEL_POOL_PREWARM": "", "PYTHONPATH": ""}
    done = call(installed / "agentkernel", "run", "--", "uname", "-sm", **settings)
    assert done.stdout == "Linux x86_64\n"
    where = call(installed / "python", "-c", "import agentkernel; print(agentkernel.__file__)", PYTHONPATH="").stdout
    assert where.startswith(str(installed.parent)), "the control: it is not the checkout that ran"
