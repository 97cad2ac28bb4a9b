"""What a student is taught: by whom it may be, in which order of classes, word by word, and from the cache on disk."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import StudyMaker
from hpo.errors import DataError
from hpo.model_folder import tell_config
from hpo.space import trial_config
from hpo.spec import StudySpec, TrialConfig
from hpo.study_file import parse_study
from hpo.tasks.labels import UNKNOWN
from hpo.training import teachers
from hpo.training.batches import IGNORED, DeviceTokens, Rows, inputs_of
from hpo.training.finetune import finetune
from hpo.training.layout import layout_of
from hpo.training.losses import BinaryCrossEntropy, build_loss
from hpo.training.objectives.distillation import Distillation
from hpo.training.setup import save_model, set_up
from hpo.training.step import Step
from hpo.training.teachers import fused_outputs, read_teacher, teacher_outputs
from task_data import rows, task_study
from trained import train

TEACHER = {"learning_rate": 3e-3, "num_train_epochs": 3, "num_evaluations": 1, "dropout": 0.0, "max_length": 32}


def trained(config: TrialConfig, folder: Path) -> Path:
    """A model folder as a study leaves it."""
    setup = set_up(config, None)
    list(finetune(setup))
    save_model(setup, folder)
    tell_config(folder, config, setup.splits.fingerprint)
    return folder


def config_of(spec: StudySpec, **params: Any) -> TrialConfig:
    return trial_config(spec, params, seed=0)


@pytest.fixture(scope="module")
def teacher(model_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks.tiny import tiny_study

    study = tiny_study(model_folder, data_file)
    spec = parse_study(study | {"training": study["training"] | TEACHER}, "teacher.yaml")
    return trained(config_of(spec), tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture
def taught(raw_study: StudyMaker, teacher: Path) -> StudySpec:
    """A study of students of one layer."""
    study = raw_study(teachers=[str(teacher)])
    study["model"]["num_hidden_layers"] = 1
    study["training"] |= {"distillation_alpha": 0.5}
    return parse_study(study, "student.yaml")


@pytest.mark.usefixtures("no_gpu")
def test_a_student_is_told_what_its_teacher_says_of_each_row(taught: StudySpec, teacher: Path) -> None:
    setup = set_up(config_of(taught), None)
    assert isinstance(setup.step, Step) and isinstance(setup.step.objective, Distillation)
    assert setup.pretrained.model.config.num_hidden_layers == 1
    assert layout_of(setup.pretrained.model).num_layers == 1
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    wanted = np.array([5, 0, 77], dtype=np.int64)
    batch = setup.train.gather(next(setup.train.rows([wanted])))
    for told, row in zip(batch["teacher_logits"], wanted, strict=True):
        with torch.inference_mode():
            said = model(**tokenizer(setup.splits.train.texts[row], return_tensors="pt")).logits[0]
        torch.testing.assert_close(told.softmax(-1), said.softmax(-1), rtol=1e-4, atol=1e-4)
    assert "teacher_logits" not in setup.validation.gather(next(setup.validation.rows([wanted])))


@pytest.mark.usefixtures("no_gpu")
def test_a_teacher_alone_can_teach(taught: StudySpec, teacher: Path) -> None:
    """Labels do not count with `distillation_alpha: 1`, and the student learns the task all the same."""
    params = {"distillation_alpha": 1.0, "learning_rate": 3e-3, "num_train_epochs": 4}
    setup = set_up(config_of(taught, **params), None)
    *_, last = finetune(setup)
    setup_of_teacher = set_up(config_of(taught), None)
    told = teacher_outputs(read_teacher(str(teacher)), setup.splits, setup.splits.validation, "validation", None)
    of_teacher = (told.argmax(1) == setup_of_teacher.splits.validation.labels).mean()
    assert of_teacher > 0.9 and last.metrics["eval/accuracy"] > of_teacher - 0.1


@pytest.mark.usefixtures("no_gpu")
def test_each_setting_changes_what_is_learned_and_no_teacher_is_alpha_0(
    taught: StudySpec, raw_study: StudyMaker
) -> None:
    short = {"num_train_epochs": 0.2, "num_evaluations": 1}
    plain = raw_study()
    plain["model"]["num_hidden_layers"] = 1
    alone, *others = (
        train(config_of(spec, **short, **params))[0]
        for spec, params in (
            (parse_study(plain, "plain.yaml"), {}),
            (taught, {"distillation_alpha": 0.0}),
            (taught, {}),
            (taught, {"distillation_alpha": 0.9}),
            (taught, {"distillation_temperature": 5.0}),
        )
    )
    assert torch.equal(alone, others[0])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(others, 2))


def test_what_a_teacher_says_is_computed_once(taught: StudySpec, tmp_path: Path, monkeypatch: Any) -> None:
    cache = tmp_path / "cache"
    first = set_up(config_of(taught), cache)
    computed: list[str] = []
    compute = teachers._compute

    def noted(*given: Any) -> Any:
        computed.append(given[3])
        return compute(*given)

    monkeypatch.setattr(teachers, "_compute", noted)
    again = set_up(config_of(taught), cache)
    rows = [np.arange(8)]
    told, told_again = (each.train.gather(next(each.train.rows(rows)))["teacher_logits"] for each in (first, again))
    assert torch.equal(told, told_again) and computed == []
    for path in cache.iterdir():
        path.write_bytes(b"damaged")
    damaged = set_up(config_of(taught), cache)
    assert torch.equal(told, damaged.train.gather(next(damaged.train.rows(rows)))["teacher_logits"])
    assert computed == ["train"]


def test_labels_in_another_order_are_matched_by_name(raw_study: StudyMaker, teacher: Path) -> None:
    study = raw_study(teachers=[str(teacher)])
    splits = set_up(config_of(parse_study(raw_study(), "tiny.yaml")), None).splits
    one = teacher_outputs(read_teacher(str(teacher)), splits, splits.validation, "validation", None)
    swapped = type(splits)(**{**vars(splits), "labels": splits.labels[::-1]})
    other = teacher_outputs(read_teacher(str(teacher)), swapped, splits.validation, "validation", None)
    assert np.array_equal(one[:, ::-1], other) and not np.array_equal(one, other)
    assert study["data"]["labels"] == list(splits.labels)


def test_several_teachers_are_one(raw_study: StudyMaker, teacher: Path, tmp_path: Path) -> None:
    spec = parse_study(raw_study(), "tiny.yaml")
    other = trained(config_of(spec, num_train_epochs=1.0), tmp_path / "other")
    splits = set_up(config_of(spec), None).splits
    both = [read_teacher(str(teacher)), read_teacher(str(other))]
    apart = [teacher_outputs(each, splits, splits.validation, "validation", None) for each in both]
    fused = torch.from_numpy(fused_outputs(both, splits, splits.validation, "validation", None))
    mean = torch.stack([torch.from_numpy(each).softmax(-1) for each in apart]).mean(0)
    torch.testing.assert_close(fused.softmax(-1), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("kind", ["label_sets", "numbers", "tags"])
def test_every_task_can_be_taught(kind: str, model_folder: Path, tmp_path: Path) -> None:
    study = task_study(kind, model_folder, tmp_path)
    study["training"] |= {"num_train_epochs": 1, "num_evaluations": 1}
    spec = parse_study(study, "teacher.yaml")
    folder = trained(config_of(spec), tmp_path / "teacher")
    study |= {"teachers": [str(folder)]}
    study["training"] |= {"distillation_alpha": 1.0, "max_length": 8}
    setup = set_up(config_of(parse_study(study, "student.yaml")), None)
    *_, last = finetune(setup)
    assert np.isfinite(last.metrics["eval/loss"])
    if kind == "tags":
        batch = setup.train.gather(next(setup.train.rows([np.arange(8)])))
        assert torch.equal(batch["teacher_logits"].isnan().any(-1), batch["labels"] == -100)
        assert (~batch["teacher_logits"].isnan()).any()


def test_words_that_a_teacher_did_not_read(model_folder: Path, tmp_path: Path) -> None:
    study = task_study("tags", model_folder, tmp_path)
    study["training"] |= {"num_train_epochs": 1, "num_evaluations": 1, "max_length": 5}
    folder = trained(config_of(parse_study(study, "teacher.yaml")), tmp_path / "teacher")
    study |= {"teachers": [str(folder)]}
    study["training"] |= {"distillation_alpha": 0.5, "max_length": 32}
    setup = set_up(config_of(parse_study(study, "student.yaml")), None)
    batch = setup.train.gather(next(setup.train.rows([np.arange(8)])))
    unread = batch["teacher_logits"].isnan().any(-1) & (batch["labels"] != -100)
    assert unread[:, 4:].sum() == (batch["labels"][:, 4:] != -100).sum() > 0 and not unread[:, :4].any()
    *_, last = finetune(setup)
    assert np.isfinite(last.metrics["eval/loss"])


# With augmentation


@pytest.mark.usefixtures("no_gpu")
def test_words_that_stay_take_along_what_is_said_of_them(model_folder: Path, tmp_path: Path) -> None:
    study = task_study("tags", model_folder, tmp_path)
    study["training"] |= {"num_train_epochs": 1, "num_evaluations": 1}
    folder = trained(config_of(parse_study(study, "teacher.yaml")), tmp_path / "teacher")
    study |= {"teachers": [str(folder)]}
    study["training"] |= {"distillation_alpha": 0.5}
    plain = set_up(config_of(parse_study(study, "student.yaml")), None).train
    study["training"] |= {"augment_method": "deletion", "augment_probability": 0.5}
    fewer = 0
    changed = set_up(config_of(parse_study(study, "student.yaml")), None).train

    def said(tokens: DeviceTokens, rows: Rows) -> list[list[tuple[float, ...]]]:
        """By row, of each word that is read: its label and what the teacher says."""
        batch = tokens.gather(rows)
        both = torch.cat([batch["labels"][..., None], batch["teacher_logits"]], -1)
        return [[tuple(word) for word in row[row[:, 0] != IGNORED].tolist()] for row in both]

    for drawn in itertools.islice(changed.training_rows(16, np.random.default_rng(0)), 12):
        whole = said(plain, next(plain.rows([drawn.indices.numpy()])))
        for left, all_of_it in zip(said(changed, drawn), whole, strict=True):
            words = iter(all_of_it)
            assert all(word in words for word in left)  # in their order
            fewer += len(left) < len(all_of_it)
    assert fewer > 50


# Texts without labels


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("kind", ["classes", "pairs", "label_sets", "numbers", "tags"])
def test_texts_of_which_only_the_teacher_says_what_they_are(kind: str, model_folder: Path, tmp_path: Path) -> None:
    """In a batch of these alone the labels' loss is 0, and in a mixed one it is that of the labelled rows."""
    study = task_study(kind, model_folder, tmp_path)
    study["training"] |= {"num_train_epochs": 1, "num_evaluations": 1}
    plain = set_up(config_of(parse_study(study, "teacher.yaml")), None)
    folder = trained(plain.config, tmp_path / "teacher")
    columns = [study["data"].get("text_column", "text")] if kind != "pairs" else ["premise", "hypothesis"]
    texts = [{column: row[column] for column in columns} for row in rows(kind, 40, seed=9)]
    file = tmp_path / "texts.jsonl"
    known = [dict(zip(columns, [plain.splits.test.inputs[0]], strict=False))] if kind == "classes" else []
    file.write_text("".join(f"{json.dumps(row)}\n" for row in [*texts, *texts[:3], *known]), encoding="utf-8")
    study["data"] |= {"unlabelled": str(file)}
    study |= {"teachers": [str(folder)]}
    study["training"] |= {"distillation_alpha": 0.5}
    setup = set_up(config_of(parse_study(study, "student.yaml")), None)
    labelled, new = len(plain.train), len(setup.train) - len(plain.train)
    assert 30 < new <= 40 and setup.splits.fingerprint != plain.splits.fingerprint
    assert any(note.startswith(f"unlabelled: {new} texts") for note in setup.splits.notes)

    loss = build_loss(
        setup.task.loss, setup.config.training, setup.train.learned_labels, len(setup.splits.labels), "cpu"
    )
    model = setup.pretrained.model.eval()

    def losses(numbers: list[int]) -> tuple[float, float]:
        batch = setup.train.gather(next(setup.train.rows([np.array(numbers)])))
        logits = model(**inputs_of(batch)).logits
        return loss(logits, batch, batch).item(), loss.distance_to_teacher(logits, batch, batch, 1.0).item()

    alone, distance = losses([labelled, labelled + 3])
    assert alone == 0.0 and distance > 0.0
    assert losses([0, 1, labelled])[0] == pytest.approx(losses([0, 1])[0], rel=1e-4)
    *_, last = finetune(setup)
    assert np.isfinite(last.metrics["eval/loss"])
    assert all(np.isfinite(point.loss) for point in last.curve)


