"""What selects the better model: real trainings, recorded once, and studies of them that choose by one rule or another.

python -m benchmarks.selection --record FOLDER         # three hours on a core; goes on where it was interrupted
python -m benchmarks.selection --replay FOLDER/trials.jsonl    # the tables, in a minute

A simulated study draws its configurations from the table, the untuned default first, which of their seeds the search
saw, and out of the rows that no model has seen its validation rows and its test rows. A rule sees the validation rows
and chooses; the test rows say how good the choice was, by trainings on splits that the rule did not look at: those that
it chose by were lucky.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray

from benchmarks.measure import ROOT, machine, say, software
from benchmarks.selection_trials import CURVES, FOLDS, REDRAWN, RUNS, SEEDS, Trained, losses_of, read_table, record
from hpo.study_file import read_study

STUDY = ROOT / "studies" / "rotten_tomatoes.yaml"
SETTINGS = (
    "training.num_train_epochs=2",
    "training.num_evaluations=6",
    "training.max_length=64",
    "sampler={name: random}",
)
TRIALS = 16
"""Of a simulated study, the untuned default among them."""
BUDGET = 28
"""Trainings, where all rules have the same: what three finalists over three seeds take after 16 trials, the default
beside them."""
SEARCHED = [RUNS.index(run) for run in CURVES]
FRESH = [[RUNS.index(run) for run in SEEDS if run != searched] for searched in CURVES]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """Every configuration all of whose trainings came to their end; the first is the untuned default."""

    right: NDArray[np.float32]
    """[configurations, runs, rows] At the end of the training: 1 where the model is right."""
    losses: NDArray[np.float32]
    curve_right: NDArray[np.float32]
    """[configurations, searched runs, evaluations, rows]"""
    curve_losses: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.right)


@dataclass(frozen=True, eq=False)
class Study:
    """What a simulated study measured, trial by trial. Accuracies but for the losses."""

    curve: Floats
    """[trials, evaluations] Of the run of the search, on the validation rows that all trials share."""
    curve_loss: Floats
    curve_test: Floats
    fresh: Floats
    """[trials, fresh seeds] On the same rows, at the end of the training."""
    fresh_loss: Floats
    fresh_test: Floats
    redrawn: Floats
    """[trials] Trained and validated on rows of its own."""
    redrawn_test: Floats
    folds: Floats
    """[trials, folds] Each model on the rows that it did not learn from."""
    folds_test: Floats
    test: Floats
    """[trials, runs] Of every training, at its end."""

    def first(self, trials: int) -> "Study":
        """The same study, ended earlier."""
        return Study(*(getattr(self, field.name)[:trials] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Ranked:
    """What a search thinks of its trials."""

    scores: Floats
    """Higher is better."""
    told: Floats
    """The accuracy that goes with the score: what a user reads."""
    test: Floats
    """Of the model that the trial would leave behind."""


@dataclass(frozen=True)
class Rule:
    """How a study chooses: by a search, and perhaps by finalists after it."""

    name: str
    rank: Callable[[Study], Ranked]
    trainings_per_trial: int = 1
    finalists: int = 0
    """The best few beside the untuned default, which is always trained with them, as by `hpo.conclusion`."""
    seeds: int = 0
    by_loss: bool = False
    """The finalists."""
    seen: tuple[str, ...] = SEEDS
    """The runs on the splits that it chooses by: their luck is in the choice, be it of the seed or of the rows."""

    def trainings(self, trials: int) -> int:
        """What the rule costs after so many trials."""
        return self.trainings_per_trial * trials + self._of_finalists

    def trials(self, trainings: int) -> int:
        """The most trials that leave no more than that to pay."""
        return (trainings - self._of_finalists) // self.trainings_per_trial

    @property
    def _of_finalists(self) -> int:
        return (self.finalists + 1) * self.seeds

    @property
    def unseen(self) -> set[int]:
        """The other runs: what they are on test says what the choice is worth."""
        return {at for at, run in enumerate(RUNS) if run not in self.seen}


@dataclass(frozen=True)
class Choice:
    """What a rule chose, and what became of it."""

    trial: int
    told: float
    """The validation accuracy that it would print."""
    test: float
    """Of the model that it would hand over: the finalist's best on validation."""


