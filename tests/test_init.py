"""What is seen in a file of one's own, and that the study that comes of it runs."""

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.tiny import sentences
from hpo.data.files import read_table
from hpo.first_look import look_at
from hpo.init import main
from hpo.predict import main as predict
from hpo.run import main as run
from hpo.spec import StudySpec
from hpo.study_file import read_study

# Of words of their own: near duplicates would not stay in train beside validation and test.
TEXTS = [f"a{n} b{n} c{n} d{n} is {'good' if n % 3 else 'a bad one'}, I think" for n in range(60)]


def write(path: Path, **columns: list[Any]) -> Path:
    frame = pd.DataFrame(columns)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


def written(path: Path, *arguments: str) -> StudySpec:
    """The study that a file's first look gives."""
    study = path.with_suffix(".yaml")
    assert main([str(path), "--study", str(study), *arguments]) == 0
    return read_study(study)


class TestWhatIsSeen:
    def test_classes(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "a.csv",
            id=list(range(60)),
            review=TEXTS,
            sentiment=["good" if n % 3 else "bad" for n in range(60)],
        )
        look = look_at(path)
        assert (look.text, look.label, look.task) == (("review",), ("sentiment",), "sequence_classification")
        assert dict(look.classes) == {"good": 40, "bad": 20}
        assert look.words["median"] == 8 and look.max_length == 24
        spec = written(path)
        # Two thirds have one class: accuracy would say little.
        assert spec.metric == "eval/f1_macro" and spec.data.validation_size == 0.2

    def test_stars_are_classes_and_prices_are_numbers(self, tmp_path: Path) -> None:
        stars = write(tmp_path / "stars.csv", text=TEXTS, stars=[n % 5 + 1 for n in range(60)])
        assert look_at(stars).task == "sequence_classification"
        prices = write(tmp_path / "prices.csv", text=TEXTS, score=[n / 7 for n in range(60)])
        look = look_at(prices)
        assert look.task == "regression" and look.numbers == pytest.approx((0, 59 / 7))
        assert written(prices).metric == "eval/pearson"

    def test_pairs(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", hypothesis=TEXTS[::-1], premise=TEXTS, label=[n % 3 for n in range(60)])
        assert look_at(path).text == ("premise", "hypothesis")
        assert written(path).data.text_columns == ("premise", "hypothesis")

    def test_lists_of_labels(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "a.jsonl", text=TEXTS, labels=[["a"] * (n % 2) + ["b"] * (n % 3 > 0) for n in range(60)]
        )
        look = look_at(path)
        assert look.task == "multi_label_classification" and dict(look.classes) == {"b": 40, "a": 30}

    def test_a_column_for_each_label(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "a.csv", comment=TEXTS, toxic=[n % 2 for n in range(60)], insult=[n % 3 % 2 for n in range(60)]
        )
        look = look_at(path)
        assert look.task == "multi_label_classification" and look.label == ("toxic", "insult")
        assert written(path).data.label_columns == ("toxic", "insult")

    def test_labels_with_commas_between(self, tmp_path: Path) -> None:
        labels = ["joy", "joy, anger", "fear, joy", "", "fear"] * 12
        path = write(tmp_path / "a.csv", text=TEXTS, labels=labels)
        look = look_at(path)
        assert look.task == "multi_label_classification" and dict(look.classes) == {"joy": 36, "fear": 24, "anger": 12}
        assert written(path).task == "multi_label_classification"

    def test_a_class_with_a_comma_in_its_name(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", text=TEXTS, label=["Paris, France", "Lyon, France", "Rome, Italy"] * 20)
        assert look_at(path).task == "sequence_classification"

    def test_texts_without_spaces(self, tmp_path: Path) -> None:
        """Every character is about a token."""
        texts = ["".join(chr(0x4E00 + (n * 50 + at * 7) % 9000) for at in range(75)) for n in range(60)]
        path = write(tmp_path / "a.csv", x=texts, label=["好", "坏"] * 30)
        look = look_at(path)
        assert look.text == ("x",) and look.label == ("label",) and 75 <= look.max_length <= 112

    def test_texts_that_come_again_and_again(self, tmp_path: Path) -> None:
        """Where nothing else is a column of texts, its name says it; beside one that is, it may be a class's."""
        topics, labels = ["the good film", "the bad film", "a plot"] * 20, ["a", "b", "c", "d"] * 15
        alone = write(tmp_path / "alone.csv", title=topics, label=labels)
        assert look_at(alone).text == ("title",)
        beside = write(tmp_path / "beside.csv", title=topics, opinion=TEXTS, label=labels)
        assert look_at(beside).text == ("opinion",)

    def test_a_comma_in_the_only_name(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text('"text, long"\na film\n', encoding="utf-8")
        assert list(read_table(path, str(path)).columns) == ["text, long"]

    def test_a_class_in_few_rows(self, tmp_path: Path) -> None:
        """Three of twelve rows are what a column of texts might have, but not under that name. Each split has each."""
        path = write(tmp_path / "a.csv", text=TEXTS[:12], label=["a", "b", "c"] * 4)
        assert written(path).data.test_size == 0.25

    @pytest.mark.parametrize("suffix", ["conll", "jsonl"])
    def test_words_and_tags(self, suffix: str, tmp_path: Path) -> None:
        draw = random.Random(0)
        rows = [
            [(f"w{draw.randrange(300)}", "B-x" if draw.random() < 0.3 else "O") for _ in range(6)] for _ in range(40)
        ]
        path = tmp_path / f"a.{suffix}"
        if suffix == "conll":
            path.write_text("\n\n".join("\n".join("\t".join(pair) for pair in row) for row in rows), encoding="utf-8")
        else:
            split = [{"tokens": [w for w, _ in row], "ner_tags": [t for _, t in row]} for row in rows]
            path.write_text("".join(f"{json.dumps(row)}\n" for row in split), encoding="utf-8")
        assert look_at(path).task == "token_classification"
        assert written(path).metric == "eval/f1"


class TestWhatIsNotSeen:
    def test_no_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "a.csv", word=[f"w{n}" for n in range(60)], label=[n % 2 for n in range(60)])
        assert main([str(path), "--study", str(tmp_path / "a.yaml")]) == 2
        assert "some column must hold texts of several words, but got `word` (other)" in capsys.readouterr().err
        assert written(path, "--text", "word").data.text_column == "word"

    def test_which_of_several_is_the_label(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "a.csv", text=TEXTS, shop=["a", "b"] * 30, mood=["c", "d", "e"] * 20)
        assert main([str(path), "--study", str(tmp_path / "a.yaml")]) == 2
        assert "Name it: --label COLUMN" in capsys.readouterr().err
        assert written(path, "--label", "mood").data.label_column == "mood"

    def test_rows_without_a_label(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "a.csv", text=TEXTS, label=["a", "b", None] * 20)
        assert main([str(path), "--study", str(tmp_path / "a.yaml")]) == 2
        assert "got 20 of 60 without one in `label`" in capsys.readouterr().err

    def test_a_cell_of_a_label_is_empty(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "a.csv", comment=TEXTS, toxic=["0", "1", ""] * 20, insult=["1", "0", "0"] * 20)
        assert main([str(path), "--study", str(tmp_path / "a.yaml")]) == 2
        assert "got 20 of 60 without one in `toxic`, `insult`" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("labels", "told"),
        [
            (["a"] * 59 + ["b"], "every class must have at least 2 rows left to draw from, but got 1 of 'b'"),
            (["a"] * 60, "at least two classes"),
        ],
    )
    def test_a_study_that_would_not_run(
        self, labels: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "a.csv", text=TEXTS, label=labels)
        assert main([str(path), "--study", str(tmp_path / "a.yaml")]) == 2
        assert told in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "a.yaml").exists()

    def test_another_separator(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "a.csv"
        path.write_text("text;label\n" + "".join(f"{text};{n % 2}\n" for n, text in enumerate(TEXTS)), encoding="utf-8")
        assert main([str(path), "--study", str(tmp_path / "a.yaml")]) == 2
        assert "columns are separated by commas, but its first row has `;`" in " ".join(capsys.readouterr().err.split())

    def test_no_header(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "a.csv"
        path.write_text("".join(f'"{text}",{n % 2}\n' for n, text in enumerate(TEXTS)), encoding="utf-8")
        assert main([str(path), "--study", str(tmp_path / "a.yaml")]) == 2
        assert "must name its columns, but got `a0 b0 c0 d0 is" in " ".join(capsys.readouterr().err.split())

    @pytest.mark.parametrize("arguments", [["--text", "nothing"], ["--label", "nothing"]])
    def test_a_column_that_is_not_there(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "a.csv", text=TEXTS, label=["a", "b"] * 30)
        assert main([str(path), *arguments]) == 2
        assert "the column `nothing` must exist" in capsys.readouterr().err

    def test_no_file_and_a_study_that_is_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tmp_path / "none.csv")]) == 2
        path = write(tmp_path / "a.csv", text=TEXTS, label=["a", "b"] * 30)
        written(path)
        assert main([str(path), "--study", str(tmp_path / "a.yaml")]) == 2
        assert "a study is not written over another" in capsys.readouterr().err


