"""The tables and the goals, as Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.benchmark.measure import Run

FIGURES = Path(__file__).parent / "figures.json"  # what the picture is drawn from
COLUMNS = [
    "requests/s",
    "times",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "CPU us",
    "PostgreSQL CPU us",
    "MiB",
    "failures",
]
# The quantities under the columns, but for "times", each with its digits after the point.
DIGITS = {
    "rate": 0,
    "p50": 1,
    "p95": 1,
    "p99": 1,
    "cpu": 0,
    "database_cpu": 0,
    "memory": 0,
    "failures": 0,
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "--:") -> None:
    """Print a table; `align` is that of all columns but the first."""
    rule = ["---"] + [align] * (len(header) - 1)
    for row in [header, rule, *rows]:
        print("|", " | ".join(row), "|", flush=True)
    print()


def cells(*runs: Run) -> list[str]:
    """Return what stands under COLUMNS, as "one / other" for two runs."""
    rate, *others = [column(runs, quantity) for quantity in DIGITS]
    times = ""
    if len(runs) == 2:
        one, other = runs
        times = f"{one.times(other):.1f}"
    return [rate, times, *others]


def column(runs: Sequence[Run], quantity: str) -> str:
    figures = [getattr(run, quantity) for run in runs]
    return beside(figures, DIGITS[quantity])


def beside(figures: Sequence[float], digits: int = 0) -> str:
    return " / ".join(f"{figure:,.{digits}f}" for figure in figures)


def save(compared: dict[str, list[Run]]) -> None:
    figures = {name: [asdict(run) for run in runs] for name, runs in compared.items()}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")


@dataclass
class Goals:
    """What is to be reached, beside what was measured."""

    rows: list[list[str]] = field(default_factory=list)

    def at_most(self, limit: float, what: str, measured: dict[str, float]) -> None:
        met = max(measured.values()) <= limit
        self._add(f"{what}: at most {limit:g}", measured, met)

    def at_least(self, limit: float, what: str, measured: dict[str, float]) -> None:
        met = min(measured.values()) >= limit
        self._add(f"{what}: at least {limit:g}", measured, met)

    def _add(self, goal: str, measured: dict[str, float], met: bool) -> None:
        figures = [f"{name} {figure:.3g}".strip() for name, figure in measured.items()]
        verdict = "yes" if met else "no"
        self.rows.append([goal, ", ".join(figures), verdict])

    def print(self) -> None:
        table(["goal", "measured", "met"], self.rows, align="---")
