"""The supervisor's command line."""

from __future__ import annotations

from pathlib import Path

from agentkernel.drivers.confine.spec import Bind, Confinement, command_line, system_binds
from agentkernel.model.ids import SandboxId

ID = SandboxId("ab" * 16)


def test_a_supervisor_is_named_after_its_sandbox() -> None:
    argv = command_line(Confinement(argv=("/bin/vmm", "-x"), tree=Path("/tools")), ID, control_fd=5, log_fd=6, uid=7)
    assert argv[:2] == ("agentkernel-sandbox", ID)
    assert argv[-3:] == ("--", "/bin/vmm", "-x")


def test_every_part_of_a_confinement_reaches_the_supervisor() -> None:
    spec = Confinement(
        argv=("/bin/vmm",),
        tree=Path("/tools"),
        binds=(Bind(Path("/a b"), "/c:d"),),
        pass_fds=(9, 12),
        env={"A": "1"},
        kvm=True,
        remove=Path("/state") / ID,
        open_files=10,
        threads=11,
        locked_bytes=0,
        tmp_bytes=4096,
        oom_score_adj=900,
    )
    options = " ".join(command_line(spec, ID, control_fd=5, log_fd=6, uid=7)[2:-2])
    assert options == (
        "--control-fd 5 --log-fd 6 --uid 7 --gid 7 --tree /tools --bind /a b /c:d --pass 9 --pass 12 --env A=1 "
        "--rlimit nofile=10 --rlimit nproc=11 --rlimit memlock=0 --tmp-bytes 4096 --oom-score-adj 900 --kvm "
        f"--remove /state/{ID}"
    )


def test_an_ordinary_user_gives_no_uid() -> None:
    argv = command_line(Confinement(argv=("/bin/vmm",), tree=Path("/tools")), ID, control_fd=5, log_fd=6, uid=None)
    assert "--uid" not in argv
    assert "--gid" not in argv


def test_a_program_of_the_system_gets_binds_instead_of_a_tree() -> None:
    argv = command_line(Confinement(argv=("/usr/bin/vmm",), tree=Path("/")), ID, control_fd=5, log_fd=6, uid=1)
    assert "--tree" not in argv
    assert argv[argv.index("--bind") + 1 :][:2] == ("/usr", "/usr")


def test_only_what_the_system_has_is_bound(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "lib").symlink_to("usr")
    (tmp_path / "home").mkdir()
    assert [bind.target for bind in system_binds(tmp_path)] == ["/usr", "/lib"]


def test_a_program_that_makes_prisons_says_so_and_where_it_is_held() -> None:
    spec = Confinement(
        argv=("/usr/bin/runsc",),
        tree=Path("/tools"),
        pass_fds=(9,),
        nesting=True,
        stdio_fd=9,
        covers=(("/bundle/meminfo", "/proc/meminfo"),),
        group_fds=(11, 12),
    )
    options = " ".join(command_line(spec, ID, control_fd=5, log_fd=6, uid=7))
    wanted = "--profile nesting --cover /bundle/meminfo /proc/meminfo --cgroup-fd 11 --cgroup-fd 12 --stdio-fd 9"
    assert wanted in options
    plain = command_line(Confinement(argv=("/bin/vmm",), tree=Path("/tools")), ID, control_fd=5, log_fd=6, uid=7)
    assert not {"--profile", "--cover", "--cgroup-fd", "--stdio-fd"} & {*plain}
