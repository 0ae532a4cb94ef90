"""The picture of docs/teach.md: average precision by the number of examples, from the benchmark's results.

python docs/make_teach_picture.py
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
KINDS = ("without an index", "with an index")


def main() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "teach.json").read_text())["figures"]
    most = max(point["things"] for point in figures["curve"].values())
    points = {int(name.split()[0]): point for name, point in figures["curve"].items() if point["things"] == most}
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for kind, colour in zip(KINDS, ("#1a73e8", "#188038"), strict=True):
        axes.plot(list(points), [point[kind]["taught"] for point in points.values()], "o-", color=colour, label=kind)
    alone = [point[KINDS[0]]["word alone"] for point in points.values()]
    axes.plot(list(points), alone, "o--", color="#5f6368", label="the word alone")
    axes.set(xlabel="examples", ylabel="average precision, %", ylim=(0, 100), xticks=list(points))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(ROOT / "docs" / "teach.png", dpi=130)


if __name__ == "__main__":
    main()
