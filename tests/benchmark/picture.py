"""The picture of the comparison, drawn from figures.json: `python -m tests.benchmark.picture`."""

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmark.report import FIGURES

PICTURE = Path(__file__).parent / "benchmark.svg"

# Tones of middle brightness can be read on white and on black.
TEXT = "#7a7a7a"
SERVICE = "#2f81f7"
TYPICAL = "#c9803a"
FLOOR = "#8c8c8c"
HEIGHT = 0.38  # of a bar; a row has two

Figures = dict[str, list[dict[str, float]]]  # for each row one bar, or that of the service first


def draw(figures: Figures) -> None:
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    mpl.rcParams["svg.hashsalt"] = "benchmark"  # the same figures give the same file
    mpl.rcParams["font.family"] = "sans-serif"
    mpl.rcParams["text.color"] = TEXT
    mpl.rcParams["axes.labelcolor"] = TEXT
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    throughput, delay = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    draw_bars(throughput, figures, "rate", "requests per second: more is better")
    draw_bars(delay, figures, "p95", "p95 in milliseconds: less is better")
    throughput.set_yticks(range(len(figures)), list(figures), color=TEXT)
    throughput.invert_yaxis()
    for row, runs in enumerate(figures.values()):
        if len(runs) == 2:
            write_times(throughput, row, runs)
    figure.legend(
        *throughput.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    figure.savefig(PICTURE, transparent=True, metadata={"Date": None, "Creator": None})


def draw_bars(axes: Axes, figures: Figures, quantity: str, title: str) -> None:
    """Draw one panel: two bars for an operation, one for a floor."""
    service: dict[float, float] = {}
    typical: dict[float, float] = {}
    floor: dict[float, float] = {}
    for row, runs in enumerate(figures.values()):
        if len(runs) == 2:
            service[row - HEIGHT / 2] = runs[0][quantity]
            typical[row + HEIGHT / 2] = runs[1][quantity]
        else:
            floor[row] = runs[0][quantity]
    bars = [
        (service, SERVICE, "this service"),
        (typical, TYPICAL, "typical backend"),
        (floor, FLOOR, "floor: FastAPI without a database"),
    ]
    for places, colour, label in bars:
        drawn = axes.barh(list(places), list(places.values()), HEIGHT, color=colour, label=label)
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, color=TEXT, fontsize=9)
    axes.set_title(title, fontsize=10, color=TEXT)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.16)


def write_times(axes: Axes, row: int, runs: list[dict[str, float]]) -> None:
    """Write behind the service's bar how many times the throughput it has."""
    service, typical = runs
    times = service["rate"] / typical["rate"]
    axes.annotate(
        f"{times:.1f} times",
        (service["rate"], row - HEIGHT / 2),
        xytext=(38, 0),
        textcoords="offset points",
        verticalalignment="center",
        color=SERVICE,
        fontweight="bold",
        fontsize=9,
    )


if __name__ == "__main__":
    draw(json.loads(FIGURES.read_text()))
