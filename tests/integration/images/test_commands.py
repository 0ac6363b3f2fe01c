"""The commands, as a person types them."""

import subprocess
import sys
from pathlib import Path

import pytest


def command(environ: dict[str, str], *words: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "agentkernel.cli.admin_commands", *words]
    return subprocess.run(argv, env=environ, input=answer, capture_output=True, text=True, timeout=240, check=False)


def test_the_list_names_every_runtime_and_whether_it_is_built(own):
    done = command(own, "images", "list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "base",
        "c",
        "go",
        "java",
        "node",
        "python",
        "ruby",
        "rust",
    ]
    assert "not built" in done.stdout


def test_an_unknown_runtime_fails_with_our_status_and_a_hint(own):
    done = command(own, "setup", "cobol")
    assert done.returncode == 125
    assert "there is no runtime 'cobol'" in done.stderr
    assert "known: base" in done.stderr
    assert not Path(own["AGENTKERNEL_DATA"]).exists()


def test_removing_what_is_not_built_says_so(own):
    done = command(own, "images", "remove", "base")
    assert done.returncode == 125
    assert "not built" in done.stderr


def test_uninstall_lists_asks_and_removes(own):
    command(own, "images", "list")
    data = own["AGENTKERNEL_DATA"]
    no = command(own, "uninstall", answer="n\n")
    assert data in no.stdout
    assert Path(data).exists()
    yes = command(own, "uninstall", "--yes")
    assert yes.returncode == 0
    assert not Path(data).exists()
    assert "nothing to remove" in command(own, "uninstall", "--yes").stdout


@pytest.mark.parametrize("variable", ["AGENTKERNEL_DATA", "AGENTKERNEL_HOME"])
def test_uninstall_never_touches_a_folder_that_is_not_ours(own, tmp_path, variable):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    done = command(own | {variable: str(tmp_path / "thesis")}, "uninstall", "--yes")
    assert done.returncode == 125
    assert (tmp_path / "thesis" / "chapter").exists()


def test_setup_makes_everything_and_the_second_time_has_nothing_to_do(environment, agent):
    first = command(environment, "setup")
    assert first.returncode == 0, first.stderr
    assert "QEMU" in first.stderr
    assert "Linux" in first.stderr
    second = command(environment, "setup")
    assert second.returncode == 0
    assert "download" not in second.stderr
    assert "unpack" not in second.stderr
