"""`agentkernel run`, kept light: every import here is paid for by every command (tests/repo checks the list).

It knows the message shapes by heart, so that it need not import them; tests/repo holds it against `protocol`.
"""

import os
import sys

EXIT_OURS = 125
RUNTIMES = {
    "python": "python",
    "python3": "python",
    "pip": "python",
    "pip3": "python",
    "node": "node",
    "npm": "node",
    "npx": "node",
    "corepack": "node",
    "cargo": "rust",
    "rustc": "rust",
    "go": "go",
    "gofmt": "go",
    "ruby": "ruby",
    "gem": "ruby",
    "bundle": "ruby",
    "java": "java",
    "javac": "java",
    "gcc": "c",
    "g++": "c",
    "cc": "c",
    "c++": "c",
    "make": "c",
    "cmake": "c",
}
"""Program name to the runtime that has it; everything else runs in `base`."""
BACKENDS = {
    "microvm": ("firecracker", None),
    "qemu": ("firecracker", "qemu"),
    "firecracker": ("firecracker", "firecracker"),
}
"""What a user says to the wire's backend and VMM pin; any other word is passed on, and judged by the daemon."""
USAGE = "usage: agentkernel run [OPTIONS] -- COMMAND [ARGUMENT...]   (agentkernel run --help tells more)"
HELP = """usage: agentkernel run [OPTIONS] -- COMMAND [ARGUMENT...]

Run one command in a fresh sandbox; its output, exit code and signals pass through.

  -r, --runtime NAME    what is installed in it; by default chosen by the command's name, else base
      --image NAME      an image that the backend has or can fetch, in place of a runtime; without COMMAND, its own
  -b, --backend NAME    microvm, qemu, firecracker, docker, podman, gvisor, wasm, hyperlight, apple, or auto for the
                        strongest that works here; default: AGENTKERNEL_BACKEND, else microvm
  -d, --dir PATH        copy this folder into /workspace first (.gitignore and .agentkernelignore are honoured)
  -e, --env NAME=VALUE  set a variable inside; NAME alone passes the one from here; may be repeated
  -w, --workdir PATH    working directory inside, default /workspace
  -u, --user NAME       sandbox (default) or root
  -t, --timeout SECONDS kill it after that time and exit with 124
      --minimum-isolation TIER   vm, kernel-proxy, vm-emulated, wasm or container: refuse anything weaker
      --json            print one JSON object with exit_code, stdout, stderr and the isolation used

Exit code: the command's own; 128 + signal; 127 not found, 126 not executable; 124 timed out; 125 our own failure.
"""


class Failure(Exception):
    """Ends the program with a message and our own exit code."""

    def __init__(self, message: str, hint: str = "", code: int = EXIT_OURS) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class Options:
    """The flags of `run`."""

    def __init__(self) -> None:
        self.runtime = ""
        self.image = ""
        self.backend = os.environ.get("AGENTKERNEL_BACKEND") or "microvm"
        self.directory = ""
        self.env: dict[str, str] = {}
        self.workdir = ""
        self.user = ""
        self.timeout_s: float | None = None
        self.minimum_isolation = ""
        self.json = False
        self.command: list[str] = []