# Searches


def last_evaluation(study: Study) -> Ranked:
    return Ranked(study.curve[:, -1], study.curve[:, -1], study.curve_test[:, -1])


def best_evaluation(study: Study) -> Ranked:
    """The first of the best; its model is the one to keep."""
    return _at(study, study.curve, study.curve.argmax(axis=1))


def last_loss(study: Study) -> Ranked:
    return Ranked(-study.curve_loss[:, -1], study.curve[:, -1], study.curve_test[:, -1])


def best_loss(study: Study) -> Ranked:
    return _at(study, -study.curve_loss, study.curve_loss.argmin(axis=1))


def _at(study: Study, scores: Floats, evaluations: NDArray[np.int64]) -> Ranked:
    trials = np.arange(len(evaluations))
    return Ranked(scores[trials, evaluations], study.curve[trials, evaluations], study.curve_test[trials, evaluations])


def mean_of_last(count: int) -> Callable[[Study], Ranked]:
    """Of so many evaluations; the model is that of the last."""

    def rank(study: Study) -> Ranked:
        means = study.curve[:, -count:].mean(axis=1)
        return Ranked(means, means, study.curve_test[:, -1])

    return rank


def smoothed(study: Study) -> Ranked:
    """Each evaluation counts as much as all before it: weights of 1/2, 1/4, ... from the last."""
    value = study.curve[:, 0]
    for evaluation in range(1, study.curve.shape[1]):
        value = (value + study.curve[:, evaluation]) / 2
    return Ranked(value, value, study.curve_test[:, -1])


def redrawn_split(study: Study) -> Ranked:
    return Ranked(study.redrawn, study.redrawn, study.redrawn_test)


def fold_mean(study: Study) -> Ranked:
    """There is a model for each fold: what one of them is worth on average."""
    means = study.folds.mean(axis=1)
    return Ranked(means, means, study.folds_test.mean(axis=1))


PRESENT = Rule("last evaluation", last_evaluation)
"""With which the others are compared."""
RULES = (
    PRESENT,
    Rule("best evaluation", best_evaluation),
    Rule("mean of the last 2", mean_of_last(2)),
    Rule("mean of the last 3", mean_of_last(3)),
    Rule("smoothed", smoothed),
    Rule("last evaluation, by loss", last_loss),
    Rule("best evaluation, by loss", best_loss),
    Rule("split redrawn for each trial", redrawn_split, seen=(REDRAWN,)),
    Rule("3 folds", fold_mean, trainings_per_trial=len(FOLDS), seen=(*SEEDS, *FOLDS)),
    Rule("2 finalists x 3 seeds", last_evaluation, finalists=2, seeds=3),
    Rule("3 finalists x 2 seeds", last_evaluation, finalists=3, seeds=2),
    Rule("3 finalists x 3 seeds", last_evaluation, finalists=3, seeds=3),
    Rule("3 finalists x 3 seeds, by loss", last_loss, finalists=3, seeds=3, by_loss=True),
    Rule("5 finalists x 3 seeds", last_evaluation, finalists=5, seeds=3),
    Rule("mean of the last 3, 3 finalists x 2 seeds", mean_of_last(3), finalists=3, seeds=2),
    Rule("smoothed, 3 finalists x 2 seeds", smoothed, finalists=3, seeds=2),
    Rule("split redrawn, 3 finalists x 3 seeds", redrawn_split, finalists=3, seeds=3, seen=(*SEEDS, REDRAWN)),
)


def choose(rule: Rule, study: Study) -> Choice:
    """By the rule. Of equals the first trial; finalists are told apart by their fresh seeds alone."""
    ranked = rule.rank(study)
    if not rule.finalists:
        best = int(ranked.scores.argmax())
        return Choice(best, float(ranked.told[best]), float(ranked.test[best]))
    best = finalist(ranked, study, rule)
    told, scores = study.fresh[best, : rule.seeds], _fresh_scores(study, rule)[best]
    test = study.fresh_test[best, int(scores.argmax())]
    return Choice(best, float(told.mean()), float(test))


