"""What a study found, in sentences: plain text, for Markdown, HTML and a terminal alike."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import pandas as pd

from hpo.report import formats, tables
from hpo.report.tables import View
from hpo.results import Difference, Finalist, Finals, Reading
from hpo.study import total_trials

NO_EVIDENCE: Final = "no evidence that tuning helped"
# Of a p-value, and of the intervals in `results.py`.
LEVEL: Final = 0.05
# Of these, less is better.
LOSSES: Final = {"loss", "calibration_error", "rmse", "mae"}


@dataclass(frozen=True)
class Answer:
    """The answer, and what has to be known beside it."""

    headline: list[str]
    """Two sentences, or fewer."""
    beside: list[str]
    """On whose rows, and how much of it is luck."""


def answer(view: View) -> Answer:
    """What came out: of the test split where it was read, else of the search with its caveat."""
    if view.finals is None:
        return _of_search(view)
    reading = view.reading
    first = _of_finalists(view, view.finals) if reading is None else _of_test(view, reading)
    return Answer(first, list(_beside_finals(view, view.finals, reading)))


def state_sentence(view: View) -> str:
    """How many trials are in each state, how many are still to come, and their time."""
    progress, started = tables.state_counts(view.table), len(view.table)
    pruned = view.table.loc[view.table["state"] == "PRUNED", "reason"].value_counts()
    why = ", ".join(f"{found} {reason}" for reason, found in pruned.items())
    words = {"COMPLETE": "complete", "PRUNED": f"pruned ({why})" if len(pruned) > 1 else "pruned"}
    words |= {"FAIL": "failed", tables.RETRIED: "tried again", "RUNNING": "running"}
    states = ", ".join(f"{progress[state]} {word}" for state, word in words.items() if state in progress)
    sentences = [f"{formats.count(started, 'trial')}{': ' if states else ' so far'}{states}."]
    if view.spec:
        left, total = view.remaining, total_trials(view.spec)
        sentences.append(f"{left} of {total} still to end." if left else f"All {total} wanted have ended.")
    if seconds := float(view.table["seconds"].sum()):
        sentences.append(f"Time in trials: {formats.duration(seconds)}.")
    return " ".join(sentences)


def is_unfinished(view: View) -> bool:
    """Whether trials run, or are still to come."""
    running = bool((view.table["state"] == "RUNNING").any())
    return running or view.remaining > 0


# The search


def _of_search(view: View) -> Answer:
    best = row_of(view, view.best)
    if best is None:
        return Answer(["No trial is complete yet, so there is no best one and nothing to compare."], [])
    so_far, error = " so far" if is_unfinished(view) else "", standard_error(view, best)
    rows = f" (one binomial standard error on {_validation_rows(view):,} validation rows)" if error is not None else ""
    first = f"The best trial{so_far} is trial {view.best}: {view.metric} {formats.score(best['score'], error)}{rows}."
    if view.spec is None:
        return Answer([first], [])
    return Answer([first, against_default(view)], [_caveat(view, best)])


def against_default(view: View) -> str:
    """How the best trial stands to the untuned default, in a sentence."""
    best = row_of(view, view.best)
    if best is None:
        return "No trial is complete yet."
    default = row_of(view, view.default)
    if default is None:
        return "The untuned default has not started."
    if default["state"] != "COMPLETE":
        return f"The untuned default (trial {view.default}) is not complete: {state_of(default)}."
    if view.default == view.best:
        return "The untuned default is itself the best: no trial is better."
    gain = best["score"] - default["score"]
    change = f"{abs(gain):.4f} {'lower' if gain < 0 else 'higher'}" if gain else "the same"
    shown = formats.score(default["score"], standard_error(view, default))
    return f"The untuned default (trial {view.default}) has {shown}; the best is {change}."


def _caveat(view: View, best: "pd.Series[Any]") -> str:
    """What the best validation score is not; by Blom's approximation of the largest of n normal draws.

    At most so much: all trials are scored on the same rows, and mostly err on the same ones.
    """
    complete, error = len(view.rivals), standard_error(view, best)
    unread = "The test split has not been read."
    if complete == 1:
        return unread
    size = ""
    if error is not None:
        expected = NormalDist().inv_cdf((complete - 0.375) / (complete + 0.25)) * error
        size = f": had all been equally good, the best would still look up to about {expected:.4f} better than it is"
    return f"As the best of {complete} complete trials on the rows that chose it, it is optimistic{size}. {unread}"


# The finalists and the test split


def _of_test(view: View, reading: Reading) -> list[str]:
    name = headline_metric(view, reading)
    winner, words = formats.estimate(reading.winner_scores[name]), formats.metric(name)
    interval = "with a 95 % interval" + (" over the examples" if len(reading.seeds) == 1 else "")
    if reading.winner == reading.default:
        return [
            f"The untuned default itself came out best: test {words} {winner}, {interval}.",
            f"So there is {NO_EVIDENCE}.",
        ]
    if name not in reading.default_scores or name not in reading.differences:
        return [
            f"The winner, trial {reading.winner}, has test {words} {winner}, {interval}.",
            "The untuned default could not be trained again, so nothing says whether tuning helped.",
        ]
    default = formats.estimate(reading.default_scores[name])
    return [
        f"The winner, trial {reading.winner}, has test {words} {winner}, the untuned default {default}, each "
        f"{interval}.",
        verdict(name, reading.differences[name], len(reading.seeds)),
    ]


def verdict(name: str, found: Difference, seeds: int) -> str:
    """Whether tuning helped, by the difference of one metric.

    A single seed cannot show that: its p-value is of the examples, and where nothing helps, seeds that differ by one
    point make it come out below 5 % in 20 of 100 simulated studies of 1,000 rows.
    """
    shown, p = formats.difference(found), formats.p_value(found.p_value)
    better = (found.value < 0) == (name in LOSSES)
    if is_uncertain(found):
        return f"There is {NO_EVIDENCE}: the difference of {shown} could as well be none ({p})."
    if seeds == 1:
        so = "It is not shown that tuning helped" if better else f"There is {NO_EVIDENCE}, rather harm"
        return (
            f"{so}: on this one seed the difference of {shown} is more than the examples would give ({p}), but another "
            "seed may turn it round."
        )
    if better:
        return f"Tuning helped: the difference of {shown} is more than chance would give ({p})."
    return f"There is {NO_EVIDENCE}, it did harm: the winner's difference of {shown} is more than chance ({p})."


def is_uncertain(found: Difference) -> bool:
    """Whether a difference may as well be none."""
    return found.low <= 0 <= found.high or found.p_value >= LEVEL


def headline_metric(view: View, reading: Reading) -> str:
    """The study's own metric where the reading has it, else accuracy, or what there is."""
    names = (*_own_metric(view), "accuracy", *reading.winner_scores)
    return next(name for name in names if name in reading.winner_scores)


