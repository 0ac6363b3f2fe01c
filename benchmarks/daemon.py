"""The daemon itself: round trips of `status`, requests per second, execs in simulated guests, coding and decoding."""

from __future__ import annotations

import multiprocessing
import socket
import sys
import time
from collections.abc import Callable

from common import Daemon, Report, arguments, daemon, say, timed_ms

from agentkernel.client import Connection
from agentkernel.protocol.codec import decode_reply, decode_request, encode_reply

STATUS = b'{"cmd":"status"}\n'
EXEC = b'{"cmd":"exec","runtime":"base","command":["true"],"sandbox":"%s"}\n'
CLIENTS = 8


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=3000, seconds=3)
    report = Report("daemon")
    with daemon(simulated=True) as running, running.connect() as connection:
        connection.ask("prewarm", compatibility_mode="native")
        say("status round trips")
        report.add("status round trip", _round_trips(running, STATUS, options.rounds))
        with running.connect() as typed:
            report.add(
                "status round trip, through client/", [timed_ms(lambda: typed.ask("status")) for _ in range(500)]
            )
        report.add("connect, status, hang up", [timed_ms(lambda: _one_shot(running)) for _ in range(500)])
        say(f"requests per second, {CLIENTS} clients")
        report.add(f"status, {CLIENTS} clients, one at a time", _per_second(running, options.seconds, 1), "1/s")
        report.add(f"status, {CLIENTS} clients, 16 pipelined", _per_second(running, options.seconds, 16), "1/s")
        say("exec in simulated guests")
        lease = connection.ask("acquire", runtime="base")["id"]
        report.add("exec over a lease", _round_trips(running, EXEC % lease.encode(), options.rounds // 3))
        connection.ask("release", id=lease)
        report.add("exec in a fresh sandbox", _fresh(running, connection, options.rounds // 15))
        report.stages("  by stage, both: ", running.timings())
        _coding(report, connection)
    report.finish(as_json=options.json)


def _round_trips(running: Daemon, line: bytes, rounds: int) -> list[float]:
    with _plain(running) as client:
        for _ in range(50):
            _trip(client, line)
        return [timed_ms(lambda: _trip(client, line)) for _ in range(rounds)]


def _plain(running: Daemon) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(running.home / "daemon.sock"))
    return client


def _trip(client: socket.socket, line: bytes) -> None:
    client.sendall(line)
    while not client.recv(65536).endswith(b"\n"):
        pass


def _one_shot(running: Daemon) -> None:
    with _plain(running) as client:
        _trip(client, STATUS)


def _fresh(running: Daemon, connection: Connection, rounds: int) -> list[float]:
    samples = []
    for _ in range(rounds):
        running.wait_warm(connection)
        samples.append(timed_ms(lambda: connection.ask("exec", runtime="base", command=["true"])))
    return samples


# --- requests per second ----------------------------------------------------------------------------------------------


def _per_second(running: Daemon, seconds: int, pipelined: int) -> list[float]:
    """One figure a second: answers to all clients together. Clients are processes, as they are in life."""
    context = multiprocessing.get_context("fork")
    counts = context.Array("q", CLIENTS)
    workers = [context.Process(target=_hammer, args=(running, counts, number, pipelined)) for number in range(CLIENTS)]
    for worker in workers:
        worker.start()
    rates = []
    try:
        time.sleep(0.5)
        for _ in range(seconds):
            before, began = sum(counts), time.perf_counter()
            time.sleep(1)
            rates.append((sum(counts) - before) / (time.perf_counter() - began))
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return rates


def _hammer(running: Daemon, counts: list[int], number: int, pipelined: int) -> None:
    with _plain(running) as client:
        batch = STATUS * pipelined
        while True:
            client.sendall(batch)
            answered = 0
            while answered < pipelined:
                answered += client.recv(262_144).count(b"\n")
            counts[number] += answered


# --- coding -----------------------------------------------------------------------------------------------------------


def _coding(report: Report, connection: Connection) -> None:
    connection.send({"cmd": "status"})
    reply = decode_reply(connection._lines.readline())
    line = STATUS.strip()

    def batch_us(action: Callable[[], object]) -> list[float]:
        samples = []
        for _ in range(200):
            began = time.perf_counter()
            for _ in range(100):
                action()
            samples.append((time.perf_counter() - began) * 10_000)
        return samples

    report.add("decode `status`", batch_us(lambda: decode_request(line)), "us")
    report.add("encode its reply", batch_us(lambda: encode_reply(reply)), "us")
    share = (report.p50("decode `status`") + report.p50("encode its reply")) / 10 / report.p50("status round trip")
    report.note(f"decode and encode are {share:.1f} % of a status round trip")


if __name__ == "__main__":
    sys.exit(main())
