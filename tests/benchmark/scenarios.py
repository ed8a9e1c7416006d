"""What is measured, one method for each table."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from tests.benchmark.data import seed
from tests.benchmark.measure import Meter, Run
from tests.benchmark.report import COLUMNS, beside, table, table_of_runs
from tests.benchmark.servers import SERVICE, TYPICAL, Server, running
from tests.harness import FRONTEND, ROOT, Postgres, Proxy
from tests.keys import KeyServer

ONE_TASK = ["read", "create", "update", "toggle"]
OPERATIONS = ["read", "list", "create", "update", "toggle", "delete"]
CONNECTIONS = 50
ROUND_TRIP = 0.02  # seconds to the database and back, where there is a delay
AGAINST = ["requests/s", "CPU us", "p95 ms"]  # what is compared of two trees

Rows = dict[str, list[Run]]  # two in each row, such as the service and the typical backend


class Benchmark:
    def __init__(self, database: Postgres, keys: KeyServer, meter: Meter) -> None:
        self.database = database
        self.keys = keys
        self.meter = meter
        self.compared: Rows = {}  # what the picture shows

    @contextmanager
    def start(
        self, app: str, *, proxy: Proxy | None = None, folder: Path = ROOT
    ) -> Iterator[Server]:
        """Start a server on a new database, maybe with a proxy between the two."""
        url = self.database.create_database()
        address = proxy.address(url) if proxy else url
        settings = {"NEON_DATABASE_URL": address, "BETTER_AUTH_JWKS_URL": self.keys.url}
        with running(app, folder, **settings) as process:
            server = replace(process, database=url)
            seed(self.database, url)
            self.meter.drive(server, "read", CONNECTIONS, seconds=1)  # opens connections
            yield server
        name = url.rpartition("/")[2]
        self.database.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def operations(self) -> None:
        """Compare every operation with the typical backend."""
        with self.start(SERVICE) as service, self.start(TYPICAL) as typical:
            for name in OPERATIONS:
                self.compared[name] = self.meter.measure([service, typical], name, CONNECTIONS)
        title = f"{CONNECTIONS} connections, service / typical"
        table_of_runs(title, self.compared, {"times": times(self.compared)})

    def tokens(self) -> None:
        """Compare tokens that are used once with tokens that are used again and again."""
        rows: Rows = {}
        with self.start(SERVICE) as server:
            sign = partial(self.keys.sign, iss=FRONTEND, aud=FRONTEND)
            eddsa = replace(server, sign=sign)
            kinds = [(server, "HS256", name) for name in ONE_TASK] + [(eddsa, "EdDSA", "read")]
            for again, kind, name in kinds:
                once = replace(again, uses_tokens_once=True)
                rows[f"{name}, {kind}"] = self.meter.measure([once, again], name, CONNECTIONS)
        table_of_runs(f"{CONNECTIONS} connections, tokens used once / again and again", rows)

    def delay(self) -> None:
        """Put a distance between the servers and the database, and count the round trips."""
        rows: Rows = {}
        trips: dict[str, list[float]] = {}
        with (
            Proxy(self.database.port) as proxy,
            self.start(SERVICE, proxy=proxy) as service,
            self.start(TYPICAL, proxy=proxy) as typical,
        ):
            servers = [service, typical]
            for name in OPERATIONS:
                trips[name] = [self.trips(proxy, server, name) for server in servers]
            proxy.delay = ROUND_TRIP
            for name in OPERATIONS:
                rows[name] = self.meter.measure(servers, name, CONNECTIONS, seconds=1)
        counted = {name: beside(of_both, digits=1) for name, of_both in trips.items()}
        distance = f"{ROUND_TRIP * 1000:.0f} ms to the database"
        title = f"{distance}, {CONNECTIONS} connections, service / typical"
        table_of_runs(title, rows, {"times": times(rows), "round trips": counted})

    def trips(self, proxy: Proxy, server: Server, operation: str) -> float:
        """Return the round trips of one request to the database."""
        before = proxy.round_trips
        run = self.meter.drive(server, operation, connections=1, seconds=1)
        requests = run.requests + 1  # wrk hangs up on the last
        return (proxy.round_trips - before) / requests

    def against(self, other: Path) -> None:
        """Compare this tree with another one: the medians of both and of their ratios."""
        rows = []
        with self.start(SERVICE) as ours, self.start(SERVICE, folder=other) as theirs:
            again = [ours, theirs]
            once = [replace(server, uses_tokens_once=True) for server in again]
            slices = [(name, name, again) for name in OPERATIONS[:-1]]
            slices += [(f"{name}, tokens used once", name, once) for name in ONE_TASK]
            for title, name, servers in slices:
                rounds = self.meter.rounds_of(servers, name, CONNECTIONS)
                rows.append([title, *(ratio(rounds, column) for column in AGAINST)])
        table([f"this tree / {other.name} (ratio)", *AGAINST], rows)


def ratio(rounds: list[list[Run]], column: str) -> str:
    """Return a figure's medians of two servers, and the median of its ratios in the rounds."""
    quantity, digits = COLUMNS[column]
    ones, others = ([getattr(run, quantity) for run in runs] for runs in rounds)
    ratios = [one / other for one, other in zip(ones, others, strict=True)]
    return f"{beside([median(ones), median(others)], digits)} ({median(ratios):.2f})"


def times(rows: Rows) -> dict[str, str]:
    """Return the throughput of the first of each pair, in terms of the second's."""
    return {name: f"{one.rate / other.rate:.1f}" for name, (one, other) in rows.items()}
