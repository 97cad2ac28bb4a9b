"""How clean the data of a study is, measured before its first trial: what overlaps, repeats, contradicts and is cut.

`data_quality` gives all of it as data, for the report; `quality_notes` says in sentences what matters to a result.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hpo.data.overlap import KINDS, Kind, Words, kinds, relations, words_of
from hpo.data.splits import SPLITS, Split, Splits
from hpo.results import Conflict, Conflicts, DataQuality, LabelOrder, Lengths, Overlap, Relatives, SplitQuality
from hpo.tasks import TASKS

PERCENTILES = {"min": 0, "5": 5, "25": 25, "50": 50, "75": 75, "95": 95, "99": 99, "max": 100}
MOST_CHARACTERS = 5_000_000
"""Of a split, compared with the others; of more text a random part. All of SST-2 is less, and takes 2 s of a core."""
EXAMPLES = 5
EXAMPLE_CHARACTERS = 200

# What is said, and from where on.
ACCURACY = 0.9
"""Leaks are said where they could move this score by its standard error: from 10 of 1,000 rows on."""
TOKENS_CUT = 0.05
"""Of a split's tokens: less is the end of a few long texts."""
MAJORITY = 0.8
"""Of train's rows: from there on an accuracy says little about the other classes."""
FEW_ROWS = 20
"""Of a class, in validation or test: its recall has a standard error of up to 11 points there."""
REPEATED = 0.05
"""Of a split's rows: they count twice, in training and in a score."""
CONTRADICTED = 0.01
"""Of a split's rows: no model gets more of them right than the labels allow."""


def data_quality(splits: Splits, lengths: Mapping[str, NDArray[np.int64]], max_length: int) -> DataQuality:
    """All of it, of the rows that the study uses.

    Args:
        lengths: of each split's texts in tokens, special ones included, before anything is cut.
        max_length: of the untuned default, in tokens.
    """
    compared = {name: _compared(getattr(splits, name)) for name in SPLITS}
    words = {name: [words_of(getattr(splits, name).texts[row]) for row in rows] for name, rows in compared.items()}
    pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
    return DataQuality(
        max_length=max_length,
        splits={name: _split(splits, name, lengths[name], max_length) for name in SPLITS},
        compared={name: len(rows) for name, rows in compared.items()},
        overlaps=[_overlap(splits, earlier, later, compared, words) for earlier, later in pairs],
        conflicts={name: _conflicts(splits, getattr(splits, name)) for name in SPLITS},
        label_order=_label_order(splits),
    )


def quality_notes(quality: DataQuality, metric: str) -> Iterator[str]:
    """What matters to a result, in a sentence each; nothing where the data is as it should be."""
    yield from _overlap_notes(quality)
    order = quality.label_order
    if order.swapped:
        yield f"Labels: integers get the names of data.labels by position, but {order.swapped}. Check their order."
    of_positive = metric in ("eval/f1", "eval/precision", "eval/recall")
    if of_positive and order.positive is not None and order.by == "sorted" and not _is_number(order.positive):
        yield f"{metric} is of {order.positive!r}, the last in sorted order: data.labels says which class is positive."
    train = quality.splits["train"]
    largest = max(train.class_shares, key=lambda name: train.class_shares[name], default="")
    if order.exclusive and train.class_shares[largest] >= MAJORITY:
        always = quality.splits["validation"].class_shares[largest]
        yield (
            f"train: {_percent(train.class_shares[largest])} of its rows are {largest!r}; to answer nothing else has "
            f"an accuracy of {_percent(always)} on validation."
        )
    for name, split in quality.splits.items():
        yield from _split_notes(name, split, quality)


def _split_notes(name: str, split: SplitQuality, quality: DataQuality) -> Iterator[str]:
    few = {label: count for label, count in split.class_counts.items() if 0 < count < FEW_ROWS}
    if few and name != "train":
        fewest = min(few, key=lambda label: few[label])
        more = f"{len(few) - 1} more class{'' if len(few) == 2 else 'es'}"
        others = f" and of {more}" if len(few) > 1 else ""
        yield f"{name}: only {_rows(few[fewest])} of {fewest!r}{others}: under {FEW_ROWS}, a class's scores say little."
    if split.repeated >= REPEATED * split.rows:
        yield f"{name}: {_share(split.repeated, split.rows)} repeat an earlier one of it."
    conflicts = quality.conflicts[name]
    if conflicts.rows >= CONTRADICTED * split.rows:
        yield f"{name}: {_share(conflicts.rows, split.rows)} have a text that also stands there with another label."
    if split.lengths.tokens_cut >= TOKENS_CUT:
        longest = split.lengths.percentiles["95"]
        yield (
            f"{name}: {_percent(split.lengths.tokens_cut)} of its tokens are cut at training.max_length="
            f"{quality.max_length}; 95 % of its texts have up to {longest:,}."
        )


def _overlap_notes(quality: DataQuality) -> Iterator[str]:
    for overlap in quality.overlaps:
        of = quality.compared[overlap.later]
        if overlap.later_rows < max(1.0, math.sqrt(ACCURACY * (1 - ACCURACY) * of)):
            continue
        whole = all(quality.compared[name] == quality.splits[name].rows for name in (overlap.earlier, overlap.later))
        way_out = f"`data.leaks: drop` removes {'them' if overlap.rows > 1 else 'it'} from {overlap.earlier}."
        yield (
            f"{overlap.later}: {'' if whole else 'at least '}{_share(overlap.later_rows, of)} nearly stand in "
            f"{overlap.earlier} ({_rows(overlap.rows)} of it; near duplicates, or one within the other), so that its "
            f"scores may be too good. {way_out}"
        )


