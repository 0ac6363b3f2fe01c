"""What a program is given, and what it finds."""

from __future__ import annotations

import errno
import hashlib
import re

import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.model.errors import Refused
from agentkernel.model.execution import ExecRequest
from agentkernel.model.spec import Rlimit
from agentkernel.policy.environment import environment, exec_request
from tests.conformance.candidates import Subject
from tests.conformance.table import ENVIRONMENT, FOUND, HOSTNAME, ROOT_ENVIRONMENT
from tests.support.machines import Machine, request, run, run_request, shell

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ODD_ARGUMENTS = {
    "empty": (b"", b"a", b"", b""),
    "white space": (b" ", b"\t", b"a b", b"\n", b"two\nlines\n"),
    "shell": (b"$HOME", b"`id`", b"*", b"'", b'"', b"a;b", b"|", b"&&", b"\\", b"--", b"-n", b"%s"),
    "unicode": ("\u00e9\u4f60\u597d\U0001f600\u202e".encode(),),
    "every byte but NUL": (bytes(range(1, 256)), b"\xff\xfe\x80"),
    "many": tuple(b"%d" % number for number in range(5000)),
    "long": (b"x" * 131_071,),
}

WHO = 'echo "$(id -u):$(id -g) $HOME $USER $LOGNAME"; id -G | grep -qw 0 && echo in group 0'


@pytest.mark.behaviour("start.argv-verbatim")
@pytest.mark.parametrize("arguments", ODD_ARGUMENTS.values(), ids=ODD_ARGUMENTS)
async def test_arguments_arrive_as_they_were_given(guest: Guest, arguments: tuple[bytes, ...]) -> None:
    ran = await run(guest, "/usr/bin/printf", "%s\\0", *arguments)
    assert ran.stdout.split(b"\0")[:-1] == list(arguments)


@pytest.mark.behaviour("start.argv-large")
async def test_a_mebibyte_of_arguments_arrives_whole(guest: Guest) -> None:
    arguments = [bytes([65 + number]) * 131_000 for number in range(8)]
    ran = await run(guest, "/usr/bin/printf", "%s", *arguments)
    assert hashlib.sha256(ran.stdout).digest() == hashlib.sha256(b"".join(arguments)).digest()


@pytest.mark.behaviour("start.request-bounded")
async def test_a_request_past_its_bound_is_refused_and_harms_nothing(guest: Guest) -> None:
    with pytest.raises(Refused):
        await guest.exec(request("/bin/true", *(["x" * 131_000] * 17)))
    ran = await run(guest, "/bin/true", "x" * 200_000)
    assert (ran.refusal.errno, ran.refusal.what.partition(":")[0]) == (errno.E2BIG, "program")
    assert (await run(guest, "/bin/true")).code == 0


