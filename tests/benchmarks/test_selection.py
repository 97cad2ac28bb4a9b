"""What a rule chooses, on studies worked out by hand; the draws from a table; and a table that is really recorded."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from benchmarks.selection import (
    BUDGET,
    EXPORTS,
    PRESENT,
    RULES,
    TRIALS,
    Rule,
    Study,
    Table,
    choose,
    exports,
    last_evaluation,
    main,
    measure,
    outcomes,
    qualities,
    report,
    simulate,
    tabulate,
)
from benchmarks.selection_trials import (
    CURVES,
    REDRAWN,
    RUNS,
    SEEDS,
    Sizes,
    Trained,
    append,
    configurations,
    losses_of,
    margins_of,
    read_table,
    record,
    run_config,
)
from hpo.data.splits import load_splits
from hpo.space import default_params
from hpo.spec import StudySpec
from hpo.study_file import parse_study

# Three trials. The first ends highest, the second was highest on the way and keeps up over folds, the third has the
# lowest loss, the best split of its own, and the best mean over three fresh seeds.
STUDY = Study(
    curve=np.array([[0.60, 0.70, 0.80], [0.90, 0.85, 0.78], [0.70, 0.79, 0.79]]),
    curve_loss=np.array([[0.60, 0.50, 0.45], [0.30, 0.50, 0.60], [0.50, 0.42, 0.40]]),
    curve_test=np.array([[0.50, 0.51, 0.52], [0.60, 0.61, 0.62], [0.70, 0.71, 0.72]]),
    fresh=np.array([[0.70, 0.72, 0.74], [0.80, 0.76, 0.81], [0.75, 0.75, 0.90]]),
    fresh_loss=np.array([[0.40, 0.45, 0.50], [0.50, 0.50, 0.50], [0.45, 0.46, 0.55]]),
    fresh_test=np.array([[0.53, 0.54, 0.55], [0.63, 0.64, 0.65], [0.73, 0.74, 0.75]]),
    redrawn=np.array([0.70, 0.80, 0.90]),
    redrawn_test=np.array([0.56, 0.66, 0.76]),
    folds=np.array([[0.80, 0.80, 0.80], [0.78, 0.90, 0.90], [0.79, 0.70, 0.70]]),
    folds_test=np.array([[0.50, 0.50, 0.56], [0.60, 0.60, 0.66], [0.70, 0.70, 0.76]]),
    test=np.add.outer([0.5, 0.6, 0.7], [0.00, 0.01, 0.02, 0.03, 0.04, 0.05, 0.09]),
)
# The trial, what is told of it, and the test accuracy of its model.
CHOSEN = {
    "last evaluation": (0, 0.80, 0.52),
    "best evaluation": (1, 0.90, 0.60),
    "mean of the last 2": (1, 0.815, 0.62),
    "mean of the last 3": (1, 2.53 / 3, 0.62),
    "smoothed": (1, 0.8275, 0.62),
    "last evaluation, by loss": (2, 0.79, 0.72),
    "best evaluation, by loss": (1, 0.90, 0.60),
    "split redrawn for each trial": (2, 0.90, 0.76),
    "3 folds": (1, 0.86, 0.62),
    "2 finalists x 3 seeds": (2, 0.80, 0.75),  # with the default all three
    "3 finalists x 2 seeds": (1, 0.78, 0.63),
    "3 finalists x 3 seeds": (2, 0.80, 0.75),
    "3 finalists x 3 seeds, by loss": (0, 0.72, 0.53),
    "5 finalists x 3 seeds": (2, 0.80, 0.75),  # there are only three
    "mean of the last 3, 3 finalists x 2 seeds": (1, 0.78, 0.63),
    "smoothed, 3 finalists x 2 seeds": (1, 0.78, 0.63),
    "split redrawn, 3 finalists x 3 seeds": (2, 0.80, 0.75),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_chooses(rule: Rule) -> None:
    chosen, (trial, told, test) = choose(rule, STUDY), CHOSEN[rule.name]
    assert chosen.trial == trial
    assert [chosen.told, chosen.test] == pytest.approx([told, test])


def test_what_the_choices_are_worth() -> None:
    """The last evaluation's 0.5 and the mean of 0.04, 0.05 and 0.09; the other trials are 0.1 or 0.2 better in all."""
    found = outcomes(STUDY, [3] * len(RULES))
    quality = np.array([0.56 + 0.1 * CHOSEN[rule.name][0] for rule in RULES])
    told, test = np.array([CHOSEN[rule.name][1:] for rule in RULES]).T
    assert found == pytest.approx(np.concatenate([quality, test, told - quality, [0.66, 0.76]]))