def finalist(ranked: Ranked, study: Study, rule: Rule) -> int:
    """The best of the default and the best few others, on the mean over their fresh seeds."""
    others = 1 + np.argsort(-ranked.scores[1:], kind="stable")
    few = np.sort([0, *others[: rule.finalists]])  # of equals the first trial wins, whatever the search thinks of it
    return int(few[_fresh_scores(study, rule)[few].mean(axis=1).argmax()])


def _fresh_scores(study: Study, rule: Rule) -> Floats:
    scores: Floats = (-study.fresh_loss if rule.by_loss else study.fresh)[:, : rule.seeds]
    return scores


def qualities(study: Study, chosen: Sequence[int]) -> Floats:
    """What the configurations are worth that the rules chose: the mean test accuracy of their unseen runs.

    Rules leave different runs unseen, and a run may be better than another for all configurations alike. So another
    rule's choice is worth what `PRESENT`'s is and its difference to that, on the runs that neither has seen.
    """
    present = study.test[chosen[RULES.index(PRESENT)]]
    level = present[list(PRESENT.unseen)].mean()
    found = []
    for rule, trial in zip(RULES, chosen, strict=True):
        neither = list(rule.unseen & PRESENT.unseen)
        found.append(level + (study.test[trial, neither] - present[neither]).mean())
    return np.array(found)


def exports(study: Study) -> Floats:
    """Test accuracies of the models that could be handed over, of one and the same winner; by `EXPORTS`."""
    rule = Rule("", last_evaluation, finalists=3, seeds=3)
    at = finalist(rule.rank(study), study, rule)
    test = study.fresh_test[at]
    return np.array(
        [
            test[0],
            study.curve_test[at, -1],
            test[study.fresh[at].argmax()],
            test[study.fresh_loss[at].argmin()],
        ]
    )


EXPORTS = (
    "the first fresh seed",
    "the run of the search",
    "the fresh seed that is best on validation",
    "the fresh seed with the lowest validation loss",
)


# Simulated studies


def tabulate(trained: Sequence[Trained]) -> Table:
    """Leaves out what is not there seven times, or diverged once: a search would have pruned that.

    Raises:
        ValueError: there is no configuration that is whole.
    """
    evaluations = max((len(each.margins) for each in trained), default=0)
    found: dict[int, dict[str, NDArray[np.int8]]] = {}
    for each in trained:
        if len(each.margins) == (evaluations if each.run in CURVES else 1):
            found.setdefault(each.configuration, {})[each.run] = each.margins
    whole = [runs for _, runs in sorted(found.items()) if len(runs) == len(RUNS)]
    if not whole:
        raise ValueError(f"a configuration must have been trained {len(RUNS)} times, but there is none")
    last = np.array([[runs[run][-1] for run in RUNS] for runs in whole])
    curves = np.array([[runs[run] for run in CURVES] for runs in whole])
    return Table(
        (last >= 0).astype(np.float32),
        losses_of(last).astype(np.float32),
        (curves >= 0).astype(np.float32),
        losses_of(curves).astype(np.float32),
    )


@dataclass(frozen=True, eq=False)
class Measured:
    """All configurations of a table on one draw of validation and test rows; axes as in `Study`, and both searches."""

    curve: Floats
    curve_loss: Floats
    curve_test: Floats
    end: Floats
    """[configurations, runs] On the validation rows."""
    end_loss: Floats
    end_test: Floats
    redrawn: Floats
    folds: Floats
    """[configurations, folds but for the first]"""

    def study(self, configurations: NDArray[np.int64], searched: NDArray[np.int64]) -> Study:
        """One of these configurations, the search having seen that one of their seeds."""
        of, fresh = configurations, np.array(FRESH)[searched]
        curve, later = self.curve[of, searched], [RUNS.index(fold) for fold in FOLDS[1:]]
        first = self.end_test[of, np.array(SEARCHED)[searched]]
        return Study(
            curve=curve,
            curve_loss=self.curve_loss[of, searched],
            curve_test=self.curve_test[of, searched],
            fresh=self.end[of[:, None], fresh],
            fresh_loss=self.end_loss[of[:, None], fresh],
            fresh_test=self.end_test[of[:, None], fresh],
            redrawn=self.redrawn[of],
            redrawn_test=self.end_test[of, RUNS.index(REDRAWN)],
            folds=np.column_stack([curve[:, -1], self.folds[of]]),
            folds_test=np.column_stack([first, self.end_test[of[:, None], later]]),
            test=self.end_test[of],
        )