@pytest.mark.behaviour("start.environment-exact")
async def test_the_environment_is_complete_and_exact(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_HOST", "must not be seen")
    given = (b"PATH=/usr/bin", b"EMPTY=", b"LINES=a\nb", b"ODD=\xff\x01=", "\u00e9=\U0001f600".encode(), b"HOME=/x")
    ran = await run(guest, "/usr/bin/env", "-0", env=given)
    found = ran.stdout.split(b"\0")[:-1]
    assert sorted(found) == sorted((*given, b"USER=sandbox", b"LOGNAME=sandbox"))


@pytest.mark.behaviour("start.environment-table")
async def test_a_caller_who_says_nothing_gets_the_environment_of_the_table(guest: Guest) -> None:
    assert environment() == ENVIRONMENT
    ran = await run_request(guest, exec_request(["env", "-0"]))
    assert dict(word.split("=", 1) for word in ran.stdout.decode().split("\0")[:-1]) == ENVIRONMENT


@pytest.mark.behaviour("start.table")
async def test_a_program_finds_what_the_table_says(guest: Guest) -> None:
    script = "".join(f'printf "%s\\0" "$({command})"\n' for command, _ in FOUND.values())
    ran = await run_request(guest, exec_request(["sh", "-c", script]))
    found = dict(zip(FOUND, ran.stdout.decode().split("\0"), strict=False))
    assert found == {what: expected for what, (_, expected) in FOUND.items()}


@pytest.mark.behaviour("start.hostname")
async def test_the_host_name_is_the_sandboxs_own(machine: Machine) -> None:
    name = (await shell(machine.guest, "uname -n")).text
    assert re.fullmatch(HOSTNAME, name)
    assert name == machine.birth.identity.hostname
    assert (await shell(machine.guest, "echo $(cat /etc/hostname); busybox hostname")).text.split() == [name, name]
    assert (await shell(machine.guest, "cat /etc/machine-id")).text == machine.birth.identity.machine_id.hex()


@pytest.mark.behaviour("start.cwd")
async def test_the_working_directory_is_the_one_asked_for_or_the_workspace(guest: Guest) -> None:
    assert ExecRequest((b"pwd",)).cwd == "/workspace"
    assert (await run(guest, "pwd")).text == "/workspace"
    assert (await run(guest, "pwd", cwd="/usr/bin")).text == "/usr/bin"


@pytest.mark.behaviour("start.cwd-missing")
async def test_a_missing_working_directory_is_an_error_unless_it_is_to_be_made(guest: Guest) -> None:
    refusal = (await run(guest, "pwd", cwd="/workspace/not/there")).refusal
    assert (refusal.errno, refusal.what) == (errno.ENOENT, "cwd: /workspace/not/there")
    refusal = (await run(guest, "pwd", cwd="/etc/passwd")).refusal
    assert (refusal.errno, refusal.what) == (errno.ENOTDIR, "cwd: /etc/passwd")
    ran = await shell(guest, "pwd; stat -c %u .", cwd="/workspace/made/deep", make_cwd=True)
    assert ran.text == "/workspace/made/deep\n1000"
    await guest.remove("/workspace/made", recursive=True)


@pytest.mark.behaviour("start.user")
@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", "1000:1000 /home/sandbox sandbox sandbox"),
        ("sandbox", "1000:1000 /home/sandbox sandbox sandbox"),
        ("1000", "1000:1000 /home/sandbox sandbox sandbox"),
    ],
)
async def test_a_program_runs_as_the_sandboxs_user(guest: Guest, user: str, found: str) -> None:
    assert (await shell(guest, WHO, user=user, cwd="/")).text == found


@pytest.mark.behaviour("start.user-other")
@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("1234", "1234:1234 / 1234 1234"),
        ("1234:77", "1234:77 / 1234 1234"),
    ],
)
async def test_a_program_runs_as_the_user_asked_for(subject: Subject, guest: Guest, user: str, found: str) -> None:
    assert (await shell(guest, WHO, user=user, cwd="/")).text == found


@pytest.mark.behaviour("start.user-changed")
async def test_a_change_of_the_users_counts_for_the_next_program(subject: Subject, sibling: Machine) -> None:
    """The first is one of a file that has long been as it was; the others come at once and leave its size the same."""
    guest = sibling.guest
    change = "sed -i '/^moved/d' /etc/passwd && echo 'moved:x:{0}:{0}::/home/{0}:/bin/sh' >>/etc/passwd"
    assert (await run(guest, "id", user="moved")).refusal.what == "user: moved"
    for uid in range(2001, 2011):
        assert (await shell(guest, change.format(uid), user="root")).code == 0
        assert (await shell(guest, WHO, user="moved", cwd="/")).text == f"{uid}:{uid} /home/{uid} moved moved"
        joined = f"sed -i '/^extra/d' /etc/group && echo 'extra:x:{uid}:moved' >>/etc/group"
        assert (await shell(guest, joined.replace(f"x:{uid}", f"x:{uid + 1000}"), user="root")).code == 0
        assert str(uid + 1000) in (await shell(guest, "id -G", user="moved", cwd="/")).text.split()


