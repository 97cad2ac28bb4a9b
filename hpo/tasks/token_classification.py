"""A tag for each word: named entities, in the schemes that seqeval reads."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.cells import Cells, as_list
from hpo.errors import DataError
from hpo.scores import Scores, require_outputs
from hpo.tasks.base import Decisions, Outputs, Rows, Task
from hpo.tasks.counted_scores import counted_scores, share_score
from hpo.tasks.labels import (
    UNKNOWN,
    Label,
    LabelColumn,
    Labels,
    LabelsBy,
    class_ids,
    class_names,
    found_by,
    quoted,
    rarest,
    refuse_other_spellings,
)

OUTSIDE = "O"
PREFIXES = ("B", "I", "E", "S")
"""Of IOB2 (B, I) and IOBES."""
# Words on either side of one that is shown.
AROUND = 8


class Tags(Labels):
    """A tag for each word of a row: `O`, or a prefix and the type of an entity, such as `B-person`."""

    def read(self, cells: Cells) -> list[list[Label]]:
        found = [as_list(cell) for cell in cells.values]
        wrong = [row is None or not all(isinstance(tag, str | int) for tag in row) for row in found]
        cells.refuse(wrong, "have a list of tags", "another type")
        cells.refuse([not row for row in found], "have a tag for each word", "none")
        rows: list[list[Any]] = [row or [] for row in found]
        refuse_other_spellings(cells, rows)
        return [[tag if isinstance(tag, int) else str(tag) for tag in row] for row in rows]

    def classes(self, train: LabelColumn, declared: tuple[str, ...] | None) -> tuple[str, ...]:
        """`O` first, which is what a word is taken for that no model has seen; then every prefix of every type."""
        given = class_names(train.names, chain.from_iterable(train.labels), declared)
        _require_scheme(given, train.origin)
        if declared or train.names:
            return (OUTSIDE, *(tag for tag in given if tag != OUTSIDE))
        inside = [tag for tag in given if tag != OUTSIDE]
        prefixes = [prefix for prefix in PREFIXES if prefix in "BI" or any(tag[0] == prefix for tag in inside)]
        return (OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(set(map(kind_of, inside))) for prefix in prefixes))

    def encode(
        self, split: str, column: LabelColumn, classes: tuple[str, ...], declared: tuple[str, ...] | None
    ) -> NDArray[Any]:
        """[rows], each an array [words] of ids."""
        flat = class_ids(split, list(chain.from_iterable(column.labels)), column, classes, declared)
        ends = np.cumsum([len(row) for row in column.labels])[:-1]
        encoded = np.empty(len(column.labels), dtype=object)
        encoded[:] = np.split(np.array(flat, dtype=np.int64), ends)
        return encoded

    def unknown(self, inputs: Sequence[Any], num_classes: int) -> NDArray[Any]:
        labels = np.empty(len(inputs), dtype=object)
        for row, words in enumerate(inputs):
            labels[row] = np.full(len(words), UNKNOWN, dtype=np.int64)
        return labels

    def labels_by(self, columns: Mapping[str, LabelColumn], declared: tuple[str, ...] | None) -> LabelsBy:
        return found_by(columns, {split: column.labels[0][0] for split, column in columns.items()}, declared)

    def strata(self, labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
        """By the rarest tag in a row but `O`."""
        return rarest(self._has(labels, num_classes)[:, 1:])

    def counts(self, labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
        """Rows with a word of the tag."""
        counts: NDArray[np.int64] = self._has(labels, num_classes).sum(axis=0)
        return counts

    def _has(self, labels: NDArray[Any], num_classes: int) -> NDArray[np.bool_]:
        has = np.zeros((len(labels), num_classes), dtype=bool)
        for row, tags in zip(has, labels, strict=True):
            row[tags] = True
        return has

    def kinds(self, classes: Sequence[str]) -> list[str]:
        return [kind_of(tag) for tag in classes]

    def text(self, label: Any, classes: Sequence[str]) -> str:
        return " ".join(classes[tag] for tag in label)

    def plain(self, labels: NDArray[Any]) -> list[Any]:
        return [row.tolist() for row in labels]


def kind_of(tag: str) -> str:
    """The type of entity of a tag: `person` of `B-person`."""
    return tag.partition("-")[2]


def _require_scheme(tags: Sequence[str], origin: str) -> None:
    wrong = [tag for tag in tags if tag != OUTSIDE and not (tag.partition("-")[0] in PREFIXES and kind_of(tag))]
    if wrong:
        raise DataError(
            f"a tag must be `O`, or a prefix of {', '.join(PREFIXES)} with the type of an entity, as IOB2 and IOBES "
            f"have it (`B-person`), but got {quoted(wrong[:3])} in {origin}. Convert the tags."
        )
    if all(tag == OUTSIDE for tag in tags):
        raise DataError(f"some word must be part of an entity, but every tag is `O` in {origin}. Check the column.")


def entity_metrics(logits: Outputs, labels: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
    """Scores of `logits` [words of all rows, classes] against `labels` [rows], each [words].

    `f1`, `precision` and `recall` are of whole entities, as seqeval counts them; macro means every type counts the
    same. `accuracy` is of words.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support  # a study file is read without it

    words = np.concatenate(labels)
    predictions = logits.argmax(axis=1)
    truth, found = (list(_sentences(tags, labels, classes)) for tags in (words, predictions))
    metrics = {
        "eval/loss": float(_losses(logits, words).mean()),
        "eval/accuracy": float((predictions == words).mean()),
    }
    names = ("precision", "recall", "f1")
    micro = precision_recall_fscore_support(truth, found, average="micro", zero_division=0)
    metrics |= {f"eval/{name}": float(value) for name, value in zip(names, micro, strict=False)}
    # seqeval leaves out a type that occurs nowhere. Here it counts as 0, as a class without rows does in other tasks.
    of_each = precision_recall_fscore_support(truth, found, average=None, zero_division=0)
    types = len({kind_of(tag) for tag in classes if tag != OUTSIDE})
    metrics |= {f"eval/{name}_macro": float(np.sum(value)) / types for name, value in zip(names, of_each, strict=False)}
    return metrics


