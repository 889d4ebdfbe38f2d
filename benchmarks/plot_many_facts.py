"""Draw docs/images/many-facts.png from the table in docs/results/editing.md."""

import re
from pathlib import Path

from factlab.figures import clear_spines, footnote, new_picture, save_picture

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
MARKERS = "os^Dvx"


def main() -> None:
    text = (DOCS / "results" / "editing.md").read_text(encoding="utf-8")
    table = text.split("### Many facts in one model")[1].split("![")[0].strip().splitlines()
    counts = [int(cell) for cell in cells(table[0])[1:-1]]
    figure = new_picture(7.6, 4.0)
    panel = figure.subplots()
    rows = [cells(line) for line in table[2:]]
    for i, (name, *scores) in enumerate(row[:-1] for row in rows):
        # Beside each other where the curves are one.
        shift = 1.035 ** (i - (len(rows) - 1) / 2)
        points = [
            (n * shift, float(found[1]))
            for n, cell in zip(counts, scores, strict=True)
            if (found := re.match(r"\*\*([\d.]+)\*\*", cell))
        ]
        places, means = zip(*points, strict=True)
        panel.plot(
            places, means, color=COLOURS[i], marker=MARKERS[i], markersize=5, linewidth=1.3,
            label=name if "mismatch" not in name else "ROME, published mismatch of keys",
        )  # fmt: skip
    panel.set_xscale("log")
    panel.set_xticks(counts, labels=[str(n) for n in counts])
    panel.minorticks_off()
    panel.set_ylim(-3, 103)
    panel.grid(axis="y", color="0.9", linewidth=0.6)
    panel.set_xlabel("facts in one model", fontsize=9)
    panel.set_ylabel("S × 100", fontsize=9)
    panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    clear_spines(panel)
    footnote(
        figure,
        "One run each, without intervals; the table has the parts of S. Points set side by side.",
    )
    save_picture(figure, DOCS / "images" / "many-facts.png")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


if __name__ == "__main__":
    main()