def test_texts_without_labels_are_left_out_where_nothing_is_learned_from_teachers(
    taught: StudySpec, raw_study: StudyMaker, teacher: Path, tmp_path: Path
) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("text\n" + "".join(f"a new text {number}\n" for number in range(30)), encoding="utf-8")
    study = of_alpha(raw_study(teachers=[str(teacher)]))
    study["data"]["unlabelled"] = str(file)
    spec = parse_study(study, "student.yaml")
    some, none = (len(set_up(config_of(spec, distillation_alpha=alpha), None).train) for alpha in (0.5, 0.0))
    assert some == none + 30


def test_weights_of_classes_are_those_of_the_labelled_rows() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 1], [np.nan, np.nan]], dtype=np.float32)
    assert np.array_equal(BinaryCrossEntropy.balanced(labels, 2), BinaryCrossEntropy.balanced(labels[:3], 2))


def test_losses_pass_over_what_tasks_do_not_know() -> None:
    assert UNKNOWN == IGNORED


def test_texts_that_are_known_already(raw_study: StudyMaker, teacher: Path, data_file: Path) -> None:
    study = of_alpha(raw_study(teachers=[str(teacher)]))
    study["data"]["unlabelled"] = str(data_file)
    assert "some text of data.unlabelled must stand in no split, but all 400 do" in refused(study)


