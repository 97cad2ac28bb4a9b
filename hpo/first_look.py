"""What a data file holds, as far as it can be seen: which columns are text and label, and what is to be learned.

`hpo.init` writes a study of it. Nothing is trained and no model is loaded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpo.cells import as_list, is_blank, is_missing, plain
from hpo.data.files import is_conll, read_conll, read_table
from hpo.errors import DataError
from hpo.tasks.multi_label_classification import HAS, split_names

# Names that columns of text and of labels often have, the likelier first.
TEXT_NAMES = ("text", "sentence", "review", "comment", "body", "content", "message", "title", "tokens", "words")
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "stars", "rating", "score", "tag", "y")
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2"))
# A column of more different numbers is no column of classes, nor is one of names that mostly differ.
MOST_NUMBERS, MOST_CLASSES, MOST_DISTINCT = 20, 200, 0.2
# From that many words on the first row is rather one of data.
MOST_WORDS_OF_A_NAME = 6
# Words a cell, on average, from which on a column may be text.
FEWEST_WORDS = 2.0
# Tokens to a word of English, by subword tokenizers, and a little more.
TOKENS_PER_WORD = 1.4
# Texts up to this length, in tokens, are what most encoders have positions for.
MOST_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """What was seen in a file."""

    path: Path
    rows: int
    columns: tuple[str, ...]
    text: tuple[str, ...]
    """One column, or two of a pair."""
    label: tuple[str, ...]
    """One column, or several of 0 and 1."""
    task: str
    classes: Mapping[str, int]
    """How many rows have each, the most frequent first; of numbers nothing."""
    numbers: tuple[float, float] | None
    """The least and the largest, where labels are numbers."""
    words: Mapping[str, int]
    """Of a text: `median`, `99 %` and `longest`."""

    @property
    def majority(self) -> float:
        """The share of the most frequent class."""
        return max(self.classes.values(), default=0) / self.rows

    @property
    def max_length(self) -> int:
        """Tokens that hold 99 % of the texts, about; a multiple of 8."""
        tokens = self.words["99 %"] * TOKENS_PER_WORD + 2 + len(self.text)
        return int(min(MOST_TOKENS, max(16, -(-tokens // 8) * 8)))


def look_at(path: Path, text: Sequence[str] = (), label: Sequence[str] = ()) -> FirstLook:
    """Looks at a file.

    Args:
        text: the columns of the text, where they are known.
        label: likewise.

    Raises:
        DataError: it cannot be read, or does not show what is text and what is label.
    """
    if not path.is_file():
        raise DataError(f"a data file must exist, but got {path}. Check the path.")
    frame = read_conll(path, ("tokens", "ner_tags"), str(path)) if is_conll(path) else read_table(path, str(path))
    if frame.empty:
        raise DataError(f"a data file must have rows, but {path} has none.")
    if unnamed := [str(name) for name in frame.columns if len(str(name).split()) > MOST_WORDS_OF_A_NAME]:
        raise DataError(
            f"the first row of {path} must name its columns, but got `{unnamed[0][:60]}`. Put a row of names, such as "
            "`text,label`, before it."
        )
    for column in (*text, *label):
        if column not in frame.columns:
            there = ", ".join(f"`{name}`" for name in frame.columns)
            raise DataError(f"the column `{column}` must exist in {path}, but it has {there}. Name one of them.")
    kinds = {str(name): _kind(frame[name]) for name in frame.columns}
    if [kinds.get(name) for name in text] == ["words"] or (not text and "words" in kinds.values()):
        return _of_words(path, frame, kinds, text, label)
    texts = tuple(text) or _text_columns(path, frame, kinds, label)
    labels = tuple(label) or _label_columns(path, frame, kinds, texts)
    return _of_texts(path, frame, kinds, texts, labels)


def _kind(column: "pd.Series[Any]") -> str:
    """`words`, `lists`, `flags`, `numbers`, `classes`, `text`, or `other`."""
    cells = [plain(cell) for cell in column if not is_blank(cell)]
    if not cells:
        return "other"
    lists = [as_list(cell) for cell in cells]
    if all(row is not None for row in lists):
        longest = max(len(row or ()) for row in lists)
        strings = all(isinstance(each, str) for row in lists for each in row or ())
        distinct = {each for row in lists for each in row or ()}
        return "words" if strings and longest > 1 and len(distinct) > max(50, len(cells) / 5) else "lists"
    names = [str(cell) for cell in cells]
    different = set(names)
    if {name.casefold() for name in different} <= HAS.keys():
        return "flags"
    if all(_is_number(name) for name in names):
        whole = all(float(name).is_integer() for name in names)
        return "classes" if whole and len(different) <= MOST_NUMBERS else "numbers"
    if _are_sets(different):
        return "lists"
    if len(different) <= min(MOST_CLASSES, max(2, MOST_DISTINCT * len(names))):
        return "classes"
    return "text" if np.mean([_num_words(name) for name in names]) >= FEWEST_WORDS else "other"


def _are_sets(cells: set[str]) -> bool:
    """Whether cells name labels with commas between. Then the same few come again and again, as no parts of texts do,
    nor of classes such as `Paris, France`."""
    sets = [split_names(cell) for cell in cells]
    distinct = {name for row in sets for name in row}
    several = any(len(row) > 1 for row in sets) and all(len(set(row)) == len(row) for row in sets)
    return several and len(distinct) <= min(len(cells), MOST_CLASSES)


# Scripts without spaces between words: Chinese and Japanese, Thai, Lao, Burmese and Khmer.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"


def _num_words(text: str) -> int:
    """What white space divides; of scripts without it every character, which is what tokenizers make of many."""
    return len(re.findall(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+", text))


def _is_number(name: str) -> bool:
    return re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", name) is not None


def _text_columns(path: Path, frame: pd.DataFrame, kinds: Mapping[str, str], label: Sequence[str]) -> tuple[str, ...]:
    found = [name for name, kind in kinds.items() if kind == "text" and name not in label]
    for pair in PAIRS:
        if set(pair) <= set(found):
            return pair
    # Without another one, a column of that name is one of texts also where few of them come again and again.
    alike = [name for name, kind in kinds.items() if kind == "classes" and name not in label]
    if named := _named(found or alike, TEXT_NAMES):
        return (named,)
    if found:
        return (max(found, key=lambda name: frame[name].astype(str).str.len().mean()),)
    raise DataError(
        f"some column must hold texts of several words, but got {_columns(kinds)} in {path}. Name it: --text COLUMN, "
        "two of them for pairs."
    )


def _label_columns(path: Path, frame: pd.DataFrame, kinds: Mapping[str, str], text: Sequence[str]) -> tuple[str, ...]:
    others = {name: kind for name, kind in kinds.items() if name not in text}
    found = [name for name, kind in others.items() if kind in ("classes", "flags", "lists", "numbers")]
    if named := _named(found, LABEL_NAMES):
        return (named,)
    # In few rows classes look like something else, and so do those of many names.
    few = [name for name, kind in others.items() if kind in ("other", "text")]
    few = [name for name in few if frame[name].astype(str).nunique() <= len(frame) / 2]
    if named := _named(few, LABEL_NAMES):
        return (named,)
    flags = [name for name in found if others[name] == "flags"]
    if len(flags) > 1 and len(flags) == len(found):
        return tuple(flags)
    # A number that goes up row by row is the row's own, and not its label.
    found = [name for name in found if not (others[name] == "numbers" and frame[name].is_unique)]
    if len(found) == 1:
        return (found[0],)
    rule = f"one column must hold the labels, but got {_columns(kinds)} in {path}"
    raise DataError(f"{rule}. Name it: --label COLUMN, several of them if each says 0 or 1.")


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that has one of these names, by the order of the names."""
    by_name = {column.casefold().strip(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _columns(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}` ({kind})" for name, kind in kinds.items())


def _of_words(
    path: Path, frame: pd.DataFrame, kinds: Mapping[str, str], text: Sequence[str], label: Sequence[str]
) -> FirstLook:
    words = text[0] if text else next(name for name, kind in kinds.items() if kind == "words")
    lists = [name for name, kind in kinds.items() if kind in ("lists", "words") and name != words]
    if not label and not lists:
        raise DataError(f"a column of tags must stand beside the words, `{words}` in {path}. Name it: --label COLUMN.")
    tags = label[0] if label else _named(lists, ("ner_tags", "tags", "labels")) or lists[0]
    rows = [as_list(cell) or [] for cell in frame[tags]]
    found = pd.Series([str(tag) for row in rows for tag in set(row)]).value_counts()
    return FirstLook(
        path=path,
        rows=len(frame),
        columns=tuple(kinds),
        text=(words,),
        label=(tags,),
        task="token_classification",
        classes={str(name): int(count) for name, count in found.items()},
        numbers=None,
        words=_lengths([len(as_list(cell) or []) for cell in frame[words]]),
    )


def _of_texts(
    path: Path, frame: pd.DataFrame, kinds: Mapping[str, str], text: tuple[str, ...], label: tuple[str, ...]
) -> FirstLook:
    task, numbers = "sequence_classification", None
    cells = [plain(cell) for cell in frame[label[0]]]
    missing = [any(map(is_blank, row)) for row in frame[list(label)].itertuples(index=False)]
    if len(label) > 1:
        task = "multi_label_classification"
        counts = {name: int(sum(HAS.get(str(plain(cell)).casefold(), False) for cell in frame[name])) for name in label}
    elif kinds[label[0]] == "lists":
        task = "multi_label_classification"
        missing = [is_missing(cell) for cell in cells]  # one that is empty says that none is there
        rows = [split_names(cell) if isinstance(cell, str) else as_list(cell) or [] for cell in cells]
        flat = pd.Series([str(each) for row in rows for each in row])
        counts = {str(name): int(count) for name, count in flat.value_counts().items()}
    elif kinds[label[0]] == "numbers":
        task, counts = "regression", {}
        known = [float(str(cell)) for cell, none in zip(cells, missing, strict=True) if not none]
        numbers = (min(known), max(known))
    else:
        there = pd.Series([str(cell) for cell, none in zip(cells, missing, strict=True) if not none])
        counts = {str(name): int(count) for name, count in there.value_counts().items()}
    if unlabelled := sum(missing):
        columns = ", ".join(f"`{name}`" for name in label)
        given = f"{unlabelled:,} of {len(frame):,} without one in {columns}"
        raise DataError(
            f"every row must have a label, but got {given} of {path}. "
            "Put them into a file of their own: `hpo.predict` can label them."
        )
    together = frame[list(text)].astype(str).agg(" ".join, axis=1)
    return FirstLook(
        path=path,
        rows=len(frame),
        columns=tuple(kinds),
        text=text,
        label=label,
        task=task,
        classes=counts,
        numbers=numbers,
        words=_lengths([_num_words(row) for row in together]),
    )


def _lengths(lengths: Sequence[int]) -> dict[str, int]:
    median, most, longest = np.percentile(lengths, [50, 99, 100], method="inverted_cdf").astype(int).tolist()
    return {"median": median, "99 %": most, "longest": longest}