def stand_in(view: View, reading: Reading) -> str | None:
    """What is to be said where it is not the study's own metric that is told."""
    if (name := headline_metric(view, reading)) in _own_metric(view):
        return None
    own = view.metric.removeprefix("validation ")
    return f"This study chose by its {view.metric}; the reading has no {own}, and {formats.metric(name)} stands in."


def _own_metric(view: View) -> tuple[str, ...]:
    """Its name, and another that the same score has."""
    name = view.spec.metric.removeprefix("eval/") if view.spec else ""
    positive = positive_class(view)
    return (name, f"f1/{positive}") if name == "f1" and positive else (name,)


def positive_class(view: View) -> str | None:
    """The class that `f1`, `precision` and `recall` are of; None where there are more than two, or none is known."""
    labels = view.attributes.get("data", {}).get("labels", [])
    return str(labels[1]) if len(labels) == 2 else None


def many_scores(view: View, reading: Reading) -> str:
    """How to read many differences at once; nothing where there is one."""
    words = shown_scores(view, reading)
    compared = [name for name in words if name in reading.differences]
    if len(compared) < 2:
        return ""
    own = words[headline_metric(view, reading)]
    whose = "what stands in for the study's own" if stand_in(view, reading) else "the study's own"
    return (
        f"Of {len(compared)} scores about one in twenty excludes zero by chance, where nothing differs: {whose}, "
        f"{own}, is the one to go by."
    )


def shown_scores(view: View, reading: Reading) -> dict[str, str]:
    """The scores of a reading that are shown, with their names in words, the study's own first.

    None stands there twice, as `f1` and as that of a class.
    """
    own, positive = headline_metric(view, reading), positive_class(view)
    twice = f"f1/{positive}" if own == "f1" else "f1"
    both = {"f1", f"f1/{positive}"} <= reading.winner_scores.keys()
    shown = {}
    for name in dict.fromkeys([own, *reading.winner_scores]):
        of = f" of {positive}" if name in ("f1", "precision", "recall") and positive else ""
        if not (both and name == twice):
            shown[name] = formats.metric(name) + of
    return shown


