"""The picture of the comparison, drawn from figures.json: `python -m tests.benchmark.picture`."""

import json
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmark.measure import Run

FIGURES = Path(__file__).parent / "figures.json"
PICTURE = Path(__file__).parent / "benchmark.svg"

# Tones of middle brightness can be read on white and on black.
TEXT = "#7a7a7a"
SERVICE = "#2f81f7"
TYPICAL = "#c9803a"
FLOOR = "#8c8c8c"
HEIGHT = 0.38  # of a bar; a row has two

Figures = dict[str, list[dict[str, float]]]  # for each row one bar, or that of the service first


def save(compared: dict[str, list[Run]]) -> None:
    figures = {name: [asdict(run) for run in runs] for name, runs in compared.items()}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")


def draw() -> None:
    figures: Figures = json.loads(FIGURES.read_text())
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    mpl.rcParams["svg.hashsalt"] = "benchmark"  # the same figures give the same file
    mpl.rcParams["font.family"] = "sans-serif"
    mpl.rcParams["text.color"] = TEXT
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    throughput, delay = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    draw_bars(throughput, figures, "rate", "requests per second: more is better")
    draw_bars(delay, figures, "p95", "p95 in milliseconds: less is better")
    throughput.set_yticks(range(len(figures)), list(figures), color=TEXT)
    throughput.invert_yaxis()
    for row, (one, *others) in enumerate(figures.values()):
        for other in others:
            throughput.annotate(
                f"{one['rate'] / other['rate']:.1f} times",
                (one["rate"], row - HEIGHT / 2),
                xytext=(38, 0),
                textcoords="offset points",
                verticalalignment="center",
                color=SERVICE,
                fontweight="bold",
                fontsize=9,
            )
    figure.legend(
        *throughput.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    figure.savefig(PICTURE, transparent=True, metadata={"Date": None, "Creator": None})


def draw_bars(axes: Axes, figures: Figures, quantity: str, title: str) -> None:
    """Draw one panel: two bars for an operation, one for a floor."""
    rows = list(enumerate(figures.values()))
    pairs = [(row, runs) for row, runs in rows if len(runs) == 2]
    floors = [(row, runs) for row, runs in rows if len(runs) == 1]
    for label, colour, shift, bars in (
        ("this service", SERVICE, -HEIGHT / 2, [(row, runs[0]) for row, runs in pairs]),
        ("typical backend", TYPICAL, HEIGHT / 2, [(row, runs[1]) for row, runs in pairs]),
        ("floor: FastAPI without a database", FLOOR, 0, [(row, runs[0]) for row, runs in floors]),
    ):
        places = [row + shift for row, _ in bars]
        widths = [run[quantity] for _, run in bars]
        drawn = axes.barh(places, widths, HEIGHT, color=colour, label=label)
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, color=TEXT, fontsize=9)
    axes.set_title(title, fontsize=10, color=TEXT)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.16)


if __name__ == "__main__":
    draw()
