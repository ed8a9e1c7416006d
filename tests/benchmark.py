"""Measure the service beside a typical backend and two floors: `python -m tests.benchmark`. Needs Linux and wrk.

One wrk drives one server at a time, in rounds in which the servers take turns; a figure is the median of its rounds.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx
import jwt
import psutil  # type: ignore[import-untyped] # it ships no types
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backend.embedded import GRACE
from tests.harness import (
    FRONTEND,
    ROOT,
    Postgres,
    Proxy,
    environment_of_service,
    free_port,
    postgres,
    token,
)

OURS, TYPICAL, FLOORS = (
    "backend.main:app",
    "tests.typical:app",
    ("tests.floors:token", "tests.floors:empty"),
)
OPERATIONS = ("read", "list", "create", "update", "toggle", "delete")
FASTER = {
    "read": 3,
    "list": 3,
    "create": 4,
    "update": 4,
    "toggle": 4,
}  # the goals: times the typical throughput
CHEAPER = {
    "read": 2,
    "create": 2,
    "toggle": 2,
    "list": 4,
}  # and times the CPU of a route that verifies a token
USERS = 50
COMPARED, MANY = 32, 50  # connections
SECONDS_OF_DELAY = 0.02  # to the database and back
BODY = '{"title": "Buy groceries", "description": "Milk, eggs and bread"}'
CHANGES = '{"title": "Buy groceries today", "completed": true}'

# Users u1, u2, ... have `size` tasks each, with ids from 1 up; the tasks of w1, w2, ... come and go.
SEED = """
INSERT INTO users (id) SELECT kind || n FROM generate_series(1, {users}) n, (VALUES ('u'), ('w')) AS kinds (kind);
INSERT INTO users (id) SELECT 'other' || n FROM generate_series(0, 999) n;
INSERT INTO tasks (user_id, title, description, completed, created_at, updated_at)
SELECT owner, 'Task', 'Milk, eggs and bread', false, now(), now() FROM (
    SELECT 'u' || (n - 1) / {size} + 1 FROM generate_series(1, {users} * {size}) n
    UNION ALL SELECT 'other' || mod(n, 1000) FROM generate_series(1, {crowd}) n
) AS owners (owner)
"""
# Deleting, it creates where it knows of no task to delete: every other request is a POST.
LUA = """
local operation, size, body, tokens, made = nil, 0, nil, {}, {}

function init(args)
  operation, size, body = args[1], tonumber(args[2]), args[3]
  for i = 4, #args do tokens[i - 3] = args[i] end
  math.randomseed(os.time())
  if operation ~= "delete" then response = nil end -- it would only cost time
end

