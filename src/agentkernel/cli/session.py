"""One connection to the daemon, for one `run`: output out, input in, signals on. As light as `hot`."""

import binascii
import json
import os
import select
import signal
import socket
import sys
from collections import deque
from types import TracebackType

from agentkernel import __version__
from agentkernel.cli.hot import EXIT_OURS, Failure, Options, complain, message_of

STDIN_CHUNK_BYTES = 65_536
CREDIT_BATCH_BYTES = 262_144
INLINE_STDIN_BYTES = 524_288
FORWARDED = (signal.SIGINT, signal.SIGTERM)
EXIT_SIGPIPE = 128 + 13


class Session:
    """A connection whose daemon speaks this version, started when there was none."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = b""
        self._lines: deque[bytes] = deque()
        self._poller = select.poll()
        self._owed_credit = 0

    @classmethod
    def open(cls, path: str) -> "Session":
        """Connect; start a daemon when none answers; replace an idle one of another version."""
        session = cls(connected(path))
        hello = session.ask({"cmd": "hello"})
        if hello.get("version") == __version__:
            return session
        from agentkernel.cli.starting import replace_other_version

        session.close()
        replace_other_version(path, hello)
        return cls(connected(path))

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a command that still runs is killed by the daemon."""
        self._socket.close()

    # --- lines ------------------------------------------------------------------------------------------

    def send(self, message: dict[str, object]) -> None:
        """One request line."""
        try:
            line = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Failure("the command or its environment is not valid UTF-8") from None
        try:
            self._socket.sendall(line + b"\n")
        except OSError as err:
            raise gone(err) from None

    def receive(self) -> dict[str, object]:
        """The next line from the daemon."""
        while not self._lines:
            self._fill()
        reply: dict[str, object] = json.loads(self._lines.popleft())
        return reply

    def _fill(self) -> None:
        """One read; whole lines go to `_lines`."""
        try:
            chunk = self._socket.recv(1 << 20)
        except OSError as err:
            raise gone(err) from None
        if not chunk:
            raise gone(None)
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            self._lines.extend((self._received + head).split(b"\n"))
            self._received = tail
        else:
            self._received += chunk

    def ask(self, message: dict[str, object]) -> dict[str, object]:
        """One request and its one reply; an `error` is raised."""
        self.send(message)
        return checked(self.receive())

    # --- run ------------------------------------------------------------------------------------------

    def run_for_json(self, options: Options) -> int:
        """One `exec`, its reply printed as one line."""
        message = message_of(options, "exec")
        if not os.isatty(0):
            stdin = sys.stdin.buffer.read(INLINE_STDIN_BYTES + 1)
            if len(stdin) > INLINE_STDIN_BYTES:
                raise Failure("--json takes at most 512 KiB of input", "leave --json out to stream it")
            if stdin:
                message["stdin"] = text_of(stdin)
        with Place(self, options, message):
            reply = self.ask(message)
        reply.pop("request_id", None)
        sys.stdout.write(json.dumps(reply, ensure_ascii=False) + "\n")
        return int(str(reply["exit_code"]))

    def run(self, options: Options) -> int:
        """One streamed exec; returns the exit code."""
        message = message_of(options, "exec_start")
        feed_stdin = not os.isatty(0)
        message["stdin_open"] = feed_stdin
        with Place(self, options, message):
            wake, previous = caught_signals()
            try:
                self.send(message)
                return self._pass_through(wake, feed_stdin)
            except BrokenPipeError:
                return EXIT_SIGPIPE
            finally:
                restore_signals(wake, previous)

    def _pass_through(self, wake: int, feed_stdin: bool) -> int:
        self._poller.register(self._socket, select.POLLIN)
        self._poller.register(wake, select.POLLIN)
        if feed_stdin:
            self._poller.register(0, select.POLLIN)
        while True:
            while self._lines:
                code = self._take(self.receive())
                if code is not None:
                    return code
            for descriptor, _ in self._poller.poll():
                if descriptor == wake:
                    self._forward_signals(wake)
                elif descriptor == 0:
                    self._forward_stdin()
                else:
                    self._fill()

    def _take(self, event: dict[str, object]) -> int | None:
        """Carry out one event; the exit code when it is the last."""
        match event["type"]:
            case "stdout" | "stderr" as stream:
                self._write(1 if stream == "stdout" else 2, binascii.a2b_base64(str(event["data_base64"])))
            case "progress":
                complain(str(event["detail"]))
            case "accepted" if event.get("of") == "exec_stdin":
                self._poller.register(0, select.POLLIN)
            case "error":
                checked(event)
            case "exit":
                if event.get("problem"):
                    complain(str(event["problem"]))
                if event.get("timed_out"):
                    complain("the command timed out and was killed")
                return int(str(event["exit_code"]))
        return None

    def _write(self, descriptor: int, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        self._owed_credit += len(content)
        if self._owed_credit >= CREDIT_BATCH_BYTES:
            self.send({"cmd": "credit", "request_id": "run", "bytes": self._owed_credit})
            self._owed_credit = 0

    def _forward_stdin(self) -> None:
        """One chunk; the next when the daemon has accepted it."""
        self._poller.unregister(0)
        chunk = os.read(0, STDIN_CHUNK_BYTES)
        if chunk:
            self.send({"cmd": "exec_stdin", "request_id": "run", "data_base64": text_of(chunk)})
        else:
            self.send({"cmd": "exec_close_stdin", "request_id": "run"})

    def _forward_signals(self, wake: int) -> None:
        for number in os.read(wake, 64):
            self.send({"cmd": "exec_signal", "request_id": "run", "signal": number})


class Place:
    """Where the command runs: a sandbox of its own, or, with `--dir`, a lease that holds a copy of the folder."""

    def __init__(self, session: Session, options: Options, message: dict[str, object]) -> None:
        self._session = session
        self._options = options
        self._message = message
        self._lease = ""

    def __enter__(self) -> None:
        if not self._options.directory:
            return
        from agentkernel.cli.project import acquired, put_project

        self._lease = acquired(self._session, self._options.directory, self._message)
        try:
            put_project(self._session, self._options.directory, self._lease)
        except BaseException:
            self._release()
            raise
        self._message["sandbox"] = self._lease

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease:
            self._release()

    def _release(self) -> None:
        """End the lease and wait until it has ended: a request that is on its way when we hang up may never be read.
        When the daemon does not answer any more, there is nobody to tell.
        """
        try:
            self._session.send({"cmd": "release", "id": self._lease})
            while self._session.receive()["type"] != "released":
                pass  # what a command that was cut off still had to say
        except Failure:
            return


def connected(path: str) -> socket.socket:
    """A connection to the daemon, which is started when nobody listens."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        from agentkernel.cli.starting import start_daemon

        start_daemon(path)
        try:
            connection.connect(path)
        except OSError as err:
            raise Failure(f"the daemon was started, but {path} does not answer: {err}") from None
    except OSError as err:
        raise Failure(
            f"cannot reach the daemon at {path}: {err}", "set AGENTKERNEL_SOCKET or AGENTKERNEL_HOME"
        ) from None
    return connection


def text_of(content: bytes) -> str:
    """Base64. By `binascii`: the module `base64` takes a millisecond to import, most of it for what nobody calls."""
    return binascii.b2a_base64(content, newline=False).decode()


def checked(reply: dict[str, object]) -> dict[str, object]:
    """The reply, unless it is an `error`."""
    if reply["type"] == "error":
        code = 124 if reply.get("code") == "timeout" else EXIT_OURS
        raise Failure(str(reply["message"]), str(reply.get("hint", "")), code)
    return reply


def gone(err: OSError | None) -> Failure:
    """The daemon hung up."""
    return Failure(f"the daemon ended the connection{f': {err}' if err else ''}", "see: agentkernel daemon logs")


def caught_signals() -> tuple[int, dict[int, object]]:
    """Turn the signals that we forward into bytes on a pipe; returns its read end and the former handlers."""
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    return wake, {number: signal.signal(number, lambda *_: None) for number in FORWARDED}


def restore_signals(wake: int, previous: dict[int, object]) -> None:
    """Undo `caught_signals`."""
    for number, handler in previous.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
    os.close(signal.set_wakeup_fd(-1))
    os.close(wake)
