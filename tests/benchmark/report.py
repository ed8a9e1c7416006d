"""The tables, as Markdown."""

from collections.abc import Sequence

from tests.benchmark.measure import Run

# Each column with the quantity under it, and the digits after the point.
COLUMNS = {
    "requests/s": ("rate", 0),
    "p50 ms": ("p50", 1),
    "p95 ms": ("p95", 1),
    "p99 ms": ("p99", 1),
    "CPU us": ("cpu", 0),
    "PostgreSQL CPU us": ("database_cpu", 0),
    "failures": ("failures", 0),
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    rule = ["---"] + ["--:"] * (len(header) - 1)
    for row in [header, rule, *rows]:
        print("|", " | ".join(row), "|", flush=True)
    print()


def table_of_runs(
    title: str, rows: dict[str, list[Run]], further: dict[str, dict[str, str]] | None = None
) -> None:
    """Print two runs a row, as "one / other", and further columns by the rows' names."""
    further = further or {}
    lines = []
    for name, runs in rows.items():
        cells = [
            beside([getattr(run, quantity) for run in runs], digits)
            for quantity, digits in COLUMNS.values()
        ]
        lines.append([name, *cells, *(column.get(name, "") for column in further.values())])
    table([title, *COLUMNS, *further], lines)


def beside(figures: Sequence[float], digits: int) -> str:
    return " / ".join(f"{figure:,.{digits}f}" for figure in figures)
