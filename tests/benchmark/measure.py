"""The measuring: wrk drives one server at a time, in rounds in which the servers take turns."""

import math
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile

import psutil  # type: ignore[import-untyped] # it ships no types

from tests.benchmark.data import USERS, forget_new_tasks
from tests.benchmark.servers import Server, cpu_of
from tests.harness import Postgres

SCRIPT = Path(__file__).parent / "load.lua"
NEW = '{"title": "Buy groceries", "description": "Milk, eggs and bread"}'
MOST_RATE = 8000  # requests per second that no server reaches
CHANGES = '{"title": "Buy groceries today", "completed": true}'


@dataclass(frozen=True)
class Run:
    """What one server did in one round, or the medians of several."""

    rate: float  # requests per second
    p50: float  # milliseconds
    p95: float
    p99: float
    cpu: float  # microseconds of the server per request
    database_cpu: float  # microseconds of all of PostgreSQL per request
    memory: float  # peak of the server, MiB
    failures: float
    requests: float

    def times(self, other: "Run") -> float:
        """Return the throughput in terms of another's, who may have answered nothing at all."""
        return self.rate / other.rate if other.rate else math.inf


class Meter:
    """Drives servers of one PostgreSQL."""

    def __init__(self, database: Postgres, rounds: int, seconds: int) -> None:
        self.database = database
        self.rounds = rounds
        self.seconds = seconds
        self.failures = 0.0  # of all servers
        self.postmaster = postmaster(database)

    def drive(self, server: Server, operation: str, connections: int, seconds: int = 0) -> Run:
        """Let wrk ask one server for one operation."""
        if server.database and operation in ("create", "delete"):
            forget_new_tasks(self.database, server.database)
        seconds = seconds or self.seconds
        with NamedTemporaryFile("w+") as tokens:
            tokens.write("\n".join(tokens_for(server, operation, seconds)))
            tokens.flush()
            command = wrk(server, operation, connections, seconds, tokens.name)
            server.forget_peak()
            cpu = server.cpu()
            database_cpu = cpu_of(self.postmaster)
            output = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=120
            )
        cpu = server.cpu() - cpu
        database_cpu = cpu_of(self.postmaster) - database_cpu
        *_, last = output.stdout.splitlines()
        requests, duration, failures, p50, p95, p99 = map(float, last.split())
        self.failures += failures
        # wrk hangs up with one request under way on each connection, which the server works on too.
        worked_on = requests + connections
        return Run(
            rate=requests / duration,
            p50=p50,
            p95=p95,
            p99=p99,
            cpu=cpu / worked_on * 1e6,
            database_cpu=database_cpu / worked_on * 1e6,
            memory=server.peak(),
            failures=failures,
            requests=requests,
        )

    def measure(
        self, servers: Sequence[Server], operation: str, connections: int, seconds: int = 0
    ) -> list[Run]:
        """Drive the servers in turns; return the medians of each."""
        return [medians(runs) for runs in self.rounds_of(servers, operation, connections, seconds)]

    def rounds_of(
        self, servers: Sequence[Server], operation: str, connections: int, seconds: int = 0
    ) -> list[list[Run]]:
        """Drive the servers in turns; return the rounds of each."""
        runs: list[list[Run]] = [[] for _ in servers]
        for _ in range(self.rounds):
            for server, done in zip(servers, runs, strict=True):
                done.append(self.drive(server, operation, connections, seconds))
        return runs


def tokens_for(server: Server, operation: str, seconds: int) -> list[str]:
    """Return a token of each user, or as many as may be sent in this time, all unlike."""
    kind = "w" if operation in ("create", "delete") else "u"
    count = seconds * MOST_RATE if server.uses_tokens_once else USERS
    return [server.sign(f"{kind}{n % USERS + 1}", jti=uuid.uuid4().hex) for n in range(count)]


def wrk(server: Server, operation: str, connections: int, seconds: int, tokens: str) -> list[str]:
    """Return the command; behind `--` stand the arguments of load.lua."""
    body = CHANGES if operation == "update" else NEW
    return [
        "wrk",
        "--threads=1",
        f"--connections={connections}",
        f"--duration={seconds}s",
        "--timeout=30s",
        f"--script={SCRIPT}",
        server.url,
        "--",
        operation,
        str(server.size),
        body,
        tokens,
    ]


def medians(runs: list[Run]) -> Run:
    """Return the median of each figure, but all failures."""
    rows = [asdict(run) for run in runs]
    middle = {name: median(row[name] for row in rows) for name in rows[0]}
    middle["failures"] = sum(run.failures for run in runs)
    return Run(**middle)


def postmaster(database: Postgres) -> psutil.Process:
    """Return the first process of PostgreSQL, the parent of all others."""
    [(checkpointer,)] = database.execute(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    )
    return psutil.Process(checkpointer).parent()
