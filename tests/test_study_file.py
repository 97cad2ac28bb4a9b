"""From a file and `--set` to a study, or to every mistake in it with its place, its rule and its way out."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.errors import Problem, SpecError
from hpo.search_spec import ChoiceParameter, HyperbandPruner, RandomSampler
from hpo.space import default_params, distribution
from hpo.spec import SplitSource, StudySpec
from hpo.study_file import parse_study, read_study, study_path
from hpo.training_spec import TrainingSpec

STUDIES = Path(__file__).parent.parent / "studies"
STUDY_FILES = sorted(STUDIES.glob("*.yaml"))
WITH_FALLBACK = [path for path in STUDY_FILES if "fallback" in yaml.safe_load(path.read_text(encoding="utf-8"))]
SMALLEST: dict[str, Any] = {
    "data": {"train": "x.csv"},
    "model": {"name": "m"},
    "training": {"dropout": 0.1, "num_train_epochs": 1},
    "search_space": {"dropout": {"low": 0.0, "high": 0.3}},
}
STAND_IN: dict[str, Any] = {
    "data": {"train": "y.csv"},
    "model": {"name": "small"},
    "training": {"dropout": 0.2},
    "n_trials": 4,
    "timeout": 60,
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a study file: text as it stands, or the smallest study with sections replaced."""

    def make(text: str | None = None, **sections: Any) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text if text is not None else yaml.safe_dump(SMALLEST | sections), encoding="utf-8")
        return path

    return make


def mistakes(path: Path, *overrides: str, fallback: bool = False) -> list[Problem]:
    with pytest.raises(SpecError) as error:
        read_study(path, overrides, fallback=fallback)
    return list(error.value.problems)


def mistake(path: Path, *overrides: str, fallback: bool = False) -> Problem:
    (problem,) = mistakes(path, *overrides, fallback=fallback)
    return problem


def words(text: str) -> list[str]:
    return re.findall("[a-z]{4,}", text.lower())


class TestShippedStudies:
    def test_there_are_some(self) -> None:
        assert {"sst2", "rotten_tomatoes"} <= {path.stem for path in STUDY_FILES}
        assert WITH_FALLBACK

    @pytest.mark.parametrize(
        ("path", "fallback"),
        [*((path, False) for path in STUDY_FILES), *((path, True) for path in WITH_FALLBACK)],
        ids=lambda value: value.stem if isinstance(value, Path) else {True: "fallback", False: "study"}[value],
    )
    def test_it_is_read_and_its_default_lies_in_the_space(self, path: Path, fallback: bool) -> None:
        spec = read_study(path, fallback=fallback)
        assert spec.name == path.stem + "-fallback" * fallback
        assert spec.fallback_for == (path.stem if fallback else None)
        assert spec.description
        # It is shown also where `--set model.name=` chooses another one.
        assert not set(words(spec.model.name)) & set(words(spec.description))
        default = default_params(spec)
        assert default
        for name, value in default.items():
            among = distribution(name, spec.search_space[name])
            assert among._contains(among.to_internal_repr(value)), name

    @pytest.mark.parametrize("name", ["sst2", "rotten_tomatoes"])
    def test_it_searches_what_the_issue_asks_for(self, name: str) -> None:
        space = read_study(STUDIES / f"{name}.yaml").search_space
        assert {"learning_rate", "train_batch_size", "dropout", "max_grad_norm"} <= set(space)
        assert {"lr_scheduler_type", "warmup_ratio", "weight_decay"} <= set(space)
        clipping = space["max_grad_norm"]
        assert isinstance(clipping, ChoiceParameter) and None in clipping.choices

    def test_on_local_files(self) -> None:
        spec = read_study(STUDIES / "sst2.yaml", ["data.train=./train.tsv", "data.test=./dev.tsv"])
        assert (spec.data.train, spec.data.test) == (
            SplitSource(source="./train.tsv"),
            SplitSource(source="./dev.tsv"),
        )


