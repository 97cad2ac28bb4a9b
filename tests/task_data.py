"""A small study of every task, on sentences of the tiny model's forty words, whose labels stand in single words."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tiny import BAD, FILLER, GOOD, tiny_study

Row = dict[str, Any]


def words(draw: random.Random) -> list[str]:
    """Fillers, with up to two good and two bad words among them."""
    chosen = draw.choices(FILLER, k=draw.randint(3, 9))
    for among in (GOOD, BAD):
        for _ in range(draw.choice((0, 0, 1, 2))):
            chosen.insert(draw.randrange(len(chosen) + 1), draw.choice(among))
    return chosen


def _count(chosen: list[str], among: tuple[str, ...]) -> int:
    return sum(word in among for word in chosen)


def _classes(chosen: list[str], draw: random.Random) -> Row:
    good, bad = _count(chosen, GOOD) > 0, _count(chosen, BAD) > 0
    return {"text": " ".join(chosen), "label": "mixed" if good == bad else "praise" if good else "blame"}


def _pairs(chosen: list[str], draw: random.Random) -> Row:
    """Whether the second text is good; the first is noise of the same kind."""
    second = [*draw.choices(FILLER, k=4), draw.choice(draw.choice((GOOD, BAD)))]
    label = "yes" if second[-1] in GOOD else "no"
    return {"premise": " ".join(chosen), "hypothesis": " ".join(second), "label": label}


def _sets(chosen: list[str], draw: random.Random) -> Row:
    labels = [name for name, among in (("praise", GOOD), ("blame", BAD)) if _count(chosen, among)]
    return {"text": " ".join(chosen), "labels": [*labels, *(["long"] if len(chosen) > 8 else [])]}


def _numbers(chosen: list[str], draw: random.Random) -> Row:
    return {"text": " ".join(chosen), "stars": _count(chosen, GOOD) - _count(chosen, BAD)}


def _tags(chosen: list[str], draw: random.Random) -> Row:
    """A good or a bad word is an entity, with the `very` before it."""
    tags = []
    for number, word in enumerate(chosen):
        kind = "praise" if word in GOOD else "blame" if word in BAD else None
        tags.append("O" if kind is None else f"B-{kind}")
        if kind and number and chosen[number - 1] == "very":
            tags[-2:] = [f"B-{kind}", f"I-{kind}"]
    return {"words": chosen, "tags": tags}


Make = Callable[[list[str], random.Random], Row]
KINDS: dict[str, tuple[str, Make, dict[str, Any]]] = {
    "classes": ("sequence_classification", _classes, {}),
    "pairs": ("sequence_classification", _pairs, {"text_column": ["premise", "hypothesis"]}),
    "label_sets": ("multi_label_classification", _sets, {"label_column": "labels"}),
    "numbers": ("regression", _numbers, {"label_column": "stars"}),
    "tags": ("token_classification", _tags, {"text_column": "words", "label_column": "tags"}),
}
"""By kind of data: its task, how a row is made of words, and how a study names its columns."""


def rows(kind: str, n: int, seed: int = 0) -> list[Row]:
    """`n` distinct rows."""
    draw, found = random.Random(seed), dict[str, Row]()
    while len(found) < n:
        row = KINDS[kind][1](words(draw), draw)
        found.setdefault(json.dumps([value for name, value in row.items() if "label" not in name]), row)
    return list(found.values())


def write(kind: str, folder: Path, n: int = 600) -> Path:
    """The rows as a file of JSON lines."""
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows(kind, n)), encoding="utf-8")
    return path


def task_study(kind: str, model: Path, folder: Path, **sections: Any) -> dict[str, Any]:
    """A study of it that trains in a second or two a trial; keywords replace its sections."""
    task, _, columns = KINDS[kind]
    data = {"train": str(write(kind, folder)), "validation_size": 60, "test_size": 50, **columns}
    return tiny_study(model, Path("unused"), **{"name": kind, "task": task, "data": data} | sections)
