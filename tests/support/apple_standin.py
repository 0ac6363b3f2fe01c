"""AppleContainerStandIn: a `container` that looks like Apple's from outside, written from the driver's table.

It is not Apple's: there is no virtual machine. It refuses options that the table does not have, keeps containers and
images as files, and runs the real guest agent as ordinary processes for `run` and `exec`. By order of a test a command
fails with given words, takes long, dies, or talks nonsense.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
TABLE = REPOSITORY / "src/agentkernel/drivers/apple/table.py"
PROGRAM = """#!{python} -I
import sys
sys.path.append({repository!r})
from tests.support.apple_standin import main
main({folder!r})
"""


@dataclass
class AppleContainerStandIn:
    """The program in a folder of one test.

    Attributes:
        trouble: command, such as `run` or `image pull`, to `fail WORDS`, `slow SECONDS`, `die` or `garbage`.
        images: those that are here, with their architecture; `registry` has those that can be pulled.
        generation: `old` for the JSON before 1.0's, `new` for that since.
    """

    folder: Path
    trouble: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=lambda: {"debian:stable-slim": "arm64"})
    registry: dict[str, str] = field(default_factory=lambda: {"alpine:3": "arm64"})
    generation: str = "new"
    version: str = "1.0.0"

    @property
    def path(self) -> str:
        """What PATH has to be."""
        return str(self.folder / "bin")

    def install(self) -> None:
        """Write program and settings; again after a change of them."""
        for name in ("bin", "containers"):
            (self.folder / name).mkdir(exist_ok=True)
        program = self.folder / "bin/container"
        program.write_text(PROGRAM.format(python=sys.executable, repository=str(REPOSITORY), folder=str(self.folder)))
        program.chmod(0o755)
        settings = {key: value for key, value in vars(self).items() if key != "folder"}
        (self.folder / "settings.json").write_text(json.dumps(settings))

    def said(self) -> list[list[str]]:
        """The command lines, in their order."""
        record = self.folder / "record.jsonl"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    def names(self) -> list[str]:
        """The first word of each."""
        return [words[0] for words in self.said()]

    def containers(self) -> dict[str, dict[str, Any]]:
        """What is there."""
        return {path.stem: json.loads(path.read_text()) for path in (self.folder / "containers").glob("*.json")}


class _Program:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = json.loads((folder / "settings.json").read_text())

    def carry_out(self, words: list[str]) -> None:
        with (self.folder / "record.jsonl").open("a") as record:
            record.write(json.dumps(words) + "\n")
        name = " ".join(words[:2]) if words[0] in {"image", "system"} else words[0]
        trouble, _, rest = self.settings["trouble"].get(name, "").partition(" ")
        if trouble == "fail":
            sys.exit(f"Error: {rest}")
        if trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "garbage":
            print("[{]")
            return
        if trouble == "slow":
            time.sleep(float(rest))
        if wrong := _table().faults(words):
            sys.exit(f"Error: {'; '.join(wrong)}\nUsage: container ...")
        getattr(self, "do_" + name.replace(" ", "_").lstrip("-"))(words[len(name.split()) :])

    def do_version(self, _: list[str]) -> None:
        print(f"container CLI version {self.settings['version']} (build: release, commit: unspeci)")

    def do_system_status(self, _: list[str]) -> None:
        print("FIELD    VALUE\nstatus   running")

    def do_image_inspect(self, names: list[str]) -> None:
        found = self._images()
        if names[0] not in found:
            sys.exit(f'Error: notFound: "image {names[0]} not found"')
        inner = {"Env": ["PATH=/bin", "A=b=c"], "Cmd": ["/bin/sh"], "WorkingDir": "/srv", "User": "app"}
        platform = {"os": "linux", "architecture": found[names[0]]}
        variant = {"platform": platform, "size": 1, "config": {"config": inner}}
        print(json.dumps([{"name": names[0], "index": {"digest": "sha256:" + "ab" * 32}, "variants": [variant]}]))

    def do_image_pull(self, words: list[str]) -> None:
        name = words[-1]
        if name not in self.settings["registry"]:
            sys.exit(f"Error: failed to resolve {name}: manifest unknown")
        (self.folder / "pulled.json").write_text(json.dumps({name: self.settings["registry"][name]}))

    def _images(self) -> dict[str, str]:
        pulled = self.folder / "pulled.json"
        return {**self.settings["images"], **(json.loads(pulled.read_text()) if pulled.exists() else {})}

    def do_run(self, words: list[str]) -> None:
        options, rest = _split(words)
        name, image = options["--name"][0], rest[0]
        if image not in self._images():
            sys.exit(f"Error: image {image} not found")
        if (self.folder / "containers" / f"{name}.json").exists():
            sys.exit(f"Error: exists: container {name}")
        mount = dict(part.partition("=")[::2] for part in options["--mount"][0].split(","))
        place = self.folder / "containers" / name
        place.mkdir()
        container = {
            "source": mount["source"],
            "target": mount["target"],
            "place": str(place),
            "labels": dict(label.split("=", 1) for label in options["--label"]),
        }
        argv = self._inside(container, [options["--entrypoint"][0], *rest[1:]])
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._keep(name, {**container, "pids": [process.pid]})
        print(name)

    def do_exec(self, words: list[str]) -> None:
        _, rest = _split(words)
        container = self._container(rest[0])
        self._keep(rest[0], {**container, "pids": [*container["pids"], os.getpid()]})
        argv = self._inside(container, rest[1:])
        os.execve(argv[0], argv, {})

    @staticmethod
    def _inside(container: dict[str, Any], argv: list[str]) -> list[str]:
        """A command line of the container as one of this host."""
        program = argv[0].replace(container["target"], container["source"], 1)
        return [program, *(word.replace("/run", container["place"], 1) for word in argv[1:])]

    def _container(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "containers" / f"{name}.json").read_text())
        except FileNotFoundError:
            sys.exit(f"Error: notFound: container {name}")
        return found

    def _keep(self, name: str, container: dict[str, Any]) -> None:
        (self.folder / "containers" / f"{name}.json").write_text(json.dumps(container))

    def do_stop(self, words: list[str]) -> None:
        self._end(words[-1])
        print(words[-1])

    def do_delete(self, words: list[str]) -> None:
        self._end(words[-1])
        (self.folder / "containers" / f"{words[-1]}.json").unlink()
        print(words[-1])

    def _end(self, name: str) -> None:
        for pid in self._container(name)["pids"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def do_list(self, _: list[str]) -> None:
        names = sorted(path.stem for path in (self.folder / "containers").glob("*.json"))
        print(json.dumps([self._row(name) for name in names]))

    def do_inspect(self, words: list[str]) -> None:
        self._container(words[-1])
        print(json.dumps([self._row(words[-1])]))

    def _row(self, name: str) -> dict[str, Any]:
        labels = self._container(name)["labels"]
        if self.settings["generation"] == "old":
            return {"status": "running", "configuration": {"id": name, "labels": labels}, "networks": []}
        return {"id": name, "status": {"state": "running"}, "configuration": {"labels": labels}}


def _table() -> Any:
    """By itself: its package would be read at every command."""
    spec = importlib.util.spec_from_file_location("apple_table", TABLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["apple_table"] = module
    spec.loader.exec_module(module)
    return module


def _split(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options with their values, and what follows them."""
    flags = {"--detach", "--interactive", "--no-dns", "--read-only", "--init"}
    options: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0].startswith("--"):
        word = rest.pop(0)
        options.setdefault(word, []).append("" if word in flags else rest.pop(0))
    return options, rest


def main(folder: str) -> None:
    """One command."""
    _Program(Path(folder)).carry_out(sys.argv[1:])