# Who may not teach


def refused(study: dict[str, Any], **params: Any) -> str:
    with pytest.raises(DataError) as error:
        set_up(config_of(parse_study(study, "student.yaml"), **params), None)
    return str(error.value)


def of_alpha(study: dict[str, Any]) -> dict[str, Any]:
    study["training"] |= {"distillation_alpha": 0.5}
    return study


def test_no_model_of_ours(raw_study: StudyMaker, model_folder: Path) -> None:
    told = refused(of_alpha(raw_study(teachers=[str(model_folder)])))
    assert "must be a model folder that a study or hpo.train left" in told and "mlruns/STUDY/model" in told
    told = refused(of_alpha(raw_study(teachers=["./nowhere"])))
    assert "must exist" in told


def test_a_folder_that_is_damaged(raw_study: StudyMaker, teacher: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(teacher, tmp_path / "copy"))
    (folder / "training.json").write_text("{}", encoding="utf-8")
    assert "must hold the configuration" in refused(of_alpha(raw_study(teachers=[str(folder)])))


def test_a_teacher_of_another_task(raw_study: StudyMaker, model_folder: Path, teacher: Path, tmp_path: Path) -> None:
    study = of_alpha(task_study("numbers", model_folder, tmp_path) | {"teachers": [str(teacher)]})
    told = refused(study)
    assert "must have learned the same task, regression" in told and "Choose another teacher." in told


