"""What is measured, one method for each table."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import httpx

from tests.benchmark.data import add_crowd, seed
from tests.benchmark.measure import Meter, Run
from tests.benchmark.report import COLUMNS, Goals, cells, table
from tests.benchmark.servers import (
    EMPTY_ROUTE,
    SERVICE,
    TOKEN_ONLY,
    TYPICAL,
    Keys,
    Server,
    running,
)
from tests.harness import ROOT, Postgres, Proxy, token

OPERATIONS = ["read", "list", "create", "update", "toggle", "delete"]
FAST = ["read", "list", "create", "update", "toggle"]  # those with a goal
LEAST_TIMES = 7  # the throughput of the typical backend
MOST_CPU = {"read": 1.5, "toggle": 1.5, "create": 1.8, "update": 1.8, "list": 2.0}  # of the floor
CONNECTIONS = 50
MANY_CONNECTIONS = 200
ROUND_TRIP = 0.02  # seconds to the database and back, where there is a delay
FEW_ROWS = 1_000  # of other users
MANY_ROWS = 10_000_000

Pairs = dict[str, list[Run]]  # for each operation the service and the one it is compared with


class Benchmark:
    def __init__(self, database: Postgres, keys: Keys, meter: Meter) -> None:
        self.database = database
        self.keys = keys
        self.meter = meter
        self.goals = Goals()
        self.compared: dict[str, list[Run]] = {}  # what the picture shows

    @contextmanager
    def start(
        self, app: str, *options: str, size: int = 100, crowd: int = 0, port: int = 0
    ) -> Iterator[Server]:
        """Start a server on a new database; `port` is that of a proxy to PostgreSQL."""
        url = self.database.create_database()
        address = url.replace(f":{self.database.port}/", f":{port or self.database.port}/")
        settings = {"DATABASE_URL": address, "BETTER_AUTH_JWKS_URL": self.keys.url}
        with running(app, *options, **settings) as process:
            server = replace(process, database=url, size=size)
            make_user(server, "first")
            seed(self.database, url, model="first", size=size)
            if crowd:
                add_crowd(self.database, url, crowd)
            self.meter.drive(server, "read", CONNECTIONS, seconds=1)  # opens connections
            yield server
        name = url.rpartition("/")[2]
        self.database.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def operations(self) -> None:
        """Compare every operation with the typical backend and, in CPU, with the floors."""
        runs: Pairs = {}
        with (
            self.start(SERVICE) as service,
            self.start(TYPICAL) as typical,
            running(TOKEN_ONLY) as token_only,
            running(EMPTY_ROUTE) as empty_route,
        ):
            for operation in OPERATIONS:
                runs[operation] = self.meter.measure([service, typical], operation, CONNECTIONS)
            floors = [service, token_only, empty_route]
            _, floor, empty = self.meter.measure(floors, "read", CONNECTIONS)
        rows = []
        for operation, pair in runs.items():
            rows.append([operation, *cells(*pair), f"{pair[0].cpu / floor.cpu:.2f}"])
        rows.append(["token only", *cells(floor), "1.00"])
        rows.append(["empty route", *cells(empty), f"{empty.cpu / floor.cpu:.2f}"])
        title = f"{CONNECTIONS} connections, service / typical"
        table([title, *COLUMNS, "CPU / token only"], rows)
        self.compared = runs | {"token only": [floor], "empty route": [empty]}
        self._judge(runs, floor)

    def _judge(self, runs: Pairs, floor: Run) -> None:
        faster = {name: runs[name][0].times(runs[name][1]) for name in FAST}
        self.goals.at_least(LEAST_TIMES, "throughput / typical", faster)
        for limit in sorted(set(MOST_CPU.values())):
            names = [name for name in FAST if MOST_CPU[name] == limit]
            cpu = {name: runs[name][0].cpu / floor.cpu for name in names}
            self.goals.at_most(limit, "CPU / token only", cpu)
        p95 = {name: runs[name][0].p95 for name in FAST}
        p99 = {name: runs[name][0].p99 for name in FAST}
        self.goals.at_most(30, f"p95 ms at {CONNECTIONS} connections", p95)
        self.goals.at_most(60, f"p99 ms at {CONNECTIONS} connections", p99)

    def tokens(self) -> None:
        """Compare tokens signed with a published key with those signed with the secret."""
        with self.start(SERVICE) as server:
            signed = replace(server, sign=self.keys.sign)
            eddsa, hs256 = self.meter.measure([signed, server], "read", CONNECTIONS)
        title = f"read, {CONNECTIONS} connections"
        table([title, *COLUMNS], [["EdDSA", *cells(eddsa)], ["HS256", *cells(hs256)]])
        self.goals.at_most(1.15, "CPU with EdDSA / HS256", {"": eddsa.cpu / hs256.cpu})

    def delay(self) -> None:
        """Put a distance between the servers and the database."""
        runs: Pairs = {}
        trips: dict[str, list[float]] = {}
        with Proxy(self.database.port) as proxy, ExitStack() as stack:
            servers = [
                stack.enter_context(self.start(app, port=proxy.port)) for app in (SERVICE, TYPICAL)
            ]
            for operation in OPERATIONS:
                trips[operation] = [self._trips(proxy, one, operation) for one in servers]
            proxy.delay = ROUND_TRIP
            for operation in OPERATIONS:
                runs[operation] = self.meter.measure(servers, operation, CONNECTIONS, seconds=1)
        rows = []
        for operation, pair in runs.items():
            counted = " / ".join(f"{count:.1f}" for count in trips[operation])
            rows.append([operation, counted, *cells(*pair)])
        distance = f"{ROUND_TRIP * 1000:.0f} ms to the database"
        title = f"{distance}, {CONNECTIONS} connections, service / typical"
        table([title, "round trips", *COLUMNS], rows)
        counted_once = {name: round(trips[name][0], 1) for name in OPERATIONS}
        self.goals.at_most(1, "round trips", counted_once)
        p50 = {name: run[0].p50 for name, run in runs.items()}
        self.goals.at_most(60, f"p50 ms, {distance}", p50)

    def _trips(self, proxy: Proxy, server: Server, operation: str) -> float:
        """Return the round trips of one request to the database."""
        before = proxy.round_trips
        run = self.meter.drive(server, operation, connections=1, seconds=1)
        requests = run.requests + 1  # wrk hangs up on the last
        return (proxy.round_trips - before) / requests

    def growth(self) -> None:
        """Compare few rows of other users with many."""
        began = time.monotonic()
        with (
            self.start(SERVICE, size=20, crowd=MANY_ROWS) as large,
            self.start(SERVICE, size=20, crowd=FEW_ROWS) as small,
        ):
            print(f"{MANY_ROWS:,} rows were made in {time.monotonic() - began:.0f} s.\n")
            runs = {name: self.meter.measure([large, small], name, 1) for name in ("read", "list")}
        rows = []
        for name, (among_many, among_few) in runs.items():
            rows.append([f"{name}, {MANY_ROWS:,}", *cells(among_many)])
            rows.append([f"{name}, {FEW_ROWS:,}", *cells(among_few)])
        table(["rows of other users (list: 20 tasks), 1 connection", *COLUMNS], rows)
        slower = {name: few.times(many) for name, (many, few) in runs.items()}
        self.goals.at_most(1.2, f"time with {MANY_ROWS:,} rows / {FEW_ROWS:,}", slower)

    def connections(self) -> None:
        """Open many connections at once."""
        with self.start(SERVICE) as server:
            runs = {
                name: self.meter.measure([server], name, MANY_CONNECTIONS, seconds=1)[0]
                for name in FAST
            }
        rows = [[name, *cells(run)] for name, run in runs.items()]
        table([f"{MANY_CONNECTIONS} connections", *COLUMNS], rows)
        failures = {name: run.failures for name, run in runs.items()}
        self.goals.at_most(0, f"failures at {MANY_CONNECTIONS} connections", failures)

    def workers(self) -> None:
        """Compare two workers with one."""
        with self.start(SERVICE, "--workers", "2") as two, self.start(SERVICE) as one:
            runs = {
                name: self.meter.measure([two, one], name, CONNECTIONS, seconds=1)
                for name in ("read", "list", "create")
            }
        rows = [[name, *cells(*pair)] for name, pair in runs.items()]
        table([f"2 workers / 1 worker, {CONNECTIONS} connections", *COLUMNS], rows)
        faster = {name: pair[0].times(pair[1]) for name, pair in runs.items()}
        self.goals.at_least(1, "throughput of 2 workers / 1", faster)

    def first(self) -> None:
        """Time a start with the embedded database until a list is answered."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            shutil.copytree(ROOT / "backend", f"{directory}/backend")
            shutil.copy(ROOT / ".env", directory)
            cold = seconds_to_first_answer(directory)
            warm = median(seconds_to_first_answer(directory) for _ in range(self.meter.rounds))
        rows = [["new database", f"{cold:.1f}"], ["later", f"{warm:.1f}"]]
        table(["start to first answer", "seconds"], rows)
        self.goals.at_most(2.5, "seconds from start to first answer", {"": warm})


def make_user(server: Server, user: str) -> None:
    """Let the server make a user's row, with a task."""
    httpx.post(
        f"{server.url}/api/{user}/tasks",
        json={"title": "The first"},
        headers={"Authorization": f"Bearer {token(user)}"},
        timeout=15,
    ).raise_for_status()


def seconds_to_first_answer(directory: str) -> float:
    began = time.monotonic()
    with running(SERVICE, cwd=Path(directory)) as server:
        answer = httpx.get(
            f"{server.url}/api/ada/tasks",
            headers={"Authorization": f"Bearer {token()}"},
            timeout=15,
        )
        seconds = time.monotonic() - began
    answer.raise_for_status()
    return seconds