def entity_scores(logits: NDArray[np.float32], labels: NDArray[Any], classes: Sequence[str]) -> Scores:
    """Of logits [seeds, words of all rows, classes] against labels [rows], each [words]; an example is a row."""
    words, lengths = np.concatenate(labels), np.array([len(row) for row in labels])
    require_outputs(logits, len(labels), (len(words), len(classes)))
    kinds = sorted({kind_of(tag) for tag in classes if tag != OUTSIDE})
    predictions = logits.argmax(axis=2)
    true = _entities(words, labels, classes)
    counts = np.zeros((2, len(logits), len(labels), len(kinds)), dtype=np.int64)  # hits, and all that are predicted
    place = {kind: at for at, kind in enumerate(kinds)}
    for seed, tags in enumerate(predictions):
        for row, (wanted, found) in enumerate(zip(true, _entities(tags, labels, classes), strict=True)):
            for entity in found:
                counts[0, seed, row, place[entity[0]]] += entity in wanted
                counts[1, seed, row, place[entity[0]]] += 1
    there = np.array([[sum(entity[0] == kind for entity in row) for kind in kinds] for row in true], dtype=np.int64)
    yield from counted_scores(counts[0], counts[1], there, kinds, "")
    starts = np.cumsum(lengths) - lengths
    yield share_score("accuracy", np.add.reduceat(predictions == words, starts, axis=1, dtype=np.int64), lengths)
    losses = np.stack([_losses(each, words) for each in logits])
    yield share_score("loss", np.add.reduceat(losses, starts, axis=1), lengths, (0.0, np.inf))


def _entities(tags: NDArray[np.int64], labels: NDArray[Any], classes: Sequence[str]) -> list[set[tuple[str, int, int]]]:
    """Of each row: type, first word and last word, as seqeval finds them."""
    from seqeval.metrics.sequence_labeling import get_entities

    return [set(get_entities(sentence)) for sentence in _sentences(tags, labels, classes)]


def _sentences(tags: NDArray[np.int64], labels: NDArray[Any], classes: Sequence[str]) -> Iterator[list[str]]:
    """The tags [words of all rows] as names, row by row."""
    names = np.array(classes)[tags]
    for row in np.split(names, np.cumsum([len(row) for row in labels])[:-1]):
        yield row.tolist()


def _losses(logits: NDArray[np.float32], words: NDArray[np.int64]) -> NDArray[np.float64]:
    from scipy.special import logsumexp

    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits: the loss is NaN, and the caller ends the trial
        losses: NDArray[np.float64] = logsumexp(wide, axis=-1) - wide[np.arange(len(words)), words]
    return losses


def _decisions(rows: Rows, labels: NDArray[Any], classes: Sequence[str], outputs: tuple[Outputs, ...]) -> Decisions:
    """Which tag a word has, for each of them."""
    texts = [_around(words, at) for words in rows.inputs for at in range(len(words))]
    decided = np.repeat(np.arange(len(labels)), [len(row) for row in labels])
    return Decisions(decided, texts, np.concatenate(labels), classes, outputs, "word")


def _around(words: Sequence[str], at: int) -> str:
    """`walking to » Redondo « Beach today`: a word in its sentence."""
    before, after = words[max(0, at - AROUND) : at], words[at + 1 : at + 1 + AROUND]
    return " ".join([*before, "»", words[at], "«", *after])


TOKEN_CLASSIFICATION = Task(
    auto_model="AutoModelForTokenClassification",
    pipeline="token-classification",
    serves="entities",
    problem_type=None,
    labels=Tags(),
    loss="cross_entropy",
    metrics={
        "eval/f1": "maximize",
        "eval/precision": "maximize",
        "eval/recall": "maximize",
        "eval/f1_macro": "maximize",
        "eval/precision_macro": "maximize",
        "eval/recall_macro": "maximize",
        "eval/accuracy": "maximize",
        "eval/loss": "minimize",
    },
    shown=("f1", "f1_macro"),
    evaluate=entity_metrics,
    scores=entity_scores,
    decisions=_decisions,
    words=True,
    first_token_only=False,
)
