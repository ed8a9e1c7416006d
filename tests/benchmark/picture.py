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
COLOURS = {"this service": "#2f81f7", "typical backend": "#c9803a"}
HEIGHT = 0.38  # of a bar; a row has two

Figures = dict[str, list[dict[str, float]]]  # for each row the service, and the typical backend


def save(compared: dict[str, list[Run]]) -> None:
    figures = {name: [asdict(run) for run in runs] for name, runs in compared.items()}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")


def draw() -> None:
    figures: Figures = json.loads(FIGURES.read_text())
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    mpl.rcParams["svg.hashsalt"] = "benchmark"  # the same figures give the same file
    mpl.rcParams["font.family"] = "sans-serif"
    mpl.rcParams["text.color"] = TEXT
    figure = Figure(figsize=(9, 4), layout="constrained")
    throughput, delay = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    draw_bars(throughput, figures, "rate", "requests per second: more is better")
    draw_bars(delay, figures, "p95", "p95 in milliseconds: less is better")
    names = [
        f"{name}, {one['rate'] / other['rate']:.1f} times" for name, (one, other) in figures.items()
    ]
    throughput.set_yticks(range(len(figures)), names, color=TEXT)
    throughput.invert_yaxis()
    legend = throughput.get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(PICTURE, transparent=True, metadata={"Date": None, "Creator": None})


def draw_bars(axes: Axes, figures: Figures, quantity: str, title: str) -> None:
    """Draw one panel: two bars for each operation."""
    for number, (label, colour) in enumerate(COLOURS.items()):
        places = [row + (number - 0.5) * HEIGHT for row in range(len(figures))]
        widths = [runs[number][quantity] for runs in figures.values()]
        drawn = axes.barh(places, widths, HEIGHT, color=colour, label=label)
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, color=TEXT, fontsize=9)
    axes.set_title(title, fontsize=10, color=TEXT)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.16)


if __name__ == "__main__":
    draw()