def _of_finalists(view: View, finals: Finals) -> list[str]:
    winner, default = finals.chosen, finals.default
    count = len(winner.fresh_scores)
    seeds = formats.count(count, "fresh seed")
    other = formats.score(default.fresh_mean) if default and default is not winner else ""
    beside = f", the untuned default {other}" if other else ""
    who = "The untuned default" if winner.is_default else f"The winner, trial {winner.trial},"
    over = f"as means over {seeds}" if count > 1 else f"on {seeds}"
    first = f"{who} has {view.metric} {formats.score(winner.fresh_mean)}{beside}, {over}."
    if finals.refused:
        return [first, f"The test split was not read for it: {finals.refused}"]
    return [first, "The test split has not been read."]


def _beside_finals(view: View, finals: Finals, reading: Reading | None) -> Iterator[str]:
    if reading:
        yield f"{_read_with(finals, reading)}."
    if reading and len(reading.seeds) == 1:
        yield (
            "The intervals and the p-value are of the rows alone: what another seed would change they do not cover, so "
            "that they come out too narrow and too small. Two seeds or more can tell."
        )
    if reading and (instead := stand_in(view, reading)):
        yield instead
    winner, best = finals.chosen, row_of(view, view.best)
    if best is not None:
        which = "it" if winner.trial == view.best else f"the best, trial {view.best},"
        again = next((each for each in finals.finalists if each.trial == view.best), None)
        now = f"; trained again on {_fresh_score(again)}" if again else ""
        count = len(view.rivals)
        chosen = f", the best of {count:,} complete trials and therefore optimistic" if count > 1 else ""
        yield f"In the search {which} had {view.metric} {formats.score(best['score'])}{chosen}{now}."
    yield from finals.notes
    if len(finals.readings) > 1:
        yield (
            f"The test split has been read {len(finals.readings)} times: each reading after the first makes its "
            "scores a little more optimistic."
        )


def _read_with(finals: Finals, reading: Reading) -> str:
    """What the test split was read with."""
    what = f"{formats.count(len(reading.seeds), 'fresh seed')} and {reading.rows:,} test rows"
    told = f"On {what}" if len(reading.seeds) == 1 else f"Means over {what}"
    # An earlier version of this program read it with the seeds that chose the winner.
    return f"{told}, by none of which anything was chosen" if reading.seeds == finals.test_seeds else told


def _fresh_score(finalist: Finalist) -> str:
    """`5 fresh seeds, 0.8171 on average`: of seeds that did not choose it, where it has such."""
    count = len(finalist.fresh_scores)
    average = " on average" if count > 1 else ""
    return f"{formats.count(count, 'fresh seed')}, {formats.score(finalist.fresh_mean)}{average}"


# Rows of the table


def row_of(view: View, number: int | None) -> "pd.Series[Any] | None":
    """A trial's row; None for none."""
    return None if number is None else view.table[view.table["number"] == number].iloc[0]


def state_of(row: "pd.Series[Any]") -> str:
    """`complete`, `complete, stopped early at 3 of 10`, `pruned at 3 of 10`, `failed: out of memory`, ..."""
    of = f" of {row['num_evaluations']}" if pd.notna(row["num_evaluations"]) else ""
    reason = str(row["reason"]).replace("_", " ") if pd.notna(row["reason"]) else ""
    match row["state"]:
        case "PRUNED":
            return f"{'diverged' if reason == 'diverged' else 'pruned'} at {row['evaluations']}{of}"
        case "FAIL":
            return f"failed: {reason}" if reason else "failed"
        case "RUNNING":
            return f"running, {row['evaluations']}{of}"
    return f"complete, {reason} at {row['evaluations']}{of}" if reason else "complete"


def standard_error(view: View, row: "pd.Series[Any]") -> float | None:
    """The binomial standard error of an accuracy; None for other metrics or an unknown number of rows.

    With two rows right and two wrong added (Agresti and Coull 1998), or a perfect score would be a certain one.
    """
    rows = _validation_rows(view)
    if view.spec is None or view.spec.metric != "eval/accuracy" or view.task.words or not rows:
        return None
    share = (row["score"] * rows + 2) / (rows + 4)
    return math.sqrt(share * (1 - share) / (rows + 4))


def _validation_rows(view: View) -> int:
    return int(view.attributes.get("data", {}).get("rows", {}).get("validation", 0))
