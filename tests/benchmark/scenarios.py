"""What is measured, one method for each table."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import httpx

from tests.benchmark.data import add_crowd, seed
from tests.benchmark.measure import Meter, Run
from tests.benchmark.report import COLUMNS, Goals, beside, cells, table
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
MOST_CPU = {1.5: ["read", "toggle"], 1.8: ["create", "update"]}  # of the floor
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
        self,
        app: str,
        *options: str,
        size: int = 100,
        crowd: int = 0,
        port: int = 0,
        cwd: Path = ROOT,
    ) -> Iterator[Server]:
        """Start a server on a new database; `port` is that of a proxy to PostgreSQL."""
        url = self.database.create_database()
        address = url.replace(f":{self.database.port}/", f":{port or self.database.port}/")
        keys = self.keys.url
        settings = {"DATABASE_URL": address, "BETTER_AUTH_JWKS_URL": keys}
        with running(app, *options, cwd=cwd, **settings) as process:
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
            servers = [service, typical, token_only, empty_route]
            *runs["read"], floor, empty = self.meter.measure(servers, "read", CONNECTIONS)
            for name in OPERATIONS[1:]:
                runs[name] = self.meter.measure([service, typical], name, CONNECTIONS)
        self.compared = runs | {"token only": [floor], "empty route": [empty]}
        rows = []
        for name, compared in self.compared.items():
            cost = compared[0].cpu / floor.cpu
            rows.append([name, *cells(*compared), f"{cost:.2f}"])
        title = f"{CONNECTIONS} connections, service / typical"
        table([title, *COLUMNS, "CPU / token only"], rows)
        self._judge(runs, floor)

    def _judge(self, runs: Pairs, floor: Run) -> None:
        judged = {name: runs[name] for name in FAST}
        for limit, names in MOST_CPU.items():
            cost = {}
            for name in names:
                service, _ = runs[name]
                cost[name] = service.cpu / floor.cpu
            self.goals.at_most(limit, "CPU / token only", cost)
        at = f"at {CONNECTIONS} connections"
        self.goals.at_most(30, f"p95 ms {at}", of_service(judged, "p95"))
        self.goals.at_most(60, f"p99 ms {at}", of_service(judged, "p99"))

    def tokens(self) -> None:
        """Compare tokens by what signed them, and new ones with remembered ones."""
        rows = []
        with self.start(SERVICE) as hs256:
            eddsa = replace(hs256, sign=self.keys.sign)
            for name in ("read", "create", "update", "toggle"):
                kinds = {"EdDSA": eddsa, "HS256": hs256}
                once = {
                    f"{kind}, used once": replace(server, uses_tokens_once=True)
                    for kind, server in kinds.items()
                }
                servers = kinds | once
                runs = self.meter.measure(list(servers.values()), name, CONNECTIONS)
                for kind, run in zip(servers, runs, strict=True):
                    rows.append([f"{name}, {kind}", *cells(run)])
        table([f"tokens, {CONNECTIONS} connections", *COLUMNS], rows)

    def against(self, other: Path) -> None:
        """Compare this tree with another one, slice by slice, in the medians of their ratios."""
        rows = []
        with self.start(SERVICE) as ours, self.start(SERVICE, cwd=other) as theirs:
            pairs = [(name, ours, theirs) for name in FAST]
            once = [replace(server, uses_tokens_once=True) for server in (ours, theirs)]
            pairs += [(f"{name}, tokens used once", *once) for name in FAST if name != "list"]
            for name, *servers in pairs:
                operation = name.partition(",")[0]
                rounds = self.meter.rounds_of(servers, operation, CONNECTIONS)
                rows.append(
                    [name, *(compared(rounds, figure) for figure in ("rate", "cpu", "p95"))]
                )
        header = [f"this tree / {other}", "requests/s", "CPU us", "p95 ms"]
        table(header, rows)

    def delay(self) -> None:
        """Put a distance between the servers and the database."""
        runs: Pairs = {}
        trips: dict[str, list[float]] = {}
        with (
            Proxy(self.database.port) as proxy,
            self.start(SERVICE, port=proxy.port) as service,
            self.start(TYPICAL, port=proxy.port) as typical,
        ):
            servers = [service, typical]
            for name in OPERATIONS:
                trips[name] = [self._trips(proxy, server, name) for server in servers]
            proxy.delay = ROUND_TRIP
            for name in OPERATIONS:
                runs[name] = self.meter.measure(servers, name, CONNECTIONS, seconds=1)
        rows = []
        for name, pair in runs.items():
            rows.append([name, beside(trips[name], digits=1), *cells(*pair)])
        distance = f"{ROUND_TRIP * 1000:.0f} ms to the database"
        title = f"{distance}, {CONNECTIONS} connections, service / typical"
        table([title, "round trips", *COLUMNS], rows)
        counted = {name: round(of_both[0], 1) for name, of_both in trips.items()}
        self.goals.at_most(1, "round trips", counted)
        self.goals.at_most(60, f"p50 ms, {distance}", of_service(runs, "p50"))

    def _trips(self, proxy: Proxy, server: Server, operation: str) -> float:
        """Return the round trips of one request to the database."""
        before = proxy.round_trips
        run = self.meter.drive(server, operation, connections=1, seconds=1)
        requests = run.requests + 1  # wrk hangs up on the last
        return (proxy.round_trips - before) / requests

    def growth(self) -> None:
        """Compare few rows of other users with many."""
        with (
            self.start(SERVICE, size=20, crowd=MANY_ROWS) as large,
            self.start(SERVICE, size=20, crowd=FEW_ROWS) as small,
        ):
            runs = {}
            for name in ("read", "list"):
                runs[name] = self.meter.measure([large, small], name, connections=1)
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
            runs = {}
            for name in FAST:
                runs[name] = self.meter.measure([server], name, MANY_CONNECTIONS, seconds=1)
        rows = [[name, *cells(run)] for name, [run] in runs.items()]
        title = f"{MANY_CONNECTIONS} connections"
        table([title, *COLUMNS], rows)
        self.goals.at_most(0, f"failures at {title}", of_service(runs, "failures"))


def times(runs: Pairs) -> dict[str, float]:
    """Return the throughput of the first of each pair, in terms of the second's."""
    return {name: one.times(other) for name, (one, other) in runs.items()}


def of_service(runs: Pairs, quantity: str) -> dict[str, float]:
    """Return one figure of the first of each pair."""
    return {name: getattr(pair[0], quantity) for name, pair in runs.items()}


def compared(rounds: list[list[Run]], figure: str) -> str:
    """Return the medians of a figure of two servers, and the median of its ratio in each round."""
    ones, others = ([getattr(run, figure) for run in runs] for runs in rounds)
    ratio = median(one / other for one, other in zip(ones, others, strict=True))
    return f"{median(ones):,.0f} / {median(others):,.0f} ({ratio:.2f})"


def make_user(server: Server, user: str) -> None:
    """Let the server make a user's row, with a task."""
    httpx.post(
        f"{server.url}/api/{user}/tasks",
        json={"title": "The first"},
        headers={"Authorization": f"Bearer {token(user)}"},
        timeout=15,
    ).raise_for_status()
