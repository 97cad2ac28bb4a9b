"""What a report says, made once: sentences and tables as plain text, which each template renders in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import pandas as pd

from hpo.attempts import FINALIST, is_refit
from hpo.report import account, answers, expected, formats, tables
from hpo.report.answers import state_of
from hpo.report.clean_data import clean_data
from hpo.report.data_size import more_data
from hpo.report.importance import importances, unseen_sentence
from hpo.report.outlook import another_hour
from hpo.report.parts import COMPARISON, Findings, Matrix, Table
from hpo.report.ranges import favourites, pressed_edges
from hpo.report.serving import serving
from hpo.report.tables import PARAM, View
from hpo.results import Errors, Finals, Group, Reading
from hpo.study import stored_serving

# Rows of the tables; a longer one is no reading, and all trials are in `trials.csv`.
MOST_TRIALS: Final = 200
MOST_EXAMPLES: Final = 25
# What a trial took, told where the trials did not all train as many parameters.
SIZES: Final = {"trained_parameters": "Trained parameters", "peak_memory_mib": "Memory (MiB)"}
# A confusion matrix of more labels would not be seen at a glance: its largest cells are told instead.
MOST_LABELS: Final = 12


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that a report of one study says, section by section."""

    name: str
    fallback: tuple[str, str, str] | None
    """The study that this one stands in for, its own model, its own data."""
    description: str
    answer: answers.Answer
    states: str
    # winner against default
    scores: Table
    scores_note: str
    """How to read them, or why there are none."""
    finalists: Table
    method: str
    readings: Table
    # how the search went
    length: Findings
    """Was the search long enough."""
    more_data: Findings
    """What twice the data would bring, where the study looks at it."""
    expected: str
    """The caption of the figure of the expected best; nothing where there is none."""
    failures: Table
    failed: str
    """How many did, in words."""
    finalist_failures: Table
    finalists_failed: str
    # what mattered
    mattered: Findings
    # trials
    trials: Table
    two_scores: str
    """The scores of the figure of trials, in words."""
    started: int
    # errors
    errors: "ErrorContents | None"
    no_errors: str
    """Why there are none."""
    # data
    facts: Sequence[tuple[str, str]]
    quality: Findings
    serving: Findings
    """What its model takes to serve, where that was measured."""
    compared: bool
    """A page beside it holds its winner against its teachers, and against the student without them."""
    # how to reproduce
    commands: Sequence[tuple[str, str]]
    """A comment and its command."""
    configuration: str
    """Of the winner, as YAML."""
    configured: int | None
    """The trial that has it."""
    provenance: Sequence[tuple[str, str]]
    # cost
    cost: Sequence[tuple[str, str]]
    savings: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ErrorContents:
    """What the winner gets wrong."""

    sentence: str
    matrix: Matrix | None
    confused: Table
    mistakes: Table
    by_class: Table
    by_length: Table
    disagreements: Table


def contents(view: View, folder: Path) -> Contents:
    """Everything that the page of a study in this folder says."""
    finals, reading, spec = view.finals, view.reading, view.spec
    winner = finals.winner if finals else view.best
    return Contents(
        name=view.name,
        fallback=(spec.fallback_for, spec.model.name, account.source(spec.data))
        if spec and spec.fallback_for
        else None,
        description=spec.about if spec else "",
        answer=answers.answer(view),
        states=answers.state_sentence(view),
        scores=_scores(view, reading),
        scores_note=_scores_note(view, reading),
        finalists=_finalists(finals),
        method=reading.method if reading else "",
        readings=_readings(finals),
        length=_length(view),
        more_data=more_data(view),
        expected=expected.caption(view),
        failures=_failures(view.table),
        failed=_failed(view.table),
        finalist_failures=_finalist_failures(view),
        finalists_failed=_finalists_failed(view.finalist_table),
        mattered=_mattered(view),
        trials=trials(view),
        two_scores=_two_scores(view),
        started=len(view.table),
        errors=_errors(finals.errors) if finals and finals.errors else None,
        no_errors=_no_errors(view),
        facts=list(account.facts(view)),
        quality=clean_data(view.attributes.get("data", {}).get("quality")),
        serving=serving(stored_serving(view.attributes), winner),
        compared=(folder / COMPARISON).is_file(),
        commands=account.commands(view, folder),
        configuration=account.configuration(view, winner),
        configured=winner,
        provenance=list(account.provenance(view, winner)),
        cost=list(account.cost(view)),
        savings=list(account.savings(view)),
    )


# Winner against default


def _scores(view: View, reading: Reading | None) -> Table:
    """All test metrics of both, with their difference."""
    if reading is None:
        return Table(header=[], rows=[])
    header = ["Test metric", f"Winner (trial {reading.winner})", "Untuned default", "Difference", "p"]
    rows = []
    for name, words in answers.shown_scores(view, reading).items():
        row = [formats.first_up(words), formats.estimate(reading.winner_scores[name])]
        row += [formats.estimate(reading.default_scores[name])] if name in reading.default_scores else [""]
        if found := reading.differences.get(name):
            row += [formats.difference(found), formats.p_cell(found.p_value)]
        else:
            row += ["", ""]
        rows.append(row)
    if reading.winner == reading.default:
        header, rows = [header[0], "Untuned default, the winner"], [row[:2] for row in rows]
    return Table(header=header, rows=rows, strong=frozenset({0}))


