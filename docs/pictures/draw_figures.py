"""Draw the pictures of the page on performance, from the tables in benchmarks/README.md.

python docs/pictures/draw_figures.py
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLES = HERE.parents[1] / "benchmarks" / "README.md"

WIDTH, LABELS, BAR, GAP = 760, 330, 20, 10
OURS, THEIRS = "#2a6f97", "#a9b4bd"


@dataclass(frozen=True)
class Picture:
    """Bars of one column of a table."""

    file: str
    section: str
    title: str
    #: The words under which the bars get their numbers; ``{}`` are the cells of the row.
    text: str


PICTURES = (
    Picture(
        "figures-queue.svg",
        "One producer, worker that does nothing, asyncio loop",
        "An item through a queue: microseconds",
        "{1}",
    ),
    Picture(
        "figures-threads.svg",
        "4 threads put, plain workers",
        "An item that threads put: microseconds of CPU",
        "{1}",
    ),
    Picture(
        "figures-server.svg",
        "Limits known, sliding window",
        "400 calls to a service that allows 20 a second: seconds, and refused calls",
        "{1}, {3} refused",
    ),
)


def rows(section: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its two first lines."""
    _, _, text = TABLES.read_text(encoding="utf-8").partition(f"\n### {section}\n")
    found = []
    for line in text.splitlines():
        if line.startswith("#"):
            break
        if line.startswith("|"):
            found.append([cell.strip(" *") for cell in line.strip("|").split("|")])
    return found[2:]


def draw(picture: Picture) -> str:
    """The picture as SVG: a bar for each row."""
    table = rows(picture.section)
    longest = max(float(cells[1]) for cells in table)
    room = WIDTH - LABELS - 140
    height = 50 + len(table) * (BAR + GAP)
    font = 'font-family="sans-serif" font-size="13" role="img"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {font}>',
        f"<title>{escape(picture.title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>',
        f'<text x="16" y="28" font-weight="bold" fill="#222222">{escape(picture.title)}</text>',
    ]
    for number, cells in enumerate(table):
        top = 44 + number * (BAR + GAP)
        length = max(2, round(float(cells[1]) / longest * room))
        colour = OURS if cells[0].startswith("penstock") else THEIRS
        middle = top + BAR - 5
        label, value = escape(cells[0]), escape(picture.text.format(*cells))
        parts += [
            f'<text x="{LABELS - 8}" y="{middle}" text-anchor="end" fill="#222222">{label}</text>',
            f'<rect x="{LABELS}" y="{top}" width="{length}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABELS + length + 6}" y="{middle}" fill="#222222">{value}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write all of them."""
    for picture in PICTURES:
        (HERE / picture.file).write_text(draw(picture), encoding="utf-8")


if __name__ == "__main__":
    main()
