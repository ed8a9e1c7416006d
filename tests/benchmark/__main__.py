"""Measure the service beside a typical backend: `python -m tests.benchmark`.

It needs Linux, wrk, and what tests/system/requirements.txt names.
"""

import argparse
import os
import platform
import shutil
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it ships no types

from tests.benchmark.measure import Meter
from tests.benchmark.picture import draw, save
from tests.benchmark.scenarios import Benchmark
from tests.harness import Postgres, postgres
from tests.keys import KeyServer

SETTINGS = ["server_version", "fsync", "synchronous_commit", "shared_buffers"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short slices, and one round of them")
    help_text = "compare with the service of another working tree only, in five rounds"
    parser.add_argument("--against", type=Path, metavar="DIR", help=help_text)
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("The benchmark needs wrk (apt-get install wrk).")
    rounds = 1 if options.quick and not options.against else 5
    seconds = 1 if options.quick else 2
    with postgres(durable=True) as database, KeyServer() as keys:
        print(surroundings(database), f"{rounds} rounds of {seconds} s.\n")
        benchmark = Benchmark(database, keys, Meter(database, rounds, seconds))
        if options.against:
            benchmark.against(options.against.resolve())
        else:
            benchmark.operations()
            benchmark.tokens()
            benchmark.delay()
    print("Failed requests, of any server:", benchmark.meter.failures)
    if benchmark.compared and not options.quick:
        save(benchmark.compared)
        draw()


def surroundings(database: Postgres) -> str:
    """Return on what this runs."""
    memory = psutil.virtual_memory().total / 2**30
    settings = [f"{name} {database.execute(f'SHOW {name}')[0][0]}" for name in SETTINGS]
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()};"
        f" PostgreSQL: {', '.join(settings)};"
    )


if __name__ == "__main__":
    main()