def _scores_note(view: View, reading: Reading | None) -> str:
    if view.spec is None:
        return "Another tool ran this study: only the scores of its trials are known."
    if reading is None and view.finals:
        return "The test split has not been read for this winner."
    if reading is None:
        trained = "No finalists have been trained" if view.spec.finalists else "This study trains no finalists"
        return f"{trained}, and the test split has not been read: only validation scores of the search are known."
    note = "Each with its 95 % interval."
    if len(reading.seeds) == 1:
        note = "Each with its 95 % interval, over the examples of one seed: another seed may turn any of them round."
    return f"{note} {answers.many_scores(view, reading)}".rstrip()


def _finalists(finals: Finals | None) -> Table:
    if finals is None:
        return Table(header=[], rows=[])
    rows = []
    for each in finals.finalists:
        marks = " (default)" * each.is_default + " (winner)" * (each.trial == finals.winner)
        searched = "" if each.searched is None else formats.score(each.searched)
        other = formats.score(fmean(each.test_scores)) if each.test_scores else ""
        rows.append(
            [f"{each.trial}{marks}", searched, formats.score(each.mean), other, *map(formats.score, each.scores)]
        )
    at = [each.trial for each in finals.finalists].index(finals.winner)
    header = ["Trial", "In the search", "Mean", "Other seeds", *(f"Seed {seed}" for seed in finals.seeds)]
    header = header[: 4 + max(len(each.scores) for each in finals.finalists)]
    rows = [row + [""] * (len(header) - len(row)) for row in rows]
    return Table(header=header, rows=rows, strong=frozenset({at}))


def _readings(finals: Finals | None) -> Table:
    """The readings of the test split, where there was more than one, or the one is another winner's."""
    if finals is None or (len(finals.readings) < 2 and not finals.refused):
        return Table(header=[], rows=[])
    rows = [
        [
            each.at,
            f"trial {each.winner}",
            "" if each.default is None else f"trial {each.default}",
            f"{each.rows:,}",
            str(len(each.seeds)),
        ]
        for each in finals.readings
    ]
    return Table(header=["Read at", "Winner", "Default", "Rows", "Seeds"], rows=rows, words=3)


# The search


def _length(view: View) -> Findings:
    """Whether the search was long enough."""
    outlook = another_hour(view, view.finals)
    return Findings(sentences=[outlook.sentence] if outlook else [])


def _mattered(view: View) -> Findings:
    """What decided nothing, and what the next study should search instead."""
    nothing = unseen_sentence(view, importances(view))
    edges, choices = ([each.sentence for each in found] for found in (pressed_edges(view), favourites(view)))
    return Findings(sentences=[*([nothing] if nothing else []), *edges, *choices])


def trials(view: View) -> Table:
    """The trials, best first, rounded for reading: the first `MOST_TRIALS`, and the default."""
    params = [column for column in view.table.columns if column.startswith(PARAM)]
    sizes = SIZES if view.table["trained_parameters"].nunique() > 1 else {}
    ranked = tables.leaderboard(view.table, "score", view.direction)
    ranked = ranked[(ranked.index < MOST_TRIALS) | (ranked["number"] == view.default)]
    body, strong = [], set()
    for at, (_, row) in enumerate(ranked.iterrows()):
        marks = " (best)" * (row["number"] == view.best) + " (default)" * row["is_default"]
        if row["number"] == view.best:
            strong.add(at)
        cells = [f"{row['number']}{marks}", state_of(row), *(formats.score(row[name]) for name in score_columns(view))]
        cells += [*(formats.value(row[name]) for name in params), formats.duration(row["seconds"])]
        body.append([*cells, *(_grouped(row[name]) for name in sizes)])
    names = [formats.first_up(formats.metric(name)) for name in score_columns(view)]
    header = ["Trial", "State", *names, *(name.removeprefix(PARAM) for name in params), "Time", *sizes.values()]
    return Table(header=header, rows=body, words=2, strong=frozenset(strong))


def _two_scores(view: View) -> str:
    names = view.task.shown
    return formats.first_up(formats.listed([formats.metric(name) for name in names]))


def _grouped(number: Any) -> str:
    return f"{number:,.0f}" if pd.notna(number) and number else ""


def score_columns(view: View) -> list[str]:
    """The study's own metric, and those that its task shows; of another tool's study only its score."""
    if view.spec is None:
        return ["score"]
    return list(dict.fromkeys([view.spec.metric.removeprefix("eval/"), *view.task.shown]))