class TestFile:
    @pytest.mark.parametrize(("text", "given"), [("", "an empty file"), ("[1]", "a list"), ("sst2", "a str")])
    def test_no_mapping(self, write: Write, text: str, given: str) -> None:
        problem = mistake(write(text))
        assert problem.rule == f"a study must be a mapping of settings, but got {given}"

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "binary.yaml"
        path.write_bytes(b"\xff\xfe\x00")
        assert "must be readable" in mistake(path).rule


class TestStudyPath:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("one", "two"):
            (tmp_path / f"{name}.yaml").touch()
        return tmp_path

    def test_a_name_or_a_path(self, folder: Path) -> None:
        assert study_path("one", folder) == folder / "one.yaml"
        assert study_path(str(folder / "two.yaml"), Path("elsewhere")) == folder / "two.yaml"

    @pytest.mark.parametrize("name", ["three", "", ".", "a" * 300, "a\0b"])
    def test_an_unknown_name_lists_the_known_ones(self, folder: Path, name: str) -> None:
        with pytest.raises(SpecError) as error:
            study_path(name, folder)
        (problem,) = error.value.problems
        assert f"but got `{name}`" in problem.rule
        assert problem.way_out.startswith("Choose one of one, two,")

    def test_an_unknown_name_where_there_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="There is none here"):
            study_path("one", tmp_path)

    @pytest.mark.parametrize("name", ["three.yaml", "three.yml", "some/where", "a" * 300 + ".yaml", "a\0.yaml"])
    def test_a_missing_file(self, folder: Path, name: str) -> None:
        with pytest.raises(SpecError, match="a study file must exist"):
            study_path(str(folder / name))


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            *("artifacts", "Cache", "CHECKPOINTS", "spool", "Default", "mlflow.db", "mlflow.db-journal", "optuna.db"),
            *("Optuna.DB-wal", "a.", "a..", "a.claim"),
        ],
    )
    def test_a_name_of_something_else_in_the_output_folder(self, write: Write, name: str) -> None:
        problem = mistake(write(name=name))
        assert problem.path == "name" and f"but got `{name}`" in problem.rule
        suggested = problem.way_out.partition("name: ")[2].strip("`.")
        assert read_study(write(name=suggested)).name == suggested

    @pytest.mark.parametrize("name", ["..", ".", "../a", "a/b", "a\\b", "/a", ".a", "", "a\0", "a\n", "\n", "a b", "é"])
    def test_a_name_of_no_folder(self, write: Write, name: str) -> None:
        assert mistake(write(name=name)).path == "name"

    def test_a_name_without_room_for_what_is_put_behind_it(self, write: Write) -> None:
        problem = mistake(write(name="x" * 81))
        assert problem.path == "name" and "at most 80 characters, but got 81" in problem.rule

    @pytest.mark.parametrize("name", ["a", "a.b", "my-cache", "artifacts2", "x" * 80])
    def test_a_name_of_its_own(self, write: Write, name: str) -> None:
        assert read_study(write(name=name)).name == name

    def test_a_file_of_such_a_name_is_told_how_to_be_named(self, tmp_path: Path) -> None:
        path = tmp_path / "cache.yaml"
        path.write_text(yaml.safe_dump(SMALLEST), encoding="utf-8")
        assert mistake(path).way_out == "Choose another, such as `name: study-cache`."
        assert read_study(path, ["name=study-cache"]).name == "study-cache"

    def test_a_fallback_of_it_is_not_blamed_too(self, write: Write) -> None:
        assert mistake(write(name="mlflow.db", fallback={"n_trials": 3})).path == "name"