@pytest.mark.timeout(120)
def test_what_it_writes_runs(model_folder: Path, tmp_path: Path, output: Path) -> None:
    """With names that YAML and the shell would take for something else."""
    texts, labels = zip(*sentences(120, seed=3), strict=True)
    path = write(
        tmp_path / "my reviews.csv", **{"the: text": list(texts), "yes": ["no" if at else "on" for at in labels]}
    )
    study = tmp_path / "my reviews.yaml"
    assert main([str(path), "--study", str(study), "--model", str(model_folder)]) == 0
    arguments = ["--study", str(study), "--output", str(output), "--trials", "1", "--set", "name=mine"]
    settings = ["training.num_train_epochs=1", "finalists={n_trials: 1, n_seeds: 1, n_test_seeds: 1}"]
    assert run([*arguments, *(each for setting in settings for each in ("--set", setting))]) == 0
    new = write(tmp_path / "new.csv", **{"the: text": ["a good film", "a bad plot", "it was great"]})
    assert predict(["--model", str(output / "mine" / "model"), str(new)]) == 0
    labelled = pd.read_csv(tmp_path / "new.labelled.csv")
    assert list(labelled.columns) == ["the: text", "prediction", "probability"]
    assert set(labelled["prediction"]) <= {"no", "on"} and len(labelled) == 3