@pytest.mark.behaviour("start.user-unknown")
@pytest.mark.parametrize("user", ["nobody-knows", "1000:", ":1000", "-1", "4294967296", "sandbox:x", "root\n"])
async def test_an_unknown_user_is_an_error(subject: Subject, guest: Guest, user: str) -> None:
    refusal = (await run(guest, "id", user=user)).refusal
    assert refusal.what.startswith("user: ")


@pytest.mark.behaviour("start.user-root")
async def test_root_is_root_where_it_is_declared(subject: Subject, guest: Guest) -> None:
    ran = await shell(guest, "id -u; echo $HOME; touch /etc/of-root && rm /etc/of-root && echo wrote", user="root")
    assert ran.text == "0\n/root\nwrote"
    ran = await run_request(guest, exec_request(["env", "-0"], user="root"))
    assert dict(word.split("=", 1) for word in ran.stdout.decode().split("\0")[:-1]) == ROOT_ENVIRONMENT


@pytest.mark.behaviour("start.user-is-not-root")
async def test_the_ordinary_user_cannot_do_what_root_can(guest: Guest) -> None:
    for forbidden in ("touch /etc/x", "cat /etc/shadow", "chown 0 /tmp", "mount -t tmpfs x /mnt", "hostname x"):
        ran = await shell(guest, f"{forbidden} 2>/dev/null")
        assert ran.code != 0, forbidden


@pytest.mark.behaviour("start.rlimits")
async def test_resource_limits_are_applied(guest: Guest) -> None:
    nofile = Rlimit(7, 77, 99)
    assert (await shell(guest, "ulimit -Sn; ulimit -Hn", rlimits=(nofile,))).text == "77\n99"
    refusal = (await run(guest, "true", rlimits=(Rlimit(7, 99, 77),))).refusal
    assert (refusal.errno, refusal.what.partition(":")[0]) == (errno.EINVAL, "rlimit")


@pytest.mark.behaviour("start.not-found")
@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program", "./x", "", "/etc/passwd/x"])
async def test_a_program_that_is_not_there_is_said_to_be(guest: Guest, name: str) -> None:
    refusal = (await run(guest, name)).refusal
    assert refusal.errno in (errno.ENOENT, errno.ENOTDIR)
    assert refusal.what == f"program: {name}"


@pytest.mark.behaviour("start.not-executable")
@pytest.mark.parametrize(
    ("name", "code"), [("/etc/passwd", errno.EACCES), ("/usr/bin", errno.EACCES), ("/workspace/blob", errno.ENOEXEC)]
)
async def test_what_is_not_executable_is_said_to_be(guest: Guest, name: str, code: int) -> None:
    await guest.write_file("/workspace/blob", b"\0\1\2\3 no program", mode=0o755)
    refusal = (await run(guest, name)).refusal
    assert (refusal.errno, refusal.what) == (code, f"program: {name}")
    await guest.remove("/workspace/blob")


@pytest.mark.behaviour("start.path-lookup")
async def test_a_name_without_a_slash_is_looked_up_in_the_path_given(guest: Guest) -> None:
    await guest.write_file("/workspace/bin/greet", b"#!/bin/sh\necho mine\n", mode=0o755, make_parents=True)
    assert (await run(guest, "greet", env=(b"PATH=/nowhere:/workspace/bin",))).text == "mine"
    assert (await run(guest, "greet")).refusal.errno == errno.ENOENT
    await guest.remove("/workspace/bin", recursive=True)


@pytest.mark.behaviour("start.pty")
async def test_a_terminal_has_the_size_that_was_asked_for(subject: Subject, guest: Guest) -> None:
    wanted = ExecRequest((b"stty", b"size"), terminal=(24, 80))
    assert (await run_request(guest, wanted)).text == "24 80"