# The parts


def _split(splits: Splits, name: str, lengths: NDArray[np.int64], max_length: int) -> SplitQuality:
    split: Split = getattr(splits, name)
    counts = splits.class_counts[name]
    found = np.percentile(lengths, list(PERCENTILES.values()), method="inverted_cdf").astype(int).tolist()
    return SplitQuality(
        rows=len(split),
        removed=dict(splits.removed.get(name, {})),
        class_counts=counts,
        class_shares={label: count / len(split) for label, count in counts.items()},
        repeated=len(split) - len({" ".join(text.split()) for text in split.texts}),
        lengths=Lengths(
            percentiles=dict(zip(PERCENTILES, found, strict=True)),
            truncated=int((lengths > max_length).sum()),
            tokens_cut=float(np.maximum(lengths - max_length, 0).sum() / lengths.sum()),
        ),
    )


def _compared(split: Split) -> Sequence[int]:
    """The numbers of the rows that are compared with the other splits: all, or a random part of much text."""
    characters = np.cumsum([len(text) for text in split.texts])
    if characters[-1] <= MOST_CHARACTERS:
        return range(len(split))
    size = max(1, int(len(split) * MOST_CHARACTERS / characters[-1]))
    return sorted(np.random.default_rng(0).choice(len(split), size, replace=False).tolist())


def _overlap(
    splits: Splits,
    earlier: str,
    later: str,
    compared: Mapping[str, Sequence[int]],
    words: Mapping[str, Sequence[Words]],
) -> Overlap:
    related = relations(words[earlier], words[later])
    found = kinds(words[earlier], related)
    others = set().union(*(relatives.others for relatives in related.values()))
    place = {text: row for text, row in zip(reversed(words[later]), reversed(compared[later]), strict=True)}
    near, far = getattr(splits, earlier), getattr(splits, later)
    examples: dict[Kind, list[Relatives]] = {kind: [] for kind in related}
    other_label = 0
    for row, text, kind in zip(compared[earlier], words[earlier], found, strict=True):
        if kind is None:
            continue
        other, similarity = related[kind].rows[text]
        labels = splits.label_text(near, row), splits.label_text(far, place[other])
        other_label += labels[0] != labels[1]
        if len(examples[kind]) < EXAMPLES:
            examples[kind].append(
                Relatives(
                    kind=KINDS[kind],
                    similarity=similarity,
                    text=_cut(near.texts[row]),
                    label=labels[0],
                    other=_cut(far.texts[place[other]]),
                    other_label=labels[1],
                )
            )
    counts = Counter(found)
    return Overlap(
        earlier=earlier,
        later=later,
        kinds={key: counts[kind] for kind, key in KINDS.items()},
        rows=len(found) - counts[None],
        other_label=other_label,
        later_rows=sum(text in others for text in words[later]),
        examples=_in_turns(list(examples.values())),
    )


def _in_turns(groups: Sequence[Sequence[Relatives]]) -> list[Relatives]:
    """So that every kind is seen: the first of each, then the second of each."""
    ordered = sorted((number, at) for at, group in enumerate(groups) for number in range(len(group)))
    return [groups[at][number] for number, at in islice(ordered, EXAMPLES)]


def _conflicts(splits: Splits, split: Split) -> Conflicts:
    """Texts that stand in one split with several labels; between splits the repeated row is removed anyway."""
    labels: dict[str, Counter[str]] = {}
    for row, text in enumerate(split.texts):
        labels.setdefault(" ".join(text.split()), Counter())[splits.label_text(split, row)] += 1
    found = {text: counts for text, counts in labels.items() if len(counts) > 1}
    return Conflicts(
        texts=len(found),
        rows=sum(counts.total() for counts in found.values()),
        examples=[Conflict(text=_cut(text), labels=dict(counts)) for text, counts in islice(found.items(), EXAMPLES)],
    )


def _label_order(splits: Splits) -> LabelOrder:
    named, exclusive = next(iter(splits.source_labels.values()), None), TASKS[splits.task].labels.exclusive
    return LabelOrder(
        labels=list(splits.labels),
        source=None if named is None else list(named),
        by=splits.labels_by,
        positive=splits.labels[1] if exclusive and len(splits.labels) == 2 else None,
        swapped=_swapped(splits) if splits.labels_by == "position" else None,
        exclusive=exclusive,
    )


def _swapped(splits: Splits) -> str | None:
    """Where a name of the data set looks like a declared one that has another position."""
    for split, names in splits.source_labels.items():
        for position, name in enumerate(names[: len(splits.labels)]):
            if _alike(name, splits.labels[position]):
                continue
            for other in splits.labels:
                if _alike(name, other):
                    return (
                        f"{position} is {name!r} in {split} and {splits.labels[position]!r} here, which has {other!r}"
                    )
    return None


def _alike(one: str, other: str) -> bool:
    """`neg`, `Negative` and `negative` are; a beginning of less than three letters is none."""
    short, long = sorted((one.casefold().strip(), other.casefold().strip()), key=len)
    return short == long or (len(short) >= 3 and long.startswith(short))


# Words


def _is_number(name: str) -> bool:
    return name.lstrip("-").isdecimal()


def _cut(text: str) -> str:
    return text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 1] + "…"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _share(count: int, of: int) -> str:
    return f"{count:,} of {of:,} rows ({_percent(count / of)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
