"""The measuring: wrk drives one server at a time, in rounds in which the servers take turns."""

import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile

import psutil  # type: ignore[import-untyped] # it ships no types

from tests.benchmark.data import USERS, renew_tasks_of_writers
from tests.benchmark.servers import Server, cpu_of
from tests.harness import Postgres

SCRIPT = Path(__file__).parent / "load.lua"
MOST_RATE = 8000  # requests per second that no server with a database reaches


@dataclass(frozen=True)
class Run:
    """What one server did in one round, or the medians of several."""

    rate: float  # requests per second
    p50: float  # milliseconds
    p95: float
    p99: float
    cpu: float  # microseconds of the server per request
    database_cpu: float  # microseconds of all of PostgreSQL per request
    failures: float
    requests: float


class Meter:
    """Drives servers of one PostgreSQL."""

    def __init__(self, database: Postgres, rounds: int, seconds: int) -> None:
        self.database = database
        self.rounds = rounds
        self.seconds = seconds
        self.failures = 0.0  # of all servers
        first_line, *_ = (database.data / "postmaster.pid").read_text().splitlines()
        self.postmaster = psutil.Process(int(first_line))

    def drive(self, server: Server, operation: str, connections: int, seconds: int = 0) -> Run:
        """Let wrk ask one server for one operation."""
        seconds = seconds or self.seconds
        most = seconds * MOST_RATE
        if operation in ("create", "delete"):
            count = most if operation == "delete" else 0
            renew_tasks_of_writers(self.database, server.database, count)
        with NamedTemporaryFile("w+") as tokens:
            count = most if server.uses_tokens_once else USERS
            tokens.write("\n".join(tokens_for(server, operation, count)))
            tokens.flush()
            load = ["--threads=1", f"--connections={connections}", f"--duration={seconds}s"]
            script = ["--timeout=30s", f"--script={SCRIPT}", server.url, "--"]
            arguments = [operation, tokens.name]
            cpu = server.cpu()
            database_cpu = cpu_of(self.postmaster)
            output = subprocess.run(
                ["wrk", *load, *script, *arguments],
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            )
        cpu = server.cpu() - cpu
        database_cpu = cpu_of(self.postmaster) - database_cpu
        *_, last = output.stdout.splitlines()
        requests, duration, failures, p50, p95, p99 = map(float, last.split())
        # wrk hangs up with one request under way on each connection, which the server works on too.
        worked_on = requests + connections
        assert worked_on < most or not server.uses_tokens_once, "a token was sent twice"
        self.failures += failures
        return Run(
            rate=requests / duration,
            p50=p50,
            p95=p95,
            p99=p99,
            cpu=cpu / worked_on * 1e6,
            database_cpu=database_cpu / worked_on * 1e6,
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
        rounds = [
            [self.drive(server, operation, connections, seconds) for server in servers]
            for _ in range(self.rounds)
        ]
        return [list(runs) for runs in zip(*rounds, strict=True)]


def tokens_for(server: Server, operation: str, count: int) -> list[str]:
    """Return tokens of the users in turns, all unlike."""
    kind = "w" if operation in ("create", "delete") else "u"
    return [server.sign(f"{kind}{n % USERS + 1}", jti=uuid.uuid4().hex) for n in range(count)]


def medians(runs: list[Run]) -> Run:
    """Return the median of each figure, but all failures."""
    rows = [asdict(run) for run in runs]
    middle = {name: median(row[name] for row in rows) for name in rows[0]}
    middle["failures"] = sum(run.failures for run in runs)
    return Run(**middle)
