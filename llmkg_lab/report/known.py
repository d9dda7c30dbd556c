"""What a notebook shows of a knowledge graph: its picture, facts, hits and answers."""

import html
from collections.abc import Sequence

import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt

from llmkg_lab.knowledge.results import Answer, FactEntry, SearchResult
from llmkg_lab.report.figures import Picture
from llmkg_lab.report.tables import rows_table

STEPS = 200  # of the layout
APART = 4  # steps between what nothing ties
INK, EDGE, NODE = "#24292f", "#8c959f", "#0550ae"


def facts(entries: Sequence[FactEntry]) -> HTML:
    """Facts, when they held, and who says so."""
    rows = [
        {
            "subject": html.escape(entry["subject"]),
            "predicate": html.escape(entry["predicate"]),
            "object": html.escape(entry["object"]),
            "held": f"{entry['valid_from'] or '…'} – {entry['valid_to'] or '…'}",
            "believed": _believed(entry),
            "source": html.escape(entry["source"] or ""),
        }
        for entry in entries
    ]
    return rows_table(rows, words=("predicate", "object", "held", "believed", "source"))


def _believed(entry: FactEntry) -> str:
    """Whether a fact is believed still."""
    return "no longer" if entry["superseded"] else "now"


def hits(found: SearchResult) -> HTML:
    """What a search found, with the rank of each kind of search."""
    rows = [
        {
            "title": html.escape(hit["title"]),
            "text": html.escape(hit["text"]),
            "rank by": ", ".join(f"{kind} {rank}" for kind, rank in sorted(hit["ranks"].items())),
        }
        for hit in found["hits"]
    ]
    return rows_table(rows, text=("text",), words=("rank by",))


def answers(asked: Sequence[tuple[str, Answer]]) -> HTML:
    """Questions with their answers and what these rest on."""
    rows = []
    for question, answer in asked:
        cited = [c["sentence"] or c["fact"] for c in answer["citations"][:1]]
        said = f"<b>{html.escape(answer['answer'])}</b>" if answer["known"] else "not known"
        where = html.escape(" ".join(cited))
        rows.append({"question": html.escape(question), "answer": said, "word for word in": where})
    return rows_table(rows, text=("word for word in",), words=("answer",))


def graph(entries: Sequence[FactEntry], title: str) -> Picture:
    """Facts as a picture: names as points, predicates on the lines between them."""
    names = list(dict.fromkeys(x for e in entries for x in (e["subject"], e["object"])))
    index = {name: i for i, name in enumerate(names)}
    ends = [(index[e["subject"]], index[e["object"]]) for e in entries]
    places = layout(len(names), ends)  # (names, 2)
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for (a, b), entry in zip(ends, entries, strict=True):
        axes.annotate(
            "", places[b], places[a],
            arrowprops={"arrowstyle": "-|>", "color": EDGE, "shrinkA": 6, "shrinkB": 8},
        )  # fmt: skip
        x, y = (places[a] + places[b]) / 2
        words = entry["predicate"].replace("_", " ")
        axes.text(x, y, words, size=7, color=EDGE, ha="center", va="center",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # fmt: skip
    axes.scatter(places[:, 0], places[:, 1], s=28, color=NODE, zorder=3)
    for name, (x, y) in zip(names, places, strict=True):
        axes.annotate(name, (x, y), (0, 6), textcoords="offset points", ha="center", color=INK,
                      size=8.5, zorder=4)  # fmt: skip
    axes.set_axis_off()
    axes.margins(0.12)
    axes.set_title(title)
    plt.close(figure)
    told = "; ".join(f"{e['subject']} {e['predicate']} {e['object']}" for e in entries)
    return Picture(figure, f"{title}: {told}")


def layout(count: int, ends: Sequence[tuple[int, int]]) -> np.ndarray:
    """Places (count, 2) of points whose distances are about the steps between them.

    What is not tied lies a few steps apart. The same graph always gets the same places.
    Source: stress majorization, Gansner, Koren and North 2004.
    """
    steps = np.full((count, count), float(APART))
    np.fill_diagonal(steps, 0)
    for a, b in ends:
        steps[a, b] = steps[b, a] = 1
    for middle in range(count):  # Floyd and Warshall
        steps = np.minimum(steps, steps[:, middle, None] + steps[None, middle])
    weights = np.divide(1, steps**2, out=np.zeros_like(steps), where=steps > 0)
    angles = np.arange(count) * 2.399963  # a sunflower's: no two alike
    places = np.sqrt(np.arange(count) + 0.5)[:, None] * np.c_[np.cos(angles), np.sin(angles)]
    for _ in range(STEPS):
        apart = places[:, None] - places[None]  # (count, count, 2)
        distance = np.linalg.norm(apart, axis=-1).clip(min=1e-9)
        wanted = places[None] + steps[..., None] * apart / distance[..., None]
        moved = (weights[..., None] * wanted).sum(axis=1)
        places = moved / weights.sum(axis=1, keepdims=True).clip(min=1e-9)
    return places - places.mean(axis=0)