def program() -> None:
    """The entry point of `agentkernel` and `ak`.

    What was written is flushed. Nothing else is worth the 3 ms that an interpreter needs to take itself apart, where
    the whole program takes 25.
    """
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> int:
    """Everything but leaving: the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] != ["run"]:
        from agentkernel.cli.commands import main as cold

        cold()
        return 0
    if arguments[1:2] in (["-h"], ["--help"]):
        sys.stdout.write(HELP)
        return 0
    try:
        return run(parse(arguments[1:]))
    except Failure as failure:
        complain(failure.message, failure.hint)
        return failure.code


def complain(message: str, hint: str = "") -> None:
    """One line of ours on stderr, and what to do about it."""
    sys.stderr.write(f"agentkernel: {message}\n" + (f"agentkernel: {hint}\n" if hint else ""))


def parse(arguments: list[str]) -> Options:
    """Flags up to `--` or to the first word that is none; the rest is the command."""
    options = Options()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            rest.insert(0, word)
            break
        if word == "--json":
            options.json = True
            continue
        name, equals, value = word.partition("=")
        if not equals:
            if not rest:
                raise Failure(f"{name} needs a value", USAGE)
            value = rest.pop(0)
        apply_flag(options, name, value)
    if options.image and options.runtime:
        raise Failure("--runtime and --image exclude each other", "an image takes the place of a runtime")
    if not rest and not options.image:
        raise Failure("no command given", USAGE)
    options.command = rest
    if not options.image:
        options.runtime = options.runtime or runtime_of(rest[0])
    return options


def runtime_of(program: str) -> str:
    """The runtime that has this program."""
    return RUNTIMES.get(os.path.basename(program), "base")


def apply_flag(options: Options, name: str, value: str) -> None:
    """Set the one option that a flag names."""
    match name:
        case "-r" | "--runtime":
            options.runtime = value
        case "--image":
            options.image = with_whole_path(value)
        case "-b" | "--backend":
            options.backend = value
        case "-d" | "--dir":
            options.directory = value
        case "-e" | "--env":
            variable, equals, content = value.partition("=")
            options.env[variable] = content if equals else os.environ.get(variable, "")
        case "-w" | "--workdir":
            options.workdir = value
        case "-u" | "--user":
            options.user = value
        case "-t" | "--timeout":
            options.timeout_s = seconds(value)
        case "--minimum-isolation":
            options.minimum_isolation = value
        case _:
            raise Failure(f"unknown option {name}", USAGE)


def with_whole_path(image: str) -> str:
    """An image's name; one of a file or a folder from here, where the daemon is not."""
    form, colon, path = image.partition(":")
    is_path = bool(colon and path) and form in ("docker-archive", "oci-archive", "oci")
    return f"{form}:{os.path.abspath(path)}" if is_path else image


def seconds(text: str) -> float:
    """A positive, finite number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise Failure(f"--timeout must be a positive number of seconds, not {text!r}")
    return value


def message_of(options: Options, cmd: str) -> dict[str, object]:
    """The request for these options, with only the fields that say something."""
    backend, vmm = BACKENDS.get(options.backend, (options.backend, None))
    message: dict[str, object] = {
        "cmd": cmd,
        "command": options.command,
        "backend": backend,
        "request_id": "run",
    }
    optional: dict[str, object] = {
        "runtime": options.runtime,
        "image": options.image,
        "vmm": vmm,
        "env": options.env,
        "cwd": options.workdir,
        "user": options.user,
        "timeout_ms": options.timeout_s and max(1, round(options.timeout_s * 1000)),
        "minimum_isolation": options.minimum_isolation,
    }
    message.update({name: value for name, value in optional.items() if value})
    return message


def socket_path() -> str:
    """Where the daemon listens; the same rule as `daemon.places`, which a test compares."""
    environ = os.environ
    if environ.get("AGENTKERNEL_SOCKET"):
        return environ["AGENTKERNEL_SOCKET"]
    if environ.get("AGENTKERNEL_HOME"):
        return environ["AGENTKERNEL_HOME"] + "/daemon.sock"
    if environ.get("HOME"):
        return environ["HOME"] + "/.agentkernel/daemon.sock"
    if environ.get("XDG_RUNTIME_DIR"):
        return environ["XDG_RUNTIME_DIR"] + "/agentkernel/daemon.sock"
    raise Failure("no home directory", "set AGENTKERNEL_HOME to a folder of your own")


def run(options: Options) -> int:
    """Send the request, pass everything through, return the exit code."""
    from agentkernel.cli.session import Session

    with Session.open(socket_path()) as session:
        if options.json:
            return session.run_for_json(options)
        code = session.run(options)
    if code and not options.directory:
        hint_at_missing_file(options.command)
    return code


def hint_at_missing_file(command: list[str]) -> None:
    """A failed command that names a file which is here was probably meant to see it."""
    for word in command:
        if not word.startswith(("-", "/")) and os.path.isfile(word):
            complain(f"{word} is in this folder, not in the sandbox", "add --dir . to copy the folder into /workspace")
            return