def test_what_a_choice_is_worth_is_not_read_from_what_it_was_chosen_by() -> None:
    """The third trial's runs are of other values each, which the first's, chosen by the last evaluation, are not."""
    study = replace(STUDY, test=np.array([[0.5] * 7, [0.5] * 7, [0.9, 0.9, 0.9, 0.9, 0.56, 0.62, 0.64]]))
    found = dict(zip(names(), outcomes(study, [3] * len(RULES)), strict=False))
    assert found["last evaluation"] == 0.5
    assert found["3 finalists x 3 seeds"] == pytest.approx((0.56 + 0.62 + 0.64) / 3)
    assert found["split redrawn for each trial"] == pytest.approx(0.63)  # not in what the first was chosen by, either
    assert found["split redrawn, 3 finalists x 3 seeds"] == pytest.approx(0.63)
    folds = qualities(study, [2 * (rule.name == "3 folds") for rule in RULES])
    assert folds[names().index("3 folds")] == pytest.approx(0.56)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_runs_that_a_rule_has_not_seen_do_not_change_its_choice(rule: Rule) -> None:
    """Nor do those that it has seen stay without effect."""
    generator = np.random.default_rng(0)
    right = generator.random((16, len(RUNS), 120)) < 0.6
    runs = np.arange(len(RUNS))

    def told(changed: NDArray[np.bool_]) -> list[tuple[int, float]]:
        table = table_of(np.where(changed[:, None], generator.random(right.shape) < 0.6, right))
        draws, found = np.random.default_rng(1), []
        for _ in range(5):
            choice = choose(rule, measure(table, draws).study(np.arange(16), draws.integers(2, size=16)))
            found.append((choice.trial, choice.told))
        return found

    unseen = np.isin(runs, list(rule.unseen))
    assert rule.unseen & PRESENT.unseen
    assert told(unseen) == told(runs < 0)
    assert told(~unseen) != told(runs < 0)


def test_of_equals_the_first_is_chosen() -> None:
    even = replace(STUDY, curve=np.full((3, 3), 0.7), fresh=np.full((3, 3), 0.7))
    assert [choose(rule, even).trial for rule in RULES[:5]] == [0] * 5
    assert choose(Rule("", last_evaluation, finalists=3, seeds=3), even).trial == 0


def test_a_study_that_ends_earlier_has_fewer_to_choose_from() -> None:
    assert [choose(rule, STUDY.first(1)).trial for rule in RULES] == [0] * len(RULES)


def test_the_default_is_among_the_finalists_and_is_none_of_the_best_few() -> None:
    rule = Rule("", last_evaluation, finalists=1, seeds=3)
    assert choose(rule, STUDY).trial == 2  # of the others the best one, and better than the default
    of_default = np.array([[1.0], [0.0], [0.0]])
    last = replace(STUDY, curve=STUDY.curve - 0.5 * of_default, fresh=STUDY.fresh + 0.2 * of_default)
    assert choose(rule, last).trial == 0  # though the search found it the worst
    even = replace(STUDY, fresh=np.full((3, 3), 0.7))
    assert choose(replace(rule, finalists=2), even).trial == 0
    tuned = replace(even, fresh=np.array([[0.6] * 3, [0.7] * 3, [0.7] * 3]))
    assert choose(replace(rule, finalists=2), tuned).trial == 1  # of equals the first trial, not the best of the search


def test_what_a_rule_costs() -> None:
    costs = {rule.name: (rule.trainings(16), rule.trials(BUDGET)) for rule in RULES}
    assert costs["last evaluation"] == costs["split redrawn for each trial"] == (16, 28)
    assert costs["3 folds"] == (48, 9)
    assert costs["3 finalists x 3 seeds"] == (BUDGET, TRIALS) == (28, 16)
    assert costs["3 finalists x 2 seeds"] == (24, 20)
    assert costs["5 finalists x 3 seeds"] == (34, 10)
    assert all(rule.finalists < rule.trials(BUDGET) <= 41 for rule in RULES)  # of the table's configurations


def test_the_models_that_could_be_handed_over() -> None:
    """The third trial wins; its third seed is the best on validation, its first has the lowest loss."""
    assert dict(zip(EXPORTS, exports(STUDY), strict=True)) == {
        "the first fresh seed": 0.73,
        "the run of the search": 0.72,
        "the fresh seed that is best on validation": 0.75,
        "the fresh seed with the lowest validation loss": 0.73,
    }