def measure(table: Table, generator: np.random.Generator) -> Measured:
    """Half of the rows are to validate on, as many for each fold, and half to test on."""
    rows = generator.permutation(table.right.shape[-1])
    size = len(rows) // (2 * len(FOLDS))
    pool, test = rows[: size * len(FOLDS)], rows[size * len(FOLDS) :]
    folds = np.split(pool, len(FOLDS))
    redrawn = np.array([generator.permutation(pool)[:size] for _ in range(len(table))])
    own = np.take_along_axis(table.right[:, RUNS.index(REDRAWN)], redrawn, axis=1)
    later = [table.right[:, RUNS.index(name), :][:, part] for name, part in zip(FOLDS[1:], folds[1:], strict=True)]
    means = (
        table.curve_right[..., folds[0]],
        table.curve_losses[..., folds[0]],
        table.curve_right[..., test],
        table.right[..., folds[0]],
        table.losses[..., folds[0]],
        table.right[..., test],
        own,
        np.stack(later, axis=1),
    )
    return Measured(*(values.mean(axis=-1, dtype=np.float64) for values in means))


@dataclass(frozen=True, eq=False)
class Estimates:
    """Means over simulated studies, and how they differ with the configurations that the table happens to have."""

    means: Floats
    """[values]"""
    resampled: Floats
    """[tables, values] The means with configurations drawn again, with replacement, from those of the table, and with
    draws of rows from those of the studies."""

    def interval(self, value: int, less: int | None = None) -> tuple[float, float]:
        """A mean, or its difference to another, and half of its 95 % interval."""
        mean, all_means = self.means[value], self.resampled[:, value]
        if less is not None:
            mean, all_means = mean - self.means[less], all_means - self.resampled[:, less]
        return float(mean), 1.96 * statistics.stdev(all_means.tolist())


def simulate(
    table: Table, values: Callable[[Study], Floats], trials: int, studies: int, tables: int, seed: int = 0
) -> Estimates:
    """So many studies of so many trials, from the table and from each of its resamples.

    Raises:
        ValueError: there are not enough configurations for one.
    """
    if trials > len(table):
        raise ValueError(f"a study of {trials} trials must have as many configurations, but there are {len(table)}")
    generator = np.random.default_rng(seed)
    measured = [measure(table, generator) for _ in range(studies)]

    def mean(configurations: NDArray[np.int64], draws: NDArray[np.int64]) -> Floats:
        found = []
        for each in (measured[draw] for draw in draws):
            drawn = np.concatenate([[0], generator.permutation(configurations)[: trials - 1]])
            found.append(values(each.study(drawn, generator.integers(len(CURVES), size=len(table))[drawn])))
        average: Floats = np.mean(found, axis=0)
        return average

    others, draws = np.arange(1, len(table)), np.arange(studies)
    resampled = [mean(generator.choice(others, len(others)), generator.choice(draws, studies)) for _ in range(tables)]
    return Estimates(mean(others, draws), np.array(resampled))


def outcomes(study: Study, trials: Sequence[int]) -> Floats:
    """By rule after so many trials: quality, then its model on test, then optimism. Then of any trial, and of the one
    that would be chosen by all of its seeds on the test rows."""
    choices = [choose(rule, study.first(count)) for rule, count in zip(RULES, trials, strict=True)]
    quality = qualities(study, [each.trial for each in choices])
    told, test = np.array([(each.told, each.test) for each in choices]).T
    by_seeds = study.test[:, [RUNS.index(run) for run in SEEDS]].mean(axis=1).argmax()
    by_others = study.test[:, list(PRESENT.unseen)]
    return np.concatenate([quality, test, told - quality, [by_others.mean(), by_others[by_seeds].mean()]])