class TestMistakes:
    def test_the_smallest_study_has_none(self, write: Write) -> None:
        spec = read_study(write())
        assert spec.name == "mine"
        assert spec.training == TrainingSpec(dropout=0.1, num_train_epochs=1)

    def test_all_at_once_each_with_file_path_rule_and_way_out(self, write: Write) -> None:
        path = write(
            data={"tran": "x.csv"},
            training={"dropout": 2, "train_batch_size": "32"},
            search_space={"learning_rate": {"low": 1, "high": 0.1}, "warmup": {"low": 0, "high": 0.1}},
            metric="eval/acc",
            sampler={"name": "tpe", "startup": 3},
            fallback={"training": {"dropuot": 0.1}},
        )
        found = {problem.path: problem for problem in mistakes(path)}
        assert set(found) == {
            *("data.train", "data.tran", "training.dropout", "training.train_batch_size", "search_space.learning_rate"),
            *("search_space.warmup", "metric", "sampler.startup", "fallback.training.dropuot"),
        }
        for problem in found.values():
            assert problem.rule and problem.way_out.endswith((".", "?"))
            shown = problem.render(str(path))
            assert str(path) in shown and problem.path in shown and problem.way_out in shown

    @pytest.mark.parametrize(
        ("override", "path", "way_out"),
        [
            ("trainig={}", "trainig", "Did you mean `training`?"),
            ("data.tran=x", "data.tran", "Did you mean `train`?"),
            ("data.train={source: x, splitt: y}", "data.train.splitt", "Did you mean `split`?"),
            ("model.revison=x", "model.revison", "Did you mean `revision`?"),
            ("training.learnign_rate=0.1", "training.learnign_rate", "Did you mean `learning_rate`?"),
            ("search_space.dropout.hihg=1", "search_space.dropout.hihg", "Did you mean `high`?"),
            ("search_space.dropuot={low: 0, high: 1}", "search_space.dropuot", "Did you mean `dropout`?"),
            ("sampler={name: tpe, n_startup: 1}", "sampler.n_startup", "Did you mean `n_startup_trials`?"),
            ("pruner={name: median, n_warmup: 1}", "pruner.n_warmup", "Did you mean `n_warmup_steps`?"),
            (
                "pruner={name: patient, wrapped: {name: median, interval: 1}}",
                "pruner.wrapped.interval",
                "Did you mean `interval_steps`?",
            ),
            ("fallback.trainin={}", "fallback.trainin", "Did you mean `training`?"),
            ("fallback.training.droput=0.1", "fallback.training.droput", "Did you mean `dropout`?"),
            ("fallback.sampler={name: gp, startup: 1}", "fallback.sampler.startup", "Did you mean `n_startup_trials`?"),
            ("zzz=1", "zzz", "Choose one of checkpoint_every, data, description, fallback,"),
        ],
    )
    def test_an_unknown_key(self, write: Write, override: str, path: str, way_out: str) -> None:
        problem = mistake(write(), override)
        assert problem.path == path
        assert problem.way_out.startswith(way_out)

    @pytest.mark.parametrize(
        ("override", "path"),
        [
            ("sampler={name: random, n_startup_trials: 3}", "sampler.n_startup_trials"),
            ("pruner={name: median, percentile: 25}", "pruner.percentile"),
            ("search_space.dropout={low: 0.0, choices: [0.1, 0.2]}", "search_space.dropout.low"),
        ],
    )
    def test_a_key_of_another_kind_is_not_said_to_be_meant(self, write: Write, override: str, path: str) -> None:
        problem = mistake(write(), override)
        assert problem.path == path
        assert "of another kind" in problem.rule and problem.way_out.startswith("Remove it")

    @pytest.mark.parametrize(
        ("override", "path", "rule", "way_out"),
        [
            ("search_space.dropout={low: 0.3, high: 0.1}", "search_space.dropout", "low=0.3, high=0.1", "Swap them."),
            (
                "search_space.weight_decay={low: 0, high: 0.1, log: true}",
                "search_space.weight_decay",
                "weight_decay: a logarithmic range must start above 0, but got low=0",
                "Raise `low`, or remove `log: true`.",
            ),
            (
                "search_space.weight_decay={low: 0.01, high: 0.1, log: true, step: 0.01}",
                "search_space.weight_decay",
                "exclude each other",
                "Remove one of them.",
            ),
            ("training.train_batch_size=0", "training.train_batch_size", "greater than or equal to 1", "Raise it."),
            (
                "search_space.train_batch_size={choices: [0, 32]}",
                "search_space.train_batch_size",
                "choices must be greater than or equal to 1, but got 0",
                "Change it.",
            ),
            ("metric=eval/acc", "metric", "must be one of eval/accuracy,", "Did you mean `eval/accuracy`?"),
            ("metric=bleu", "metric", "but got 'bleu'", "Choose one of eval/accuracy,"),
            ("training.lr_scheduler_type=cosin", "training.lr_scheduler_type", "'cosin'", "Did you mean `cosine`?"),
            (
                "search_space.lr_scheduler_type={choices: [linear, polynomail]}",
                "search_space.lr_scheduler_type",
                "but got 'polynomail'",
                "Did you mean `polynomial`?",
            ),
            ("sampler.name=tpee", "sampler.name", "must be one of tpe, random", "Did you mean `tpe`?"),
            ("sampler={n_startup_trials: 3}", "sampler", "`name` must be given", "Add `name:`."),
            ("sampler=random", "sampler", "must be a section of settings", "Write `sampler: {name: random}`."),
            ("pruner=none", "pruner", "must be a section of settings", "Write `pruner: {name: none}`."),
            ("training=3", "training", "training must be a section of settings, but got training=3", "Change it."),
            ("data=null", "data", "data must be a section of settings", "Change it."),
            ("search_space={}", "search_space", "search_space must have at least 1 item, not 0", "Change it."),
            ("search_space.dropout=0.1", "search_space.dropout", "must be a section of settings", "Change it."),
            ("search_space.dropout={low: 0.1}", "search_space.dropout.high", "`high` must be given", "Add it."),
            ("search_space.dropout={choices: [0.1]}", "search_space.dropout.choices", "must have at least 2", ""),
            ("training.dropout=.nan", "training.dropout", "must be a finite number, but got dropout=nan", "Change it."),
            ("training.learning_rate=.inf", "training.learning_rate", "must be a finite number", "Change it."),
            ("search_space.dropout.high=.inf", "search_space.dropout.high", "or a finite number", "Change it."),
            ("search_space.dropout={choices: [0.1, .nan]}", "search_space.dropout.choices.1", "a finite number", ""),
            ("timeout=.inf", "timeout", "must be a finite number", "Change it."),
            ("n_trials='30'", "n_trials", "must be a valid integer, but got n_trials='30'", "Write a number, without"),
            ("n_trials=3.0", "n_trials", "must be a valid integer, but got n_trials=3.0", "Change it."),
            ("n_trials=yes", "n_trials", "must be a valid integer, but got n_trials=True", "Change it."),
            ("n_trials=0", "n_trials", "must be greater than or equal to 1", "Raise it."),
            ("data.validation_size=ten", "data.validation_size", "a valid integer or a valid number", "Write a number"),
            ("data.validation_size=0", "data.validation_size", "greater than or equal to 1 or greater than 0", ""),
            ("description=no", "description", "must be a valid string, but got description=False", "Quote it: YAML"),
            ("data.labels=[no, positive]", "data.labels.0", "labels.0 must be a valid string", "Quote it: YAML reads"),
            ("data.labels=[positive]", "data.labels", "must have at least 2 items, not 1", "Change it."),
            ("data.labels=positive", "data.labels", "must be a valid list", "Change it."),
            ("data.text_column=3", "data.text_column", "must be a valid string", "Quote it."),
            ("name=a b", "name", "but got name='a b'", "Use letters, digits,"),
            ("name=../mine", "name", "but got name='../mine'", "Use letters, digits,"),
            ("seed=-1", "seed", "must be greater than or equal to 0", "Raise it."),
        ],
    )
    def test_one_is_said_once(self, write: Write, override: str, path: str, rule: str, way_out: str) -> None:
        problem = mistake(write(), override)
        assert problem.path == path
        assert rule in problem.rule
        assert problem.way_out.startswith(way_out)

    def test_an_improper_key(self, write: Write) -> None:
        problem = mistake(write(f"yes: 1\n{yaml.safe_dump(SMALLEST)}"))
        assert problem.rule == "a key must be a string, but got True"
        assert problem.way_out.startswith("Quote it")

    def test_a_name_taken_from_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "my study.yaml"
        path.write_text(yaml.safe_dump(SMALLEST | {"fallback": {"n_trials": 1}}), encoding="utf-8")
        assert mistake(path).path == "name"
        assert read_study(path, ["name=mine"]).name == "mine"

    def test_plain_data_is_checked_the_same_way(self) -> None:
        with pytest.raises(SpecError, match="Did you mean `training`") as error:
            parse_study(SMALLEST | {"name": "mine", "trainig": {}}, "somewhere")
        assert error.value.file == "somewhere"


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "read", "value"),
        [
            ("training.max_length=64", lambda spec: spec.training.max_length, 64),
            ("training.learning_rate=1e-4", lambda spec: spec.training.learning_rate, 1e-4),
            ("training.max_grad_norm=null", lambda spec: spec.training.max_grad_norm, None),
            ("description=a=b", lambda spec: spec.description, "a=b"),
            ("data.train=./y.csv", lambda spec: spec.data.train.source, "./y.csv"),
            ("data.train={source: y, where: {a: 1}}", lambda spec: spec.data.train.where, {"a": 1}),
            ("data.test.source=./y.csv", lambda spec: spec.data.test.source, "./y.csv"),
            ("sampler.name=random", lambda spec: spec.sampler, RandomSampler(name="random")),
            ("search_space.dropout.high=0.2", lambda spec: spec.search_space["dropout"].high, 0.2),
            (
                "search_space.model.name={choices: [m, n]}",
                lambda spec: spec.search_space["model.name"].choices,
                ["m", "n"],
            ),
            (
                "search_space.model.name.choices=[m, n]",
                lambda spec: spec.search_space["model.name"].choices,
                ["m", "n"],
            ),
            (" training.max_length =64", lambda spec: spec.training.max_length, 64),
        ],
    )
    def test_any_key(self, write: Write, override: str, read: Callable[[StudySpec], Any], value: Any) -> None:
        before = read_study(write())
        after = read_study(write(), [override])
        assert read(after) == value
        assert before != after

    def test_a_section_that_is_null_is_made(self, write: Write) -> None:
        assert read_study(write(pruner=None), ["pruner.name=hyperband"]).pruner == HyperbandPruner(name="hyperband")

    def test_a_range_that_is_null_is_no_longer_searched(self, write: Write) -> None:
        given = write(search_space={"dropout": {"low": 0.0, "high": 0.3}, "model.name": {"choices": ["m", "n"]}})
        assert set(read_study(given, ["search_space.dropout=null"]).search_space) == {"model.name"}
        assert set(read_study(given, ["search_space.model.name=null"]).search_space) == {"dropout"}

    def test_a_range_that_is_null_but_is_not_there(self, write: Write) -> None:
        assert mistake(write(), "search_space.learning_rate=null").path == "search_space.learning_rate"

    def test_the_last_one_counts(self, write: Write) -> None:
        assert read_study(write(), ["n_trials=3", "n_trials=4"]).n_trials == 4

    @pytest.mark.parametrize("text", ["n_trials", "=3", "training..dropout=3", ".=3", ""])
    def test_bad_syntax(self, write: Write, text: str) -> None:
        problem = mistake(write(), text)
        assert problem.path == "--set"
        assert f"but got `{text}`" in problem.rule

    def test_bad_yaml(self, write: Write) -> None:
        with pytest.raises(SpecError, match=r"--set training\.dropout: 1 mistake"):
            read_study(write(), ["training.dropout=[1"])

    @pytest.mark.parametrize("text", ["data.train.split=x", "name.x=1", "search_space.dropout.low.x=1"])
    def test_below_what_is_no_section(self, write: Write, text: str) -> None:
        problem = mistake(write(name="mine"), text)
        parent = text.rpartition(".")[0]
        assert f"`{parent}` must be a section" in problem.rule
        assert problem.way_out == f"Set `{parent}` as a whole."

    def test_all_bad_ones_at_once(self, write: Write) -> None:
        assert len(mistakes(write(), "n_trials", "data.train.split=x", "=")) == 3


