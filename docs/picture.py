"""Draws the pictures of the documents: `how_it_works.svg` and `architecture.svg`.

    python docs/picture.py                      # both, beside this file
    python docs/picture.py architecture FILE    # one of them

`how_it_works` is for the README. Above: segments of text, one frozen decoder, one memory. Below:
one memory layer. `architecture` is for `architecture.md`: one pass, from text to the next memory,
with the file that does each step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, SOFT, PAPER = "#1f2933", "#6b7785", "#ffffff"
FROZEN, ADDED = "#e6ebf0", "#fde7c7"
WRITE, READ = "#c2410c", "#1d4ed8"
# one colour a segment, and the slots it wrote
SEGMENTS = ("#9cc9f0", "#b9dfb0", "#d9c3ec")
EMPTY = "#f7f8fa"


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, fill: str) -> None:
    """A rounded box with text in the middle."""
    style = "round,pad=0,rounding_size=0.8"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=INK, lw=0.9)
    )
    label(axes, x + width / 2, y + height / 2, text)


def label(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    color: str = INK,
    size: float = 9.0,
    align: str = "center",
    weight: str = "normal",
) -> None:
    """Text around a point."""
    axes.text(
        x,
        y,
        text,
        color=color,
        fontsize=size,
        ha=align,
        va="center",
        weight=weight,
        linespacing=1.3,
    )


def arrow(axes: Axes, *points: tuple[float, float], color: str = INK) -> None:
    """A line through points, with a head at the last."""
    xs, ys = zip(*points[:-1], strict=True)
    axes.plot(xs, ys, color=color, lw=1.4, solid_joinstyle="round", solid_capstyle="butt")
    axes.add_patch(
        FancyArrowPatch(
            points[-2], points[-1], arrowstyle="-|>", mutation_scale=10, color=color, lw=1.4,
            shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip


def slots(axes: Axes, x: float, y: float, fills: list[str], side: float = 2.0) -> None:
    """A row of slots."""
    for place, fill in enumerate(fills):
        corner = (x + place * side, y)
        axes.add_patch(Rectangle(corner, side, side, facecolor=fill, edgecolor=INK, lw=0.7))


def draw_segments(axes: Axes) -> None:
    """Text from left to right; nothing but the memory passes from one segment to the next."""
    texts = (
        '"My daughter is called\nInes. She plays ..."',
        '"In the harbour the\nboats lay still ..."',
        '"What is my\ndaughter called?"',
    )
    columns = (2.0, 29.0, 56.0)
    bottom = 54.0
    for number, (x, text) in enumerate(zip(columns, texts, strict=True)):
        box(axes, x, 72.5, 21, 7.5, text, SEGMENTS[number])
        label(axes, x + 10.5, 82.3, f"segment {number + 1}", SOFT)
        arrow(axes, (x + 10.5, 72.5), (x + 10.5, 69.5))
        box(axes, x, 61.5, 21, 8, "frozen decoder\nwith memory layers", FROZEN)
        # what it writes, into its own slots
        arrow(axes, (x + 16, 61.5), (x + 16, bottom + 2.2), color=WRITE)
        label(axes, x + 17, 58.9, "write", WRITE, align="left")
        if number:
            arrow(axes, (x - 3.5, bottom + 2.2), (x + 4.5, 61.5), color=READ)
            earlier = "read 1" if number == 1 else "read 1, 2"
            label(axes, x + 3.6, 58.0, earlier, READ, align="left")
    fills = [SEGMENTS[0]] * 13 + [SEGMENTS[1]] * 13 + [SEGMENTS[2]] * 10 + [EMPTY] * 3
    slots(axes, 2, bottom, fills)
    what = "external memory: slots, each with a key and a value per memory layer"
    label(axes, 2, 51.4, what, align="left")
    box(axes, 84, 50.5, 15, 9.2, "one file\nper user", PAPER)
    arrow(axes, (80, 55), (84, 55))
    label(axes, 91.5, 62.0, "the next session\nloads it", SOFT, size=8.5)
    arrow(axes, (77, 68.5), (82, 68.5))
    label(axes, 83, 68.5, '"... called Ines."', align="left")


def draw_layer(axes: Axes) -> None:
    """What a memory layer does beside the attention of its decoder layer."""
    axes.add_patch(Rectangle((0.6, 0.6), 98.8, 46.2, facecolor="none", edgecolor=SOFT, lw=0.8))
    label(axes, 2.5, 44, "inside one memory layer, for every token", weight="bold", align="left")
    # the decoder's own attention
    box(axes, 2.5, 25.0, 12, 8, "input x of\nthe attention", PAPER)
    box(axes, 24, 32.5, 24, 7.5, "local attention,\nthis segment only", FROZEN)
    box(axes, 67, 32.5, 9, 7.5, "mix", PAPER)
    box(axes, 83, 32.5, 14.5, 7.5, "output\nprojection", FROZEN)
    arrow(axes, (14.5, 31), (19, 31), (19, 36.25), (24, 36.25))
    arrow(axes, (48, 36.25), (67, 36.25))
    label(axes, 57.5, 38.3, "local")
    arrow(axes, (76, 36.25), (83, 36.25))
    label(axes, 71.5, 42.6, "(1 − g) · local + r", weight="bold")
    # the memory beside it
    box(axes, 24, 17.0, 24, 9.5, "the same projections,\n+ small trainable\ncorrections", ADDED)
    arrow(axes, (14.5, 27), (19, 27), (19, 21.75), (24, 21.75))
    means = 'softmax over the slots\nand a null slot that means\n"nothing there"'
    box(axes, 59, 17.0, 25, 9.5, means, ADDED)
    arrow(axes, (48, 21.75), (59, 21.75), color=READ)
    label(axes, 53.5, 23.8, "query", READ)
    arrow(axes, (71.5, 26.5), (71.5, 32.5), color=READ)
    label(axes, 73, 29.5, "read r, evidence g = 1 − null", READ, align="left")
    slots(axes, 26, 5.6, [SEGMENTS[2]] * 10)
    label(axes, 36, 3.4, "slots of this segment, for later ones", SOFT, size=8.5)
    slots(axes, 58.5, 5.6, [SEGMENTS[0]] * 7 + [SEGMENTS[1]] * 6)
    label(axes, 71.5, 3.4, "slots of earlier segments", SOFT, size=8.5)
    # legend
    for y, fill, text in ((9.6, FROZEN, "frozen"), (5.6, ADDED, "added")):
        axes.add_patch(Rectangle((2.5, y), 2, 2, facecolor=fill, edgecolor=INK, lw=0.7))
        label(axes, 5.5, y + 1, text, align="left")
    arrow(axes, (36, 17), (36, 7.8), color=WRITE)
    label(axes, 37.5, 12.6, "write key and value", WRITE, align="left")
    arrow(axes, (71.5, 7.8), (71.5, 17), color=READ)
    label(axes, 73, 12.6, "read keys and values", READ, align="left")


def draw_how_it_works(axes: Axes) -> None:
    """The picture of the README."""
    draw_segments(axes)
    draw_layer(axes)


def step(axes: Axes, y: float, number: int, title: str, what: str, fill: str = ADDED) -> None:
    """One step of the order in which a memory is used, with the file that does it."""
    box(axes, 62, y, 32, 7.5, "", fill)
    label(axes, 64, y + 3.75, str(number), size=13, weight="bold")
    label(axes, 67, y + 5.2, title, align="left", weight="bold")
    label(axes, 67, y + 2.3, what, align="left", size=8.5)


def draw_callers(axes: Axes) -> None:
    """From a program to one pass over some segments."""
    box(axes, 2, 89, 20, 8, "your program,\nchat.py, cli/", PAPER)
    box(axes, 32, 89, 24, 8, "model.py: memorize,\nforward, generate", PAPER)
    box(axes, 66, 89, 28, 8, "engine.py: segments,\nas many a pass as fit", PAPER)
    arrow(axes, (22, 93), (32, 93))
    label(axes, 27, 94.8, "token ids", SOFT, size=8.5)
    arrow(axes, (56, 93), (66, 93))
    label(axes, 61, 94.8, "token ids", SOFT, size=8.5)
    arrow(axes, (70, 89), (70, 85.6), (40, 85.6), (40, 78))
    label(axes, 68, 87.1, "one batch of segments, with a MemoryPass", SOFT, align="right", size=8.5)


def draw_backbone(axes: Axes) -> None:
    """One call of the backbone, from top to bottom, and what is added to it."""
    axes.add_patch(Rectangle((1, 19), 46, 63, facecolor="none", edgecolor=SOFT, lw=0.8))
    label(axes, 2.5, 80, "the backbone, called once a pass", weight="bold", align="left")
    box(axes, 4, 71, 40, 7, "embedding and lower layers", FROZEN)
    box(axes, 4, 58, 40, 8.5, "attach/heads.py: TableHeads\n(at the lowest memory layer)", ADDED)
    layer = "attach/layers.py: MemoryLayer\nbeside the attention of each chosen layer"
    box(axes, 4, 43, 40, 10, layer, ADDED)
    mixed = "attach/mixing.py:  (1 − g) · local + r\nin the layer's own attention"
    box(axes, 4, 30.5, 40, 8, mixed, ADDED)
    box(axes, 4, 21, 40, 6, "upper layers, logits", FROZEN)
    for begin, end in ((71, 66.5), (58, 53), (43, 38.5), (30.5, 27)):
        arrow(axes, (24, begin), (24, end))
    arrow(axes, (24, 21), (24, 15))
    label(axes, 24, 13, "logits, text", SOFT)


def draw_memory(axes: Axes) -> None:
    """The five steps of a memory, and the values before and after them."""
    box(axes, 62, 75, 32, 6.5, "memory/state.py:\nMemoryState before", PAPER)
    step(axes, 63.5, 1, "gate", "memory/gate.py")
    step(axes, 54, 2, "let go", "memory/gate.py")
    step(axes, 44.5, 3, "write", "memory/memory_pass.py")
    step(axes, 35, 4, "read", "memory/read.py")
    step(axes, 22, 5, "commit", "memory/commit.py")
    box(axes, 62, 10, 32, 6.5, "memory/state.py:\nMemoryState after", PAPER)
    box(axes, 62, 1, 32, 5, "store.py: one file a user", PAPER)
    ends = ((75, 71), (63.5, 61.5), (54, 52), (44.5, 42.5), (35, 29.5), (22, 16.5), (10, 6))
    for begin, end in ends:
        arrow(axes, (78, begin), (78, end))
    label(axes, 79, 32.2, "after the backbone", SOFT, align="left", size=8.5)
    arrow(axes, (44, 64), (62, 67), color=WRITE)
    label(axes, 53, 68.2, "gate logits", WRITE, size=8.5)
    arrow(axes, (44, 61), (62, 57.5), color=WRITE)
    label(axes, 54.5, 61.9, "what to release", WRITE, size=8.5)
    arrow(axes, (44, 49.5), (62, 48.5), color=WRITE)
    label(axes, 53.5, 50.8, "keys, values", WRITE, size=8.5)
    arrow(axes, (44, 45), (62, 40.5), color=READ)
    label(axes, 54.5, 45.2, "queries", READ, size=8.5)
    arrow(axes, (62, 37), (44, 35), color=READ)
    label(axes, 53, 33.6, "read r,\nevidence g", READ, size=8.5)
    # the next pass begins where this one ended
    arrow(axes, (94, 13.2), (98, 13.2), (98, 78.2), (94, 78.2))
    axes.text(
        99.3, 46, "next pass, next call, next process", color=SOFT, fontsize=8.5, rotation=90,
        ha="center", va="center",
    )  # fmt: skip
    for x, fill, text in ((4, FROZEN, "frozen"), (18, ADDED, "added"), (31, PAPER, "around them")):
        axes.add_patch(Rectangle((x, 4), 2, 2, facecolor=fill, edgecolor=INK, lw=0.7))
        label(axes, x + 3, 5, text, align="left")


def draw_architecture(axes: Axes) -> None:
    """The picture of `architecture.md`."""
    draw_callers(axes)
    draw_backbone(axes)
    draw_memory(axes)


# what draws each picture, and its height where its width is 100
PICTURES: dict[str, tuple[Callable[[Axes], None], float]] = {
    "how_it_works": (draw_how_it_works, 85),
    "architecture": (draw_architecture, 100),
}


def draw(name: str, path: Path) -> None:
    """Writes one picture; the same code gives the same file."""
    fill, height = PICTURES[name]
    # letters as outlines: the picture looks the same where a font is missing
    settings = {"svg.hashsalt": "memformer", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8, 0.08 * height), facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 100), ylim=(0, height))
        axes.axis("off")
        fill(axes)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=100)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        draw(sys.argv[1], Path(sys.argv[2]))
    else:
        for picture in sys.argv[1:] or PICTURES:
            draw(picture, Path(__file__).parent / f"{picture}.svg")
