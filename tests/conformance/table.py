"""What a program finds inside a sandbox when its caller says nothing: the table of SPECIFICATION 4, as data."""

from __future__ import annotations

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/home/sandbox",
    "USER": "sandbox",
    "LOGNAME": "sandbox",
}
ROOT_ENVIRONMENT = ENVIRONMENT | {"HOME": "/root", "USER": "root", "LOGNAME": "root"}

IGNORED = (
    "perl -MPOSIX -e 'for (grep { $_ != SIGFPE } 1..31) {"
    ' my $a = POSIX::SigAction->new; sigaction($_, undef, $a); print "$_ " if $a->handler eq "IGNORE" }\''
)
BLOCKED = (
    "perl -MPOSIX -e 'my ($none, $old) = (POSIX::SigSet->new, POSIX::SigSet->new);"
    " sigprocmask(SIG_BLOCK, $none, $old); print join q( ), grep { $old->ismember($_) } 1..31'"
)
"""Asked by system call, because not every kernel tells all in /proc. Perl ignores SIGFPE on its own account."""

FOUND: dict[str, tuple[str, str]] = {
    "user": ("id -un", "sandbox"),
    "uid": ("id -u", "1000"),
    "gid": ("id -g", "1000"),
    "groups": ("id -G", "1000"),
    "cwd": ("pwd", "/workspace"),
    "owner of /workspace": ("stat -c %u:%g:%a /workspace", "1000:1000:755"),
    "owner of /scratch": ("stat -c %u:%g:%a /scratch", "1000:1000:755"),
    "owner of home": ("stat -c %u:%g:%a /home/sandbox", "1000:1000:755"),
    "/tmp": ("stat -c %u:%a /tmp", "0:1777"),
    "/dev/shm": ("stat -c %u:%a /dev/shm", "0:1777"),
    "descriptors, soft": ("ulimit -Sn", "1024"),
    "umask": ("umask", "0022"),
    "open descriptors": (
        "for n in $(seq 0 63); do test -e /proc/self/fd/$n && echo $n; done | xargs",
        "0 1 2",
    ),
    "standard input": ("readlink /proc/$$/fd/0", "/dev/null"),
    "terminal": ("tty; :", "not a tty"),
    "ignored signals, as the kernel tells": ("sed -n 's/^SigIgn:\\s*0*//p' /proc/self/status", ""),
    "blocked signals, as the kernel tells": ("sed -n 's/^SigBlk:\\s*0*//p' /proc/self/status", ""),
    "ignored signals": (IGNORED, ""),
    "blocked signals": (BLOCKED, ""),
    "capabilities": ("sed -n 's/^CapEff:\\s*//p' /proc/self/status", "0000000000000000"),
    "leads its session": ('test "$(ps -o sid= -p $$ | tr -d \\ )" = $$ && echo yes', "yes"),
    "network devices": ("tail -n +3 /proc/net/dev | cut -d: -f1 | xargs", "lo"),
}
"""What is looked at: how a shell inside tells it, and what it says."""

HOSTNAME = r"sandbox-[0-9a-f]{8}"