def table_of(right: NDArray[np.bool_], evaluations: int = 2) -> Table:
    """[configurations, runs, rows] of trainings that are at every evaluation what they are at the end."""
    margins = np.where(right, 8, -8).astype(np.int8)
    trained = [
        Trained(number, {}, run, 1.0, np.repeat(rows[None], evaluations if run in CURVES else 1, axis=0))
        for number, runs in enumerate(margins)
        for run, rows in zip(RUNS, runs, strict=True)
    ]
    return tabulate(trained)


def test_validation_folds_and_test_share_no_row() -> None:
    """Every run is right on the same rows: what the parts have of them must be all of them."""
    generator = np.random.default_rng(0)
    rows = generator.random((4, 1, 120)) < 0.7
    table = table_of(np.repeat(rows, len(RUNS), axis=1))
    measured = measure(table, generator)
    assert measured.curve.shape == (4, 2, 2) and measured.folds.shape == (4, 2)
    found = 20 * (measured.curve[:, 0, -1] + measured.folds.sum(axis=1)) + 60 * measured.end_test[:, 0]
    assert found == pytest.approx(rows.sum(axis=(1, 2)))
    assert (measured.curve[..., -1] == measured.end[:, :2]).all()  # the same rows for both
    study = measured.study(np.array([2, 0]), np.array([1, 0]))
    assert study.curve[:, -1].tolist() == [measured.curve[2, 1, -1], measured.curve[0, 0, -1]]
    assert study.folds[:, 0].tolist() == study.curve[:, -1].tolist()
    assert study.test.tolist() == measured.end_test[[2, 0]].tolist()


def test_each_value_comes_from_the_run_that_it_is_said_to_be_of() -> None:
    """Runs that are right on all rows or on none."""
    right = np.zeros((2, len(RUNS), 120), dtype=bool)
    right[1, [RUNS.index(run) for run in ("seed-1", "seed-3", "redrawn", "fold-2")]] = True
    measured = measure(table_of(right), np.random.default_rng(0))
    study = measured.study(np.array([1, 1]), np.array([0, 1]))
    assert study.curve[:, -1].tolist() == study.curve_test[:, -1].tolist() == [0.0, 1.0]
    assert study.fresh.tolist() == study.fresh_test.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    assert study.folds.tolist() == study.folds_test.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    assert study.redrawn.tolist() == study.redrawn_test.tolist() == [1.0, 1.0]
    assert study.test.tolist() == right[:, :, 0][[1, 1]].tolist()


def test_a_split_is_redrawn_for_each_configuration() -> None:
    """All are right on the same half of the rows, so that a split that they shared would find them equal."""
    right = np.zeros((20, len(RUNS), 120), dtype=bool)
    right[..., :60] = True
    measured = measure(table_of(right), np.random.default_rng(0))
    assert len(set(measured.curve[:, 0, -1])) == 1
    assert len(set(measured.redrawn)) > 3


def test_where_trainings_do_not_differ_no_rule_is_better() -> None:
    """One configuration is right on all rows, whatever is drawn; the others on none."""
    right = np.zeros((9, len(RUNS), 60), dtype=bool)
    right[0] = True
    found = simulate(table_of(right), lambda study: outcomes(study, [4] * len(RULES)), 4, studies=5, tables=5)
    number = len(RULES)
    assert found.means[: 2 * number].tolist() == [1.0] * 2 * number
    assert found.means[2 * number :].tolist() == [0.0] * number + [0.25, 1.0]
    assert [found.interval(at, less=0) for at in range(number)] == [(0.0, 0.0)] * number


