"""Measure the service beside a typical backend and two floors: `python -m tests.benchmark`.

It needs Linux, wrk, and what tests/system/requirements.txt names.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it ships no types

from tests.benchmark.measure import Meter
from tests.benchmark.report import save
from tests.benchmark.scenarios import Benchmark
from tests.benchmark.servers import serving_keys
from tests.harness import Postgres, postgres

SCENARIOS = ["operations", "connections", "tokens", "delay", "growth"]
SETTINGS = ["server_version", "fsync", "synchronous_commit", "shared_buffers"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument(
        "--only",
        choices=SCENARIOS,
        action="append",
        help="this scenario, and no other that is not named so",
    )
    help_text = "compare with the service of another working tree, and measure nothing else"
    parser.add_argument("--against", type=Path, metavar="DIR", help=help_text)
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("The benchmark needs wrk (apt-get install wrk).")
    if not find_spec("matplotlib"):
        sys.exit("The benchmark needs what tests/system/requirements.txt names.")
    rounds, seconds = (1, 1) if options.quick else (5, 2)
    with postgres(durable=True) as database, serving_keys() as keys:
        print(surroundings(database), f"{rounds} rounds of {seconds} s.\n")
        benchmark = Benchmark(database, keys, Meter(database, rounds, seconds))
        if options.against:
            benchmark.against(options.against.resolve())
            return
        for scenario in options.only or SCENARIOS:
            getattr(benchmark, scenario)()
    benchmark.goals.at_most(0, "failed requests, of any server", {"": benchmark.meter.failures})
    benchmark.goals.print()
    if benchmark.compared and not options.quick:
        save(benchmark.compared)
        subprocess.run([sys.executable, "-m", "tests.benchmark.picture"], check=True)


def surroundings(database: Postgres) -> str:
    """Return on what this runs."""
    memory = psutil.virtual_memory().total / 2**30
    settings = []
    for name in SETTINGS:
        [(value,)] = database.execute(f"SHOW {name}")
        settings.append(f"{name} {value}")
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()};"
        f" PostgreSQL: {', '.join(settings)};"
    )


if __name__ == "__main__":
    main()
