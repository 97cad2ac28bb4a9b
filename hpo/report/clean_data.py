"""What was found out about the data before the search, as tables."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from hpo.report import formats
from hpo.report.parts import Findings, Table
from hpo.results import DataQuality


def clean_data(found: Any) -> Findings:
    """All of a `DataQuality` as it is kept with a study; nothing where there is none, or one of another version."""
    try:
        quality = DataQuality.model_validate(found)
    except ValidationError:
        return Findings()
    tables = [_classes(quality), _lengths(quality), _removed(quality), _overlaps(quality), *_examples(quality)]
    return Findings(sentences=list(_sentences(quality)), tables=[table for table in tables if table.rows])


def _sentences(quality: DataQuality) -> Iterator[str]:
    order = quality.label_order
    how = {
        "position": "integers of the data are these names by position",
        "name": "labels of the data are these names",
        "source": "as the data set itself names them",
        "sorted": "the distinct labels in sorted order",
    }
    positive = f"; the positive one is {order.positive}" if order.positive is not None else ""
    if quality.splits["train"].class_counts:
        names = ", ".join(order.labels)
        yield f"Classes, in the order of their ids: {names} ({how.get(order.by, order.by)}){positive}."
    if order.swapped:
        yield f"Their order may be wrong: {order.swapped}."
    partly = [
        f"{compared:,} of {quality.splits[name].rows:,} of {name}"
        for name, compared in quality.compared.items()
        if compared < quality.splits[name].rows
    ]
    if partly:
        yield f"Compared across splits were {', '.join(partly)}, drawn at random: there may be more overlap."
    if not any(overlap.rows for overlap in quality.overlaps):
        yield "No text of one split is nearly the same as, contains, or stands in a text of another."


def _classes(quality: DataQuality) -> Table:
    labels = [label for label in quality.label_order.labels if label in quality.splits["train"].class_counts]
    body = [
        [
            name,
            f"{split.rows:,}",
            *(f"{split.class_counts[label]:,} ({split.class_shares[label]:.0%})" for label in labels),
            f"{split.repeated:,}",
            f"{quality.conflicts[name].rows:,}" if name in quality.conflicts else "",
        ]
        for name, split in quality.splits.items()
    ]
    header = ["Split", "Rows", *labels, "Repeated rows", "Rows of texts with several labels"]
    return Table(title="Rows and classes", header=header, rows=body)


def _lengths(quality: DataQuality) -> Table:
    columns = list(dict.fromkeys(key for split in quality.splits.values() for key in split.lengths.percentiles))
    body = [
        [
            name,
            *(str(split.lengths.percentiles.get(column, "")) for column in columns),
            f"{split.lengths.truncated:,}",
            f"{split.lengths.tokens_cut:.2%}",
        ]
        for name, split in quality.splits.items()
    ]
    header = ["Split", *(f"{column} %" if column.isdecimal() else column for column in columns)]
    return Table(
        title=f"Tokens of a text, by percentile; more than {quality.max_length} are cut",
        header=[*header, "Texts cut", "Tokens cut"],
        rows=body,
    )


def _removed(quality: DataQuality) -> Table:
    body = [
        [name, rule.replace("_", " "), f"{rows:,}"]
        for name, split in quality.splits.items()
        for rule, rows in split.removed.items()
        if rows
    ]
    return Table(title="Rows that are not used", header=["Split", "Why", "Rows"], rows=body, words=2)


def _overlaps(quality: DataQuality) -> Table:
    kinds = list(dict.fromkeys(kind for overlap in quality.overlaps for kind in overlap.kinds))
    body = [
        [
            f"{overlap.earlier} and {overlap.later}",
            *(f"{overlap.kinds.get(kind, 0):,}" for kind in kinds),
            f"{overlap.other_label:,}",
            f"{overlap.later_rows:,}",
        ]
        for overlap in quality.overlaps
    ]
    header = ["Splits", *(formats.first_up(kind.replace("_", " ")) for kind in kinds), "With another label"]
    return Table(title="What splits share", header=[*header, "Rows of the second one"], rows=body)


def _examples(quality: DataQuality) -> Iterator[Table]:
    body = [
        [relative.kind.replace("_", " "), relative.text, relative.other, f"{relative.similarity:.2f}"]
        for overlap in quality.overlaps
        for relative in overlap.examples
    ]
    header = ["Kind", "Text of the first split", "Text of the second", "Words in common"]
    yield Table(title="Some of these texts", header=header, rows=body, words=3)
    body = [
        [name, conflict.text, ", ".join(f"{label} {rows:,}" for label, rows in conflict.labels.items())]
        for name, conflicts in quality.conflicts.items()
        for conflict in conflicts.examples
    ]
    yield Table(title="Some texts with several labels", header=["Split", "Text", "Rows"], rows=body, words=2)