def test_finalists_win_where_a_single_training_is_luck() -> None:
    """A training is up to 20 points better or worse than its configuration, of which one in six is 30 points better."""
    generator = np.random.default_rng(0)
    worth = np.where(np.arange(600) % 6 == 1, 0.8, 0.5)[:, None] + generator.uniform(-0.2, 0.2, (600, len(RUNS)))
    table = table_of(generator.random((600, len(RUNS), 120)) < worth[..., None])
    two = [names().index(PRESENT.name), names().index("3 finalists x 3 seeds")]

    def values(study: Study) -> NDArray[np.float64]:
        choices, chosen = [choose(RULES[at], study) for at in two], np.zeros(len(RULES), dtype=np.int64)
        chosen[two] = [each.trial for each in choices]
        quality = qualities(study, chosen.tolist())[two]
        return np.concatenate([quality, [each.told for each in choices] - quality])

    found = simulate(table, values, 12, studies=500, tables=10)
    gain, half = found.interval(1, less=0)
    assert gain > half > 0
    assert abs(gain - 0.031) < 1.5 * half  # the mean of 6,000 studies in which nothing but the rules is played
    fall, half = found.interval(2, less=3)
    assert fall > 0.05 > half


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_chosen_configuration_is_said_to_be_worth_what_it_is(spread: float) -> None:
    """Tables of known quality, where trainings have luck with their seed and configurations with their split.

    Some runs are better than others for all alike, which must not be taken for the merit of the rules that spare them.
    """
    generator, draws, tables = np.random.default_rng(0), 10, 80
    of_all = np.array([{"redrawn": 0.1, "fold-1": -0.05, "fold-2": -0.05}.get(run, 0.0) for run in RUNS])
    split = np.array([max(0, at - len(SEEDS) + 1) for at in range(len(RUNS))])  # the seeds share theirs
    off = np.empty((tables, draws, len(RULES)))
    for number in range(tables):
        worth = 0.6 + generator.uniform(-spread, spread, 41)
        luck = generator.uniform(-0.1, 0.1, (41, len(RUNS))) + generator.uniform(-0.1, 0.1, (41, 4))[:, split]
        share = worth[:, None] + luck + of_all
        table = table_of(generator.random((41, len(RUNS), 240)) < share[..., None])
        for draw in range(draws):
            drawn = np.concatenate([[0], 1 + generator.permutation(40)[:15]])
            study = measure(table, generator).study(drawn, generator.integers(2, size=16))
            chosen = np.array([choose(rule, study).trial for rule in RULES])
            off[number, draw] = outcomes(study, [16] * len(RULES))[: len(RULES)] - worth[drawn[chosen]]
    of_tables = off.mean(axis=1)
    error = of_tables.std(axis=0, ddof=1) / np.sqrt(tables)
    assert error.max() < 0.01  # a tenth of what a seed, or a split, can do
    sigmas = of_tables.mean(axis=0) / error
    assert not {rule.name: sigma for rule, sigma in zip(RULES, sigmas, strict=True) if abs(sigma) > 3.5}
    gains = of_tables - of_tables[:, [RULES.index(PRESENT)]]
    allowed = 3.5 * gains.std(axis=0, ddof=1) / np.sqrt(tables)
    assert (np.abs(gains.mean(axis=0)) <= allowed).all()


def names() -> list[str]:
    return [rule.name for rule in RULES]


def test_what_is_not_whole_is_left_out() -> None:
    margins = np.ones((1, 12), dtype=np.int8)
    whole = [Trained(0, {}, run, 1.0, np.repeat(margins, 2 if run in CURVES else 1, axis=0)) for run in RUNS]
    unfinished = [replace(each, configuration=1) for each in whole if each.run != REDRAWN]
    diverged = [
        replace(each, configuration=2, margins=each.margins[: 0 if each.run == REDRAWN else None]) for each in whole
    ]
    assert len(tabulate([*unfinished, *whole, *diverged])) == 1
    with pytest.raises(ValueError, match="must have been trained 7 times, but there is none"):
        tabulate(unfinished)
    with pytest.raises(ValueError, match="as many configurations, but there are 1"):
        simulate(tabulate(whole), exports, 2, studies=1, tables=2)


def test_margins_keep_their_sign_and_give_the_loss() -> None:
    logits = np.array([[0.0, 1.0], [0.0, 1.0], [0.01, 0.0], [0.0, 0.01], [-40.0, 40.0]], dtype=np.float32)
    margins = margins_of(logits, np.array([1, 0, 0, 0, 1]))
    assert margins.tolist() == [8, -8, 0, -1, 127]
    # ln(1 + exp(-17/16)), ln(1 + exp(15/16)), ln(1 + exp(-1/16)), ln(1 + exp(1/16))
    assert losses_of(margins)[:4] == pytest.approx([0.29683, 1.26796, 0.66239, 0.72489], abs=1e-5)


