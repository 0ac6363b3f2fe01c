import io

import pytest

from agentkernel.admin.console import Console, human_bytes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (38_400_000, "38 MB"), (1_100_000_000, "1.1 GB")]
)
def test_sizes_are_short(count, text):
    assert human_bytes(count) == text


def test_off_a_terminal_each_activity_is_one_line():
    out = io.StringIO()
    console = Console(out)
    for done in range(0, 100, 10):
        console.step("tools", "download", done, 100)
    console.step("tools", "unpack")
    console.done("tools", "QEMU 10")
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "\x1b" not in out.getvalue()
    assert lines[-1].strip().startswith("tools: QEMU 10 (")


def test_on_a_terminal_a_line_changes_in_place():
    out = Terminal()
    console = Console(out)
    console.step("tools", "download", 1, 100)
    console.step("tools", "unpack")
    console.done("tools", "ready")
    assert out.getvalue().count("\n") == 1