def rules_table(table: Table, trials: Sequence[int], studies: int, tables: int) -> list[str]:
    """As Markdown: every rule after its number of trials."""
    found = simulate(table, lambda study: outcomes(study, trials), max(trials), studies, tables)
    number = len(RULES)
    lines = [
        "| chosen by | trials | trainings | test accuracy of the configuration | above the last evaluation's | "
        "of the model handed over | optimism |",
        "|---|---|---|---|---|---|---|",
    ]
    for at, (rule, count) in enumerate(zip(RULES, trials, strict=True)):
        quality, half = found.interval(at)
        gain = "" if rule is PRESENT else points(*found.interval(at, less=RULES.index(PRESENT)))
        lines.append(
            f"| {rule.name} | {count} | {rule.trainings(count)} | {100 * quality:.2f} ± {100 * half:.2f} % | {gain} | "
            f"{100 * found.means[number + at]:.2f} % | {points(*found.interval(2 * number + at))} |"
        )
    any_trial, best = found.means[3 * number :]
    lines += [
        "",
        f"Any trial of the longest study: {100 * any_trial:.2f} %; the one whose {len(SEEDS)} seeds are best on the "
        f"test rows: {100 * best:.2f} %.",
    ]
    return lines


def exports_table(table: Table, trials: int, studies: int, tables: int) -> list[str]:
    """As Markdown: which model of the winner among the finalists."""
    found = simulate(table, exports, trials, studies, tables)
    lines = ["| of the winner, the model of | test accuracy | above the first |", "|---|---|---|"]
    for at, name in enumerate(EXPORTS):
        mean, half = found.interval(at)
        gain = points(*found.interval(at, less=0)) if at else ""
        lines.append(f"| {name} | {100 * mean:.2f} ± {100 * half:.2f} % | {gain} |")
    return lines


def points(value: float, half: float) -> str:
    return f"{100 * value:+.2f} ± {100 * half:.2f}"


def report(trained: Sequence[Trained], trials: int, budget: int, studies: int, tables: int) -> list[str]:
    """Everything, as Markdown."""
    table = tabulate(trained)
    there = len({each.configuration for each in trained})
    rows = table.right.shape[-1]
    size = rows // (2 * len(FOLDS))
    seconds = statistics.median(each.seconds for each in trained)
    lines = [
        f"{len(table)} of {there} configurations, {len(RUNS)} trainings each ({seconds:.0f} s, median); validation on "
        f"{size} rows, test on {rows - size * len(FOLDS)}; n = {studies} studies, intervals over {tables} resamples "
        "of the configurations.",
        "",
    ]
    if trials <= len(table):
        say("  the same trials")
        lines += [f"**The same {trials} trials:**", "", *rules_table(table, [trials] * len(RULES), studies, tables), ""]
        say("  the model")
        lines += ["**Which model of the winner:**", "", *exports_table(table, trials, studies, tables), ""]
    each = [rule.trials(budget) for rule in RULES]
    if min(each) > 0 and max(each) <= len(table):
        say("  the same trainings")
        lines += [f"**The same {budget} trainings:**", "", *rules_table(table, each, studies, tables), ""]
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, metavar="FOLDER", help="train, and write trials.jsonl there")
    what.add_argument("--replay", type=Path, metavar="FILE", help="a table that --record wrote, finished or not")
    parser.add_argument("--configurations", type=int, default=41, metavar="N", help="to record (default: 41)")
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help=f"of a study (default: {TRIALS})")
    parser.add_argument("--budget", type=int, default=BUDGET, metavar="N", help=f"trainings (default: {BUDGET})")
    parser.add_argument("--studies", type=int, default=200, metavar="N", help="of each table (default: 200)")
    parser.add_argument("--tables", type=int, default=200, metavar="N", help="resampled (default: 200)")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.record:
        record(read_study(STUDY, SETTINGS), options.record, options.configurations)
        return 0
    if not options.replay.is_file():
        parser.error(f"a table must be recorded to be replayed, but {options.replay} is not there. Use --record.")
    trained = read_table(options.replay)
    try:
        lines = report(trained, options.trials, options.budget, options.studies, options.tables)
    except ValueError as error:  # it has only begun
        parser.error(f"{error}. Go on with --record.")
    print("\n".join(lines))
    print(machine(), software(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