def _failures(table: pd.DataFrame) -> Table:
    repeats = _repeats(table)
    body = []
    for _, row in table[table["state"] == "FAIL"].iterrows():
        repeated = f"trial {repeats[row['number']]['number']}" if row["number"] in repeats else ""
        body.append([str(row["number"]), *_failure(row), repeated])
    return Table(header=["Trial", "Reason", "Steps made", "Repeated as"], rows=body, words=2)


def _finalist_failures(view: View) -> Table:
    table, trainings = view.finalist_table, {trial.number: trial for trial in view.finalist_trials}
    repeats = _repeats(table)
    body = []
    for _, row in table[table["state"] == "FAIL"].iterrows():
        finalist = trainings[row["number"]].user_attrs[FINALIST]
        seed = "train + validation" if is_refit(trainings[row["number"]]) else str(finalist["seed"])
        again = state_of(repeats[row["number"]]) if row["number"] in repeats else ""
        body.append([str(finalist["trial"]), seed, *_failure(row), again])
    return Table(header=["Finalist", "Seed", "Reason", "Steps made", "Tried again"], rows=body, words=3)


def _repeats(table: pd.DataFrame) -> "dict[int, pd.Series[Any]]":
    """The rows that repeat another, by that one's number."""
    return {int(row["retry_of"]): row for _, row in table[table["retry_of"].notna()].iterrows()}


def _failure(row: "pd.Series[Any]") -> tuple[str, str]:
    steps = "" if pd.isna(row["optimizer_steps"]) else f"{row['optimizer_steps']} of {row['total_steps']}"
    return state_of(row).removeprefix("failed: "), steps


def _failed(table: pd.DataFrame) -> str:
    failed = int((table["state"] == "FAIL").sum())
    if again := int(table["retried"].sum()):
        return f"{formats.count(failed, 'attempt')} failed, {again:,} of them tried again"
    return f"{formats.count(failed, 'trial')} failed"


def _finalists_failed(table: pd.DataFrame) -> str:
    failed, again = int((table["state"] == "FAIL").sum()), int(table["retried"].sum())
    told = f"{formats.count(failed, 'training')} of the finalists failed"
    if again == failed == 1:
        return f"{told}, and was tried again"
    return f"{told}, {again:,} of them tried again" if again else told


# Errors


def _no_errors(view: View) -> str:
    if view.spec is None:
        return "Another tool ran this study: what its models predict is not known."
    if view.finals is None:
        return (
            "They are looked at when the finalists have been trained."
            if view.spec.finalists
            else "They are looked at for finalists, and this study trains none."
        )
    if view.task.decisions is None:
        return "A number is not simply right or wrong: what the errors come to stands among the scores."
    return "They were not looked at."


def _errors(errors: Errors) -> ErrorContents:
    small = len(errors.labels) <= MOST_LABELS
    sentence = (
        f"On the validation split the winner alone is right about "
        f"{formats.count(errors.winner_only, errors.unit)}, the default alone about "
        f"{formats.count(errors.default_only, errors.unit)}."
    )
    if any(group.default is None for group in errors.by_class):
        sentence = "These are the winner's alone: the untuned default could not be trained again."
    return ErrorContents(
        sentence=sentence,
        matrix=Matrix(labels=errors.labels, rows=errors.confusion) if small else None,
        confused=Table(header=[], rows=[]) if small else _confused(errors),
        mistakes=Table(
            header=["Text", "Label", "Predicted", "Probability", "Wrong seeds", "Row"],
            rows=[
                [each.text, each.label, each.predicted, f"{each.probability:.2f}", str(each.wrong), str(each.row)]
                for each in errors.mistakes[:MOST_EXAMPLES]
            ],
            words=3,
        ),
        by_class=_groups("Class", errors.by_class, errors.unit),
        by_length=_groups("Length", errors.by_length, errors.unit),
        disagreements=Table(
            header=["Text", "Label", "Winner", "Default", "Row"],
            rows=[
                [each.text, each.label, f"{each.winner:.2f}", f"{each.default:.2f}", str(each.row)]
                for each in errors.disagreements[:MOST_EXAMPLES]
            ],
            words=2,
        ),
    )


def _confused(errors: Errors) -> Table:
    """The largest cells beside the diagonal."""
    cells = [
        (found, label, prediction)
        for label, row in enumerate(errors.confusion)
        for prediction, found in enumerate(row)
        if found and label != prediction
    ]
    cells.sort(key=lambda cell: (-cell[0], cell[1:]))
    rows = [[errors.labels[label], errors.labels[other], f"{found:.1f}"] for found, label, other in cells[:20]]
    return Table(header=["Label", "Taken for", f"{formats.first_up(errors.unit)}s"], rows=rows, words=2)


def _groups(name: str, groups: Sequence[Group], unit: str) -> Table:
    rows = []
    for each in groups:
        rows.append([each.name, f"{each.rows:,}", formats.short(each.winner)])
        if each.default is not None:
            rows[-1] += [formats.short(each.default), formats.signed(each.winner - each.default)]
    header = [name, f"{formats.first_up(unit)}s", "Winner", "Default", "Difference"]
    return Table(header=header[: max(map(len, rows), default=3)], rows=rows)
