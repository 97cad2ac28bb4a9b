"""Distillation as a user runs it: a one-layer student of a two-layer teacher, from the command line to a page."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.tiny import sentences, tiny_study
from conftest import StudyMaker
from hpo import space
from hpo.distill import main
from hpo.ensemble import train_ensemble
from hpo.model_folder import TRAINING, config_of
from hpo.run import main as run_main
from hpo.storage import open_storage
from hpo.students import basis_of_study, student_studies
from hpo.study import load_study, stored_finals
from hpo.study_file import parse_study
from hpo.training_spec import TrainingSpec
from task_data import task_study

FINALISTS = {"n_trials": 1, "n_seeds": 1, "n_test_seeds": 2}


def study_of(make: StudyMaker, **sections: Any) -> dict[str, Any]:
    study = make(**{"name": "teacher", "finalists": FINALISTS, "n_trials": 3} | sections)
    study["training"] |= {"learning_rate": 3e-3, "num_evaluations": 2}
    return study


def run_study(study: dict[str, Any], folder: Path, output: Path, *options: str) -> None:
    path = folder / f"{study['name']}.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    assert run_main(["--study", str(path), "--output", str(output), *options]) == 0


@pytest.fixture
def searched(raw_study: StudyMaker, tmp_path: Path, output: Path) -> Path:
    """An output folder with a study that has come to its winner."""
    run_study(study_of(raw_study), tmp_path, output)
    return output


@pytest.mark.timeout(400)
def test_a_student_of_the_two_best_trials(
    searched: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text\n" + "".join(f"{text}\n" for text, _ in sentences(60, seed=5)), encoding="utf-8")
    asked = ["--teacher", "teacher", "--student", str(model_folder), "--layers", "1", "--output", str(searched)]
    asked += ["--top", "2", "--trials", "2", "--set", "training.num_evaluations=1"]
    asked += ["--unlabelled", str(texts), "--set", "search_space.distillation_alpha={low: 0.4, high: 0.6}"]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "of teacher again, 2 of 2" in shown and "Ensemble of 2" in shown

    # Both students were searched with the same budget, on the same data; one has teachers.
    storage = open_storage(searched)
    plain, distilled = (load_study(storage, f"teacher-{each}") for each in ("student", "distilled"))
    assert len(plain.trials) == len(distilled.trials) == 2
    prints = {each.user_attrs["data"]["fingerprint"] for each in (plain, load_study(storage, "teacher"))}
    assert len(prints) == 1 and plain.user_attrs["data"]["rows"] == distilled.user_attrs["data"]["rows"]
    assert any(note.startswith("unlabelled: 60 texts") for note in distilled.user_attrs["data"]["notes"])
    assert plain.user_attrs["spec"]["teachers"] == []
    ensemble = sorted((searched / "teacher" / "ensemble").iterdir())
    assert sorted(map(Path, distilled.user_attrs["spec"]["teachers"])) == ensemble and len(ensemble) == 2
    assert "distillation_alpha" in distilled.trials[0].params and "distillation_alpha" not in plain.trials[0].params
    for study in (plain, distilled):
        finals = stored_finals(study.user_attrs)
        assert finals and len(finals.readings) == 1
        model = searched / study.study_name / "model"
        assert json.loads((model / "config.json").read_text())["num_hidden_layers"] == 1

    # The ensemble's models are those of the search: same configuration, same seed, same score to the bit on a CPU.
    best = sorted(load_study(storage, "teacher").trials, key=lambda trial: -(trial.value or 0))[0]
    assert (searched / "teacher" / "ensemble" / f"trial-{best.number:04d}" / TRAINING).is_file()
    assert (
        config_of(searched / "teacher" / "ensemble" / f"trial-{best.number:04d}").seed
        == (best.user_attrs["config"]["seed"])
    )

    page = (searched / "teacher-distilled" / "comparison.md").read_text()
    for name in ("Teacher 1", "Teacher 2", "Ensemble of 2", "Student, plainly tuned", "Student, distilled"):
        assert f"{name} |" in page.replace("**", "")
    assert "Distilled less plain student | accuracy" in page and "Ensemble less its first teacher" in page
    assert "Examples/s" in page and "surer there than of new ones" in page
    assert "<table" in (searched / "teacher-distilled" / "comparison.html").read_text()
    links = {name: (searched / name / "report.html").read_text() for name in ("teacher-distilled", "teacher-student")}
    assert ['href="comparison.html"' in page for page in links.values()] == [True, False]

    # The same again trains nothing and says the same.
    times = {path: path.stat().st_mtime_ns for path in (searched / "teacher" / "ensemble").glob("*/*.safetensors")}
    assert main(asked) == 0
    again = capsys.readouterr().out
    assert "of teacher again" not in again and "Nothing is left to run." in again
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.timeout(300)
def test_a_student_of_a_study_and_a_folder(
    model_folder: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both name entities. From a folder alone a student takes over its data, from a study its budget too."""
    for name, seed in (("one", 0), ("other", 1)):
        study = task_study("tags", model_folder, tmp_path, name=name, finalists=FINALISTS, n_trials=1)
        run_study(study | {"seed": seed}, tmp_path, output)
    folder = output / "other" / "model"
    config = config_of(folder)
    assert config.data_seed == 1  # and so it has learned some of the rows that `one` held out
    asked = ["--student", str(model_folder), "--layers", "1", "--output", str(output), "--trials", "1"]
    assert main(["--teacher", "one", "--teacher", str(folder), *asked]) == 2
    assert "other" in capsys.readouterr().err

    run_study(study | {"seed": 0}, tmp_path, output, "--fresh")
    capsys.readouterr()
    assert main(["--teacher", "one", "--teacher", str(folder), *asked]) == 0
    assert "Ensemble of 2" in capsys.readouterr().out
    page = (output / "one-distilled" / "comparison.md").read_text()
    assert "Teacher 2" in page and "Distilled less plain student | F1" in page

    assert main(["--teacher", str(folder), "--name", "alone", *asked, "--set", "finalists=null"]) == 0
    spec = load_study(open_storage(output), "alone-distilled").user_attrs["spec"]
    assert spec["task"] == "token_classification" and spec["teachers"] == [str(folder)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("kind", "metric"), [("pairs", "accuracy"), ("label_sets", "micro F1"), ("numbers", "Pearson's r")]
)
def test_a_student_of_every_other_task(
    kind: str, metric: str, model_folder: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = task_study(kind, model_folder, tmp_path, finalists=FINALISTS, n_trials=2, pruner={"name": "none"})
    run_study(study, tmp_path, output)
    asked = ["--student", str(model_folder), "--layers", "1", "--output", str(output), "--trials", "1"]
    assert main(["--teacher", kind, "--top", "2", *asked]) == 0
    assert "Ensemble of 2" in capsys.readouterr().out
    page = (output / f"{kind}-distilled" / "comparison.md").read_text()
    assert f"Distilled less plain student | {metric}" in page and "Student, distilled" in page
    params = load_study(open_storage(output), f"{kind}-distilled").trials[0].params
    assert "distillation_alpha" in params and ("distillation_temperature" in params) == (kind != "numbers")


@pytest.mark.timeout(200)
def test_what_is_no_teacher(searched: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: object) -> str:
        asked = ["--student", model_folder, "--output", searched, *arguments]
        assert main([str(each) for each in asked]) == 2
        return capsys.readouterr().err

    assert "--teacher must be a study, or a model folder" in told("--teacher", model_folder)
    assert "a study must have been run before, but got `nobody`" in told("--teacher", "nobody")
    assert "--top must be at most the complete trials of `teacher`" in told("--teacher", "teacher", "--top", 9)
    folder = searched / "teacher" / "model"
    assert "--top takes the best trials of a study" in told("--teacher", folder, "--top", 2)
    layers = told("--teacher", folder, "--layers", 5, "--trials", 1)
    assert "model.num_hidden_layers must be at most the 2 layers" in layers
    (folder / TRAINING).unlink()
    assert "must have its winner's model on this machine" in told("--teacher", "teacher")


@pytest.mark.timeout(200)
def test_mistakes_are_told_before_anything_is_trained_or_written(
    searched: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    (tmp_path / "teacher").mkdir()  # a folder of data may be called as the study is
    monkeypatch.chdir(tmp_path)
    asked = ["--teacher", "teacher", "--student", str(model_folder), "--output", str(searched), "--trials", "1"]
    for wrong, said in (
        (["--unlabelled", "./nowhere.csv"], "must exist"),
        (["--set", "training.distillation_alpha=2"], "must be less than or equal to 1"),
        (["--set", "training.learning_rat=2"], "learning_rat"),
        (["--name", "we ird/x"], "--name"),
    ):
        assert main([*asked, *wrong]) == 2
        assert said in capsys.readouterr().err
        assert not list(searched.glob("*-student")), wrong


@pytest.mark.timeout(200)
def test_an_ensemble_goes_on_where_it_was_stopped(searched: Path) -> None:
    whole = train_ensemble("teacher", 1, searched, None, lambda text: None)
    weights = {path.name: path.read_bytes() for path in whole[0].glob("*.safetensors")}
    shutil.rmtree(whole[0])
    begun: list[int] = []

    def stop(step: int, steps: int) -> None:
        begun.append(step)
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ensemble("teacher", 1, searched, None, lambda text: None, stop)
    again = train_ensemble("teacher", 1, searched, None, lambda text: None, lambda step, steps: begun.append(step))
    assert begun[:7] == [1, 2, 3, 4, 5, 6, 7]
    assert {path.name: path.read_bytes() for path in again[0].glob("*.safetensors")} == weights
    assert [path.name for path in again[0].parent.iterdir()] == [again[0].name]


def test_the_files_are_valid_and_differ_by_the_teachers(model_folder: Path, data_file: Path) -> None:
    study = tiny_study(model_folder, data_file, name="teacher", finalists=FINALISTS, sampler={"name": "random"})
    study["training"] |= {"method": "lora", "lora_rank": 4, "warmup_ratio": 0.2, "learning_rate": 0.0091}
    basis = basis_of_study(parse_study(study, "teacher.yaml"))
    plain, distilled = student_studies(basis, "mine", str(model_folder), 1, ["./mlruns/teacher/model"])
    one, other = (parse_study(each, "student.yaml") for each in (plain, distilled))
    assert one.name == "mine-student" and other.name == "mine-distilled" and other.teachers
    assert one.data == other.data and one.finalists == other.finalists and one.sampler == other.sampler
    assert one.training.method == "full" and one.training.lora_rank == TrainingSpec().lora_rank
    # Nor is the learning rate of adapters one for all of a model.
    assert study["training"]["learning_rate"] == 0.0091
    assert one.training.learning_rate == TrainingSpec().learning_rate
    assert space.default_params(one)["learning_rate"] == TrainingSpec().learning_rate
    assert one.training.warmup_ratio == 0.2 and one.model.num_hidden_layers == 1
    assert other.training == one.training.model_copy(update={"distillation_alpha": 0.5})
    assert set(other.search_space) - set(one.search_space) == {"distillation_alpha", "distillation_temperature"}


def test_numbers_have_no_temperature(model_folder: Path, data_file: Path) -> None:
    study = tiny_study(model_folder, data_file, name="stars", task="regression")
    del study["data"]["labels"]
    basis = basis_of_study(parse_study(study, "stars.yaml"))
    _, distilled = student_studies(basis, "stars", str(model_folder), None, ["./mlruns/stars/model"])
    assert "distillation_temperature" not in parse_study(distilled, "student.yaml").search_space