function request()
  local n = math.random(#tokens)
  local path = "/api/" .. ((operation == "create" or operation == "delete") and "w" or "u") .. n .. "/tasks"
  local task = path .. "/" .. ((n - 1) * size + math.random(size))
  local headers = {["Authorization"] = "Bearer " .. tokens[n], ["Content-Type"] = "application/json"}
  if operation == "read" then return wrk.format("GET", task, headers) end
  if operation == "list" then return wrk.format("GET", path, headers) end
  if operation == "update" then return wrk.format("PUT", task, headers, body) end
  if operation == "toggle" then return wrk.format("PATCH", task .. "/complete", headers) end
  if operation == "create" or #made == 0 then return wrk.format("POST", path, headers, body) end
  n, task = table.remove(made):match("(%d+) (%d+)")
  headers["Authorization"] = "Bearer " .. tokens[tonumber(n)]
  return wrk.format("DELETE", "/api/w" .. n .. "/tasks/" .. task, headers)
end

function response(status, headers, body)
  if status == 201 then made[#made + 1] = body:match('"user_id":"w(%d+)"') .. " " .. body:match('"id":(%d+)') end
end

function done(summary, latency, requests)
  local failures = 0
  for _, count in pairs(summary.errors) do failures = failures + count end
  io.write("\\n", summary.requests, " ", summary.duration / 1e6, " ", failures)
  for _, share in ipairs({50, 95, 99}) do io.write(" ", latency:percentile(share) / 1e3) end
end
"""

COLUMNS = ("requests/s", "times", "p50 ms", "p95 ms", "p99 ms", "CPU us", "MiB", "failures")


class Run(NamedTuple):
    rate: float  # requests per second
    p50: float  # milliseconds
    p95: float
    p99: float
    cpu: float  # microseconds of the server per request
    memory: float  # peak, MiB
    failures: float
    requests: float


@dataclass(frozen=True)
class Server:
    """One uvicorn with its workers, and how it is asked."""

    process: psutil.Popen
    url: str
    size: int = 100  # tasks of a user
    sign: Callable[[str], str] = token

    def tree(self) -> list[psutil.Process]:
        return (
            [self.process, *self.process.children(recursive=True)]
            if self.process.is_running()
            else []
        )

    def cpu(self) -> float:
        """Return the seconds of CPU spent, once it is at rest."""
        before = -1.0
        for _ in range(100):
            spent = sum(sum(process.cpu_times()[:2]) for process in self.tree())
            if spent == before:
                break
            before = spent
            time.sleep(0.05)
        return spent

    def peak(self, *, reset: bool = False) -> float:
        """Return the peak of resident memory in MiB, or begin to look for it anew."""
        total = 0
        for process in self.tree():
            if reset:
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += int(status.partition("VmHWM:")[2].split()[0])
        return total / 1024


class Keys(ThreadingHTTPServer):
    """The published key of a frontend that signs EdDSA."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        public = jwt.algorithms.OKPAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        published = json.dumps({"keys": [public | {"kid": "benchmark", "alg": "EdDSA"}]}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(published)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def sign(self, user: str) -> str:
        return token(
            user, key=self.key, algorithm="EdDSA", kid="benchmark", iss=FRONTEND, aud=FRONTEND
        )


@contextmanager
def running(app: str, *options: str, cwd: Path = ROOT, **environment: str) -> Iterator[Server]:
    """Start a uvicorn, wait for its first answer, and stop it."""
    port = str(free_port())
    command = (
        sys.executable,
        "-m",
        "uvicorn",
        app,
        "--port",
        port,
        "--no-access-log",
        "--log-level",
        "warning",
    )
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen(
            [*command, *options],
            cwd=cwd,
            env=environment_of_service(**environment),
            stdout=log,
            stderr=log,
        )
        server = Server(process, f"http://127.0.0.1:{port}")
        try:
            for _ in range(3000):
                with suppress(httpx.TransportError):
                    httpx.get(f"{server.url}/health", timeout=15)
                    break
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"{app} does not start: {log.read()}")
                time.sleep(0.01)
            yield server
        finally:
            tree = server.tree()
            process.terminate()
            for survivor in psutil.wait_procs(tree, 20)[1]:
                survivor.kill()


class Benchmark:
    """The scenarios, and what they share."""

    def __init__(self, database: Postgres, keys: Keys, script: str, *, quick: bool) -> None:
        self.database, self.keys, self.script = database, keys, script
        self.rounds, self.seconds = (1, 1) if quick else (3, 2)
        self.connections = (COMPARED, MANY) if quick else (1, COMPARED, MANY, 200)
        self.goals: list[list[str]] = []
        self.failures = 0.0

    @contextmanager
    def start(
        self, app: str, *options: str, size: int = 100, crowd: int = 0, port: int = 0
    ) -> Iterator[Server]:
        """Start a server on a new database with `crowd` rows of other users; `port` is that of a proxy to it."""
        url = self.database.create_database()
        address = url.replace(str(self.database.port), str(port or self.database.port))
        keys = f"http://127.0.0.1:{self.keys.server_port}"
        with running(app, *options, DATABASE_URL=address, BETTER_AUTH_JWKS_URL=keys) as server:
            if app not in FLOORS:
                self.database.execute(SEED.format(users=USERS, size=size, crowd=crowd), url=url)
                self.database.execute("VACUUM ANALYZE", url=url)
            started = replace(server, size=size)
            self.drive(started, "read", MANY)  # opens connections, fills caches
            yield started

    def drive(self, server: Server, operation: str, connections: int) -> Run:
        """Let wrk ask one server for one operation."""
        prefix = "w" if operation in ("create", "delete") else "u"
        tokens = [server.sign(f"{prefix}{n}") for n in range(1, USERS + 1)]
        limits = ("-t1", f"-c{connections}", f"-d{self.seconds}s", "--timeout=30s")
        arguments = (
            operation,
            str(server.size),
            CHANGES if operation == "update" else BODY,
            *tokens,
        )
        server.peak(reset=True)
        before = server.cpu()
        command = ["wrk", *limits, "-s", self.script, server.url, "--", *arguments]
        wrk = subprocess.run(command, check=True, capture_output=True, text=True, timeout=90)
        requests, seconds, failures, p50, p95, p99 = map(float, wrk.stdout.splitlines()[-1].split())
        self.failures += failures
        # wrk hangs up on what is under way, one request per connection: the server answers it all the same.
        cpu = (server.cpu() - before) / (requests + connections) * 1e6
        return Run(requests / seconds, p50, p95, p99, cpu, server.peak(), failures, requests)

    def measure(self, servers: Sequence[Server], operation: str, connections: int) -> list[Run]:
        """Drive the servers in turns; return the medians of each."""
        rounds = [
            [self.drive(server, operation, connections) for server in servers]
            for _ in range(self.rounds)
        ]
        return [
            Run(*map(median, zip(*runs, strict=True)))._replace(
                failures=sum(run.failures for run in runs)
            )
            for runs in zip(*rounds, strict=True)
        ]

    def goal(
        self, text: str, reached: dict[str, float], *, most: float = math.inf, least: float = 0
    ) -> None:
        met = all(least <= figure <= most for figure in reached.values())
        figures = ", ".join(f"{what} {figure:.3g}".strip() for what, figure in reached.items())
        self.goals.append([text, figures, "yes" if met else "no"])

    def operations(self) -> None:
        with ExitStack() as stack:
            servers = [stack.enter_context(self.start(app)) for app in (OURS, TYPICAL, *FLOORS)]
            for connections in self.connections:
                runs = {
                    operation: self.measure(servers[:2], operation, connections)
                    for operation in OPERATIONS[1:]
                }
                *runs["read"], floor, empty = self.measure(servers, "read", connections)
                rows = [
                    [operation, *cells(*runs[operation], floor=floor)] for operation in OPERATIONS
                ]
                rows += [
                    ["token only", *cells(floor, floor=floor)],
                    ["empty route", *cells(empty, floor=floor)],
                ]
                table(
                    f"{connections} connections, service / typical",
                    *COLUMNS,
                    "CPU / token only",
                    rows=rows,
                )
                if connections == COMPARED:
                    faster, cost = (
                        ratios(runs),
                        {what: runs[what][0].cpu / floor.cpu for what in CHEAPER},
                    )
                    for least in (3, 4):
                        reached = {what: faster[what] for what in FASTER if FASTER[what] == least}
                        self.goal(f"throughput / typical: at least {least}", reached, least=least)
                    for most in (2, 4):
                        reached = {what: cost[what] for what in CHEAPER if CHEAPER[what] == most}
                        self.goal(f"CPU / token only: at most {most}", reached, most=most)
                if connections == MANY:
                    late = {what: runs[what][0].p95 for what in OPERATIONS if what != "list"}
                    self.goal(f"p95 with {MANY} connections: at most 60 ms", late, most=60)

    def tokens(self) -> None:
        with self.start(OURS) as ours, self.start(TYPICAL) as typical:
            others = [replace(server, sign=self.keys.sign) for server in (ours, typical)]
            *hs256, service, by_typical = self.measure((ours, typical, *others), "read", COMPARED)
        rows = [["HS256", *cells(*hs256)], ["EdDSA", *cells(service, by_typical)]]
        table(f"read, {COMPARED} connections, service / typical", *COLUMNS, rows=rows)
        self.goal(
            "CPU with an EdDSA token / HS256: at most 1.15",
            {"": service.cpu / hs256[0].cpu},
            most=1.15,
        )

    def delay(self) -> None:
        with Proxy(self.database.port) as proxy, ExitStack() as stack:
            servers = [
                stack.enter_context(self.start(app, port=proxy.port)) for app in (OURS, TYPICAL)
            ]
            trips = {what: [0.0, 0.0] for what in OPERATIONS}
            for what in OPERATIONS:
                for n, server in enumerate(servers):
                    before = proxy.round_trips
                    requests = (
                        self.drive(server, what, 1).requests + 1
                    )  # the one that wrk hung up on
                    trips[what][n] = (proxy.round_trips - before) / requests
            proxy.delay = SECONDS_OF_DELAY
            runs = {what: self.measure(servers, what, MANY) for what in OPERATIONS}
        rows = [
            [what, " / ".join(f"{number:.1f}" for number in trips[what]), *cells(*runs[what])]
            for what in OPERATIONS
        ]
        title = f"{SECONDS_OF_DELAY * 1000:.0f} ms to the database, {MANY} connections, service / typical"
        table(title, "round trips", *COLUMNS, rows=rows)
        self.goal("round trips: 1", {what: round(trips[what][0], 1) for what in OPERATIONS}, most=1)
        self.goal("throughput / typical, with delay: at least 4", ratios(runs), least=4)
        self.goal(
            "p50 with delay: at most 60 ms",
            {what: runs[what][0].p50 for what in OPERATIONS},
            most=60,
        )

    def growth(self) -> None:
        crowds = (1_000, 100_000, 1_000_000)
        with ExitStack() as stack:
            servers = [
                stack.enter_context(self.start(OURS, size=20, crowd=crowd)) for crowd in crowds
            ]
            runs = {what: self.measure(servers, what, 1) for what in ("read", "list")}
        rows = [
            [f"{what}, {crowd:,}", *cells(run)]
            for what in runs
            for crowd, run in zip(crowds, runs[what], strict=True)
        ]
        table("rows of other users (list: 20 tasks), 1 connection", *COLUMNS, rows=rows)
        slower = {what: runs[what][0].rate / runs[what][2].rate for what in runs}
        self.goal("time with 1 million rows / 1 thousand: at most 1.2", slower, most=1.2)

    def workers(self) -> None:
        with self.start(OURS, "--workers", "2") as two, self.start(OURS) as one:
            runs = {
                what: self.measure((two, one), what, COMPARED)
                for what in ("read", "list", "create")
            }
        rows = [[what, *cells(*runs[what])] for what in runs]
        table(f"2 workers / 1 worker, {COMPARED} connections", *COLUMNS, rows=rows)
        self.goal("throughput of 2 workers / 1: at least 1", ratios(runs), least=1)

    def first(self) -> None:
        """Time a start until a list is answered: on no database, then on one that exists and does not run."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            shutil.copytree(ROOT / "backend", f"{directory}/backend")
            shutil.copy(ROOT / ".env", directory)
            seconds = []
            for _ in range(1 + self.rounds):
                began = time.monotonic()
                with running(OURS, cwd=Path(directory)) as server:
                    headers = {"Authorization": f"Bearer {token()}"}
                    httpx.get(
                        f"{server.url}/api/ada/tasks", headers=headers, timeout=15
                    ).raise_for_status()
                    seconds.append(time.monotonic() - began)
                stopped = time.monotonic() + GRACE + 10
                while (Path(directory) / ".postgres" / "data" / "postmaster.pid").exists():
                    assert time.monotonic() < stopped, "the embedded PostgreSQL does not stop"
                    time.sleep(0.05)
        warm = median(seconds[1:])
        table(
            "start to first answer",
            "seconds",
            rows=[["new", f"{seconds[0]:.1f}"], ["warm", f"{warm:.1f}"]],
        )
        self.goal("start to first answer, warm: at most 2.5 s", {"": warm}, most=2.5)


def ratios(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Return the throughput of the first of each two servers, in terms of the other's."""
    return {operation: times(one, other) for operation, (one, other) in runs.items()}


def times(one: Run, other: Run) -> float:
    """Return one's throughput in terms of the other's, which may answer nothing at all."""
    return one.rate / other.rate if other.rate else math.inf


def cells(*runs: Run, floor: Run | None = None) -> list[str]:
    """Return what stands under COLUMNS, as "one / other" for two runs, and the CPU in terms of a floor's."""
    rate, *others = [
        " / ".join(f"{figure:,.{digits}f}" for figure in figures)
        for figures, digits in zip(zip(*runs, strict=True), (0, 1, 1, 1, 0, 0, 0), strict=False)
    ]
    faster = f"{times(runs[0], runs[1]):.1f}" if len(runs) > 1 else ""
    return [rate, faster, *others, *([f"{runs[0].cpu / floor.cpu:.1f}"] if floor else [])]


def table(*header: str, rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    for row in header, ["---", *["---:"] * (len(header) - 1)], *rows:
        print("|", " | ".join(row), "|", flush=True)
    print()


def main() -> None:
    scenarios = ("operations", "tokens", "delay", "growth", "workers", "first")
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark", description="Measure the service; print tables."
    )
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument(
        "--only",
        choices=scenarios,
        action="append",
        help="this scenario, and no other not named so",
    )
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("The benchmark needs wrk (apt-get install wrk).")
    with (
        postgres(durable=True) as database,
        tempfile.NamedTemporaryFile("w", suffix=".lua") as script,
        Keys() as keys,
    ):
        script.write(LUA)
        script.flush()
        version = database.execute("SHOW server_version")[0][0]
        memory = psutil.virtual_memory().total / 2**30
        print(
            f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, PostgreSQL {version}\n"
        )
        benchmark = Benchmark(database, keys, script.name, quick=options.quick)
        for scenario in options.only or scenarios:
            getattr(benchmark, scenario)()
        benchmark.goal("failed requests, of any server: 0", {"": benchmark.failures}, most=0)
        keys.shutdown()
    table("goal", "reached", "met", rows=benchmark.goals)


if __name__ == "__main__":
    main()