def test_a_teacher_that_reads_one_text_of_two(
    raw_study: StudyMaker, model_folder: Path, teacher: Path, tmp_path: Path
) -> None:
    told = refused(of_alpha(task_study("pairs", model_folder, tmp_path) | {"teachers": [str(teacher)]}))
    assert "must read what its student reads" in told and "reads 1 and this study 2 text columns" in told
    assert "Set data.text_column, or choose another teacher." in told


def test_a_teacher_with_other_labels(raw_study: StudyMaker, teacher: Path) -> None:
    study = of_alpha(raw_study(teachers=[str(teacher)]))
    study["data"]["labels"] = ["bad", "good"]
    told = refused(study)
    assert "must know the study's labels, bad, good" in told and "negative, positive. Set data.labels" in told


def test_a_teacher_that_knows_the_answers(raw_study: StudyMaker, teacher: Path, tmp_path: Path) -> None:
    other_seed = refused(of_alpha(raw_study(teachers=[str(teacher)], seed=1)))
    assert "may not have learned from rows that its student is measured by" in other_seed
    refitted = Path(shutil.copytree(teacher, tmp_path / "refitted"))
    known = teachers.read_teacher(str(teacher))
    assert known.data_fingerprint
    tell_config(refitted, known.config.model_copy(update={"train_on_validation": True}), known.data_fingerprint)
    told = refused(of_alpha(raw_study(teachers=[str(refitted)])))
    assert "has from 100 of the 100 rows of validation" in told and "without finalists.refit" in told


def test_a_teacher_whose_file_has_grown(raw_study: StudyMaker, data_file: Path, tmp_path: Path) -> None:
    """The same path and seed make other splits of it: what the teacher learned from may be the student's test rows."""
    rows, file = data_file.read_text("utf-8").splitlines(keepends=True), tmp_path / f"rows{data_file.suffix}"
    file.write_text("".join(rows[:300]), encoding="utf-8")
    study = raw_study()
    study["data"]["train"] = str(file)
    folder = trained(config_of(parse_study(study, "teacher.yaml"), num_train_epochs=0.2), tmp_path / "teacher")
    file.write_text("".join(rows), encoding="utf-8")
    told = refused(of_alpha(study | {"teachers": [str(folder)]}))
    assert "a teacher's data must be as it was when it learned" in told and "train it again" in told


def test_layers_that_a_model_has_not(raw_study: StudyMaker) -> None:
    study = raw_study()
    study["model"]["num_hidden_layers"] = 3
    assert "must be at most the 2 layers" in refused(study)


def test_best_yaml_repeats_the_teachers(taught: StudySpec) -> None:
    config = config_of(taught)
    assert TrialConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