def test_half_a_line_is_not_read_and_spoils_none(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    trained = Trained(3, {"learning_rate": 1e-4}, "fold-1", 2.5, np.array([[1, -2, 127]], dtype=np.int8))
    append(path, trained)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    append(path, replace(trained, run="fold-2", margins=np.zeros((0, 3), dtype=np.int8)))
    first, second = read_table(path)
    assert (first.configuration, first.params, first.run, first.seconds) == (3, {"learning_rate": 1e-4}, "fold-1", 2.5)
    assert first.margins.tolist() == [[1, -2, 127]]
    assert (second.run, len(second.margins)) == ("fold-2", 0)


SMALL = Sizes(pool=150, held_out=60)


@pytest.fixture
def learning(raw_study: Callable[..., dict[str, Any]]) -> StudySpec:
    """A study that learns something from 100 rows."""
    training = raw_study()["training"] | {"num_train_epochs": 4, "learning_rate": 5e-3, "train_batch_size": 8}
    return parse_study(raw_study(training=training), "tiny.yaml")


def test_no_model_sees_a_held_out_row(spec: StudySpec, tmp_path: Path) -> None:
    params = default_params(spec)

    def texts(number: int, run: str) -> tuple[set[str], set[str]]:
        config = run_config(spec, params, number, run, tmp_path, SMALL)
        splits = load_splits("sequence_classification", config.data, config.data_seed)
        assert not splits.notes  # nothing was left out, or the rows of two runs would not be the same
        return set(splits.train.texts), set(splits.validation.texts)

    learned = {(number, run): texts(number, run) for number in (0, 1) for run in RUNS}
    held_out = learned[0, "seed-0"][1]
    assert len(held_out) == 60
    for train, validation in learned.values():
        assert validation == held_out and len(train) == 100 and not train & held_out
    pool = set().union(*(train for train, _ in learned.values()))
    assert len(pool) == 150
    folds = [pool - learned[0, run][0] for run in ("seed-0", "fold-1", "fold-2")]
    assert set().union(*folds) == pool and sum(map(len, folds)) == 150
    assert learned[0, "seed-3"] == learned[1, "seed-0"]
    assert len({frozenset(learned[number, REDRAWN][0]) for number in (0, 1)} | {frozenset(pool - folds[0])}) == 3


def test_a_table_is_recorded_gone_on_with_and_replayed(
    learning: StudySpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = record(learning, tmp_path, 2, SMALL)
    trained = read_table(table)
    assert [(each.configuration, each.run) for each in trained] == [(n, run) for n in (0, 1) for run in RUNS]
    assert [each.params for each in trained[:: len(RUNS)]] == configurations(learning, 2)
    assert trained[0].params == default_params(learning)
    assert [each.margins.shape for each in trained[:3]] == [(4, 60), (4, 60), (1, 60)]
    assert len({each.margins[-1].tobytes() for each in trained[: len(RUNS)]}) == len(RUNS)  # each is one of its own
    assert max(np.mean(each.margins[-1] >= 0) for each in trained) > 0.8  # the rows are in the labels' order

    written = table.read_text().splitlines(keepends=True)
    table.write_text("".join(written[:-1]) + written[-1][:50])  # killed while it wrote
    with FileLock(tmp_path / "claims" / "1-fold-2.lock"):
        record(learning, tmp_path, 2, SMALL)
    assert len(read_table(table)) == len(trained) - 1  # another process is at it
    record(learning, tmp_path, 2, SMALL)
    again = read_table(table)[-1]
    assert (again.configuration, again.run) == (1, "fold-2")
    assert again.margins.tobytes() == trained[-1].margins.tobytes()
    assert json.loads(table.read_text().splitlines()[0])["evaluations"] == 4

    capsys.readouterr()
    sizes = ["--trials", "2", "--studies", "3", "--tables", "3"]
    assert main(["--replay", str(table), *sizes]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 configurations, 7 trainings each" in said
    for rule in RULES:
        assert f"| {rule.name} | 2 | {rule.trainings(2)} | " in said


def test_the_report_has_only_what_there_are_configurations_for() -> None:
    margins = np.ones((1, 12), dtype=np.int8)
    trained = [
        Trained(number, {}, run, 1.0, np.repeat(margins, 2 if run in CURVES else 1, axis=0))
        for number in range(3)
        for run in RUNS
    ]
    lines = report(trained, trials=3, budget=25, studies=2, tables=2)
    assert "**The same 3 trials:**" in lines and "**The same 25 trainings:**" not in lines
    assert sum(line.startswith("| the run of the search | 100.00 ± 0.00 % | +0.00 ± 0.00") for line in lines) == 1