class TestFallback:
    def test_sections_are_replaced_whole_and_the_others_kept(self, write: Write) -> None:
        path = write(fallback=STAND_IN, metric="eval/f1_macro", n_trials=9)
        stand_in, spec = read_study(path, fallback=True), read_study(path)
        assert stand_in.training == TrainingSpec(dropout=0.2)  # num_train_epochs of the study is gone
        assert (stand_in.model.name, stand_in.data.train.source) == ("small", "y.csv")
        assert (stand_in.n_trials, stand_in.timeout, stand_in.metric) == (4, 60, "eval/f1_macro")
        assert stand_in.search_space == spec.search_space
        assert (stand_in.name, stand_in.fallback_for, stand_in.fallback) == ("mine-fallback", "mine", None)
        assert (spec.name, spec.fallback_for, spec.n_trials, spec.model.name) == ("mine", None, 9, "m")

    def test_overrides_hold_in_it_too(self, write: Write) -> None:
        path = write(fallback=STAND_IN)
        stand_in = read_study(path, ["n_trials=2", "training.max_length=32"], fallback=True)
        assert (stand_in.n_trials, stand_in.training.max_length, stand_in.training.dropout) == (2, 32, 0.2)

    def test_an_override_of_its_own_holds_in_it_alone_and_wins(self, write: Write) -> None:
        path = write(fallback=STAND_IN)
        overrides = ["fallback.training.max_length=16", "fallback.n_trials=2", "n_trials=7"]
        stand_in, spec = read_study(path, overrides, fallback=True), read_study(path, overrides)
        assert (stand_in.training.max_length, stand_in.n_trials) == (16, 2)
        assert (spec.training.max_length, spec.n_trials) == (128, 7)

    def test_it_can_be_given_or_removed_by_an_override(self, write: Write) -> None:
        assert read_study(write(), ["fallback={n_trials: 2}"], fallback=True).n_trials == 2
        assert mistake(write(fallback=STAND_IN), "fallback=null", fallback=True).path == "fallback"

    def test_its_name_follows_the_studys(self, write: Write) -> None:
        stand_in = read_study(write(fallback=STAND_IN), ["name=other"], fallback=True)
        assert (stand_in.name, stand_in.fallback_for) == ("other-fallback", "other")

    @pytest.mark.parametrize(
        ("fallback", "path"),
        [
            ({"training": {"dropout": 2}}, "fallback.training.dropout"),
            ({"training": {"dropuot": 0.1}}, "fallback.training.dropuot"),
            ({"n_trials": 0}, "fallback.n_trials"),
            ({"data": {"trian": "y.csv", "train": "y.csv"}}, "fallback.data.trian"),
            ({"metric": "eval/loss"}, "fallback.metric"),
            ({"sampler": {"name": "tpee"}}, "fallback.sampler.name"),
            # Right in themselves, wrong together with what they do not replace.
            ({"training": {"dropout": 0.5}}, "fallback.search_space.dropout"),
            ({"sampler": {"name": "grid"}}, "fallback.search_space.dropout"),
            ({"search_space": {"momentum": {"low": 0.1, "high": 0.95}}}, "fallback.search_space.momentum"),
            (3, "fallback"),
        ],
    )
    def test_a_mistake_in_it_is_found_before_it_is_needed(self, write: Write, fallback: Any, path: str) -> None:
        assert mistake(write(fallback=fallback)).path == path
        assert mistake(write(fallback=fallback), fallback=True).path == path

    def test_what_is_set_for_the_study_need_not_suit_a_stand_in_that_does_not_run(self, write: Write) -> None:
        path = write(fallback={"search_space": {"dropout": {"low": 0.0, "high": 0.2}}})
        assert read_study(path, ["training.dropout=0.25"]).training.dropout == 0.25
        assert mistake(path, "training.dropout=0.25", fallback=True).path == "fallback.search_space.dropout"

    def test_other_data_and_models_are_of_the_study_alone(self, write: Write) -> None:
        overrides = ["data.test=z.csv", "model={name: big}"]
        path = write(fallback=STAND_IN | {"data": {"train": "y.csv", "test_size": 10}})
        spec, stand_in = read_study(path, overrides), read_study(path, overrides, fallback=True)
        assert (spec.data.test, spec.model.name) == (SplitSource(source="z.csv"), "big")
        assert (stand_in.data.test, stand_in.data.test_size, stand_in.model.name) == (None, 10, "small")

    def test_a_mistake_that_an_override_mends_is_none(self, write: Write) -> None:
        assert (
            read_study(write(metric="eval/acc", fallback={"n_trials": 2}), ["metric=eval/loss"]).metric == "eval/loss"
        )

    def test_what_is_inherited_is_said_once(self, write: Write) -> None:
        path = write(metric="eval/acc", fallback={"n_trials": 0, "training": {"dropout": 0.7}})
        assert [problem.path for problem in mistakes(path)] == [
            *("metric", "fallback.n_trials", "fallback.search_space.dropout"),
        ]

    def test_a_study_without_one(self, write: Write) -> None:
        problem = mistake(write(), fallback=True)
        assert problem.path == "fallback"
        assert "`--fallback always` needs a study with a `fallback:` section" in problem.rule

    def test_null_sections_keep_the_studys(self, write: Write) -> None:
        assert read_study(write(fallback={"training": None, "n_trials": 2}), fallback=True).training.dropout == 0.1

    @pytest.mark.parametrize("fallback", [False, True])
    def test_a_study_written_out_whole_is_read_again(self, write: Write, tmp_path: Path, fallback: bool) -> None:
        spec = read_study(write(fallback={"n_trials": 2}), fallback=fallback)
        written = tmp_path / "written.yaml"
        written.write_text(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        assert read_study(written) == spec


class TestTasks:
    """What does not suit a task is a mistake of the file, told before anything is read."""

    @pytest.mark.parametrize(
        ("overrides", "path", "rule"),
        [
            (["task=regression", "metric=eval/f1"], "metric", "must be one that regression has (eval/pearson"),
            (["task=token_classification", "metric=eval/mcc"], "metric", "must be one that token_classification has"),
            (["metric=eval/pearson"], "metric", "must be one that sequence_classification has (eval/accuracy"),
            (["task=ner"], "task", "must be one of sequence_classification, multi_label_classification,"),
            (["data.text_column=[premise]"], "data.text_column", "a pair of texts has two columns, but got [premise]"),
            (["data.text_column=[a, b, c]"], "data.text_column", "a pair of texts has two columns, but got [a, b, c]"),
            (
                ["data.label_column=[a, b]"],
                "data.label_column",
                "label_column of sequence_classification is one column",
            ),
            (
                ["task=token_classification", "metric=eval/f1", "data.text_column=[a, b]"],
                "data.text_column",
                "text_column of token_classification is one column, of words",
            ),
            (
                ["task=token_classification", "metric=eval/f1", "training.augment_method=mixup"],
                "training.augment_method",
                "token_classification has a label for each word, which mixup tears apart from it",
            ),
            (
                [
                    "task=token_classification",
                    "metric=eval/f1",
                    "search_space.augment_method={choices: [none, deletion, swap]}",
                ],
                "search_space.augment_method",
                "token_classification has a label for each word, which swap tears apart from it",
            ),
            (["training.augment_method=synonym"], "training.augment_method", "must be one of none, deletion, swap,"),
            (
                ["training.augment_probability=1.5"],
                "training.augment_probability",
                "must be less than 1, but got augment_probability=1.5",
            ),
            (["training.train_fraction=0"], "training.train_fraction", "must be greater than 0"),
            (["task=regression", "metric=eval/mae"], "data.labels", "regression has numbers and no classes"),
        ],
    )
    def test_a_mistake(self, overrides: list[str], path: str, rule: str, tmp_path: Path) -> None:
        if path != "data.labels":
            overrides = [*overrides, "data.labels=null"]
        study = STUDIES / "rotten_tomatoes.yaml"
        with pytest.raises(SpecError) as raised:
            read_study(study, overrides)
        (problem,) = raised.value.problems
        assert problem.path == path and rule in problem.rule and problem.way_out
