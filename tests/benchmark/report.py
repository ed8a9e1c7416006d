"""The tables and the goals, as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.benchmark.measure import Run

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


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first hold numbers."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    for row in [header, rule, *rows]:
        print("|", " | ".join(row), "|", flush=True)
    print()


def cells(*runs: Run) -> list[str]:
    """Return what stands under COLUMNS, as "one / other" for two runs."""
    faster = ""
    if len(runs) == 2:
        one, other = runs
        faster = f"{one.times(other):.1f}"
    return [
        beside([run.rate for run in runs]),
        faster,
        beside([run.p50 for run in runs], digits=1),
        beside([run.p95 for run in runs], digits=1),
        beside([run.p99 for run in runs], digits=1),
        beside([run.cpu for run in runs]),
        beside([run.database_cpu for run in runs]),
        beside([run.memory for run in runs]),
        beside([run.failures for run in runs]),
    ]


def beside(figures: Sequence[float], digits: int = 0) -> str:
    return " / ".join(f"{figure:,.{digits}f}" for figure in figures)


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
        table(["goal", "measured", "met"], self.rows)
