"""The golden vectors, the fuzzer, and the parsers on the other architecture."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def make(guest_folder: Path, *words: str) -> str:
    command = ["make", "-s", "-C", str(guest_folder), *words]
    environment = {**os.environ, "AGENTKERNEL_PYTHON": sys.executable}  # it has the cross compiler
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_parsers_agree_with_the_vectors(guest_folder: Path) -> None:
    assert ", 0 wrong" in make(guest_folder, "test-vectors")


def test_the_vectors_are_what_their_generator_writes(guest_folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("vectors_generate", guest_folder / "vectors" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, content in generate.render().items():
        assert (guest_folder / "vectors" / name).read_text() == content


def test_a_short_fuzz_finds_nothing(guest_folder: Path) -> None:
    assert "no failure" in make(guest_folder, "fuzz", "SECONDS=3")


def test_the_parsers_agree_with_the_vectors_on_the_other_architecture(guest_folder: Path) -> None:
    assert ", 0 wrong" in make(guest_folder, "test-vectors-aarch64")
