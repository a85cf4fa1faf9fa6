"""Draw how the scores of `tiny` rose with its training: python docs/figures/draw_training.py

The table of the card has the scores. Filled points are weights that ship or shipped. The others are further ends of
runs, and weights between two ends.
"""

from __future__ import annotations

import re
from pathlib import Path

import esam_rt

CARD = Path(esam_rt.__file__).parent / "weights" / "MODEL_CARD.md"
PANELS = {  # column of the table: title and goal
    "AP on COCO": ("AP on COCO", 15),
    "medium": ("AP of medium objects", 6),
    "best annotator": ("BSDS500, best annotator", 0.70),
    "small squares": ("squares found, of 196", 150),
}
FIGURE = Path(__file__).parent / "training.png"


def rows_of(card: str) -> list[dict[str, str]]:
    """Return the rows of the card's table over core-hours, by column.

    Args:
        card: Text of the card.

    Raises:
        ValueError: The card has no such table.
    """
    table = re.search(r"(?m)^\| Weights \| Core-hours .*\n(?:\|.*\n)+", card)
    if table is None:
        raise ValueError("The card has no table that begins with the columns Weights and Core-hours.")
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draw one panel for each goal.

    Args:
        rows: The table of the card.
        path: PNG file to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(3.1 * len(PANELS), 3), layout="constrained")
    for panel, (name, (title, goal)) in zip(panels, PANELS.items(), strict=True):
        for is_shipped, fill in ((False, "none"), (True, "full")):
            some = [row for row in rows if ("ship" in row["Weights"]) == is_shipped]
            hours, scores = [float(row["Core-hours"]) for row in some], [float(row[name]) for row in some]
            label = "shipped" if is_shipped else "not shipped"
            panel.plot(hours, scores, "o", color="C0", fillstyle=fill, label=label)
        panel.axhline(goal, color="0.4", linestyle=":", label="goal")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("core-hours")
        panel.margins(0.12)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(rows_of(CARD.read_text(encoding="utf-8")), FIGURE)
