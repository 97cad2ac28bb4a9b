"""Every study that is shipped, from the command line to its report: as it stands, but for a tiny model and its data."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from hpo.export import read_exported
from hpo.run import main
from hpo.study_file import STUDIES, read_study
from task_data import rows

ROOT = Path(__file__).parent.parent
# By study, the kind of rows that its columns get, and what these are called here.
ROWS: dict[str, tuple[str, dict[str, str]]] = {
    "ag_news": ("classes", {}),
    "few_rows": ("classes", {}),
    "go_emotions": ("label_sets", {}),
    "methods": ("classes", {}),
    "more_rows": ("classes", {}),
    "rotten_tomatoes": ("classes", {}),
    "rte": ("pairs", {"premise": "sentence1", "hypothesis": "sentence2"}),
    "sst2": ("classes", {"text": "sentence"}),
    "stsb": ("numbers", {"text": "sentence1", "stars": "label"}),
    "wnut17": ("tags", {"words": "tokens", "tags": "ner_tags"}),
}


def test_every_shipped_study_is_tried() -> None:
    assert sorted(ROWS) == sorted(path.stem for path in (ROOT / STUDIES).glob("*.yaml"))


def write(study: str, folder: Path) -> Path:
    kind, names = ROWS[study]
    found = [{names.get(name, name): value for name, value in row.items()} for row in rows(kind, 240)]
    if study in ("few_rows", "methods", "more_rows", "rotten_tomatoes", "sst2"):  # whose classes have names
        found = [row | {"label": "positive" if row["label"] == "praise" else "negative"} for row in found]
    if study == "stsb":  # a pair with a number
        draw = random.Random(0)
        found = [row | {"sentence2": draw.choice(("the film", "a plot"))} for row in found]
    if study == "wnut17":  # from a file of the kind that its comment names
        sentences = ["".join(f"{word}\t{tag}\n" for word, tag in zip(*row.values(), strict=True)) for row in found]
        (folder / "wnut17.conll").write_text("\n".join(sentences), encoding="utf-8")
        return folder / "wnut17.conll"
    path = folder / f"{study}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in found), encoding="utf-8")
    return path


@pytest.mark.parametrize("study", ROWS)
@pytest.mark.timeout(180)
def test_from_the_command_line_to_the_report(
    study: str, model_folder: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = read_study(ROOT / STUDIES / f"{study}.yaml")
    settings: dict[str, Any] = {
        "name": f"tiny-{study}",
        "data.train": f"{{source: {write(study, tmp_path)}}}",
        "data.validation": None,
        "data.test": None,
        "data.validation_size": 50,
        "data.test_size": 40,
        "data.hold_out": "rows",
        "data.max_rows": None,
        "model.name": model_folder,
        "training.num_train_epochs": 2,
        "training.max_length": 32,
        "training.learning_rate": 1e-4,
        "finalists": "{n_trials: 1, n_seeds: 1, n_test_seeds: 2}",
    }
    if "num_trained_layers" in spec.search_space:
        settings["search_space.num_trained_layers.high"] = 2  # so many has the tiny model
    shown = ["null" if value is None else value for value in settings.values()]
    pairs = zip(settings, shown, strict=True)
    overrides = [part for name, value in pairs for part in ("--set", f"{name}={value}")]
    arguments = ["--study", str(ROOT / STUDIES / f"{study}.yaml"), "--output", str(output), "--trials", "2"]
    assert main([*arguments, *overrides]) == 0, capsys.readouterr().err
    assert "test" in capsys.readouterr().out
    folder = output / f"tiny-{study}"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "untuned default" in page
    assert (folder / "report.md").exists() and (folder / "model" / "config.json").exists()
    best = read_exported(folder / "best.yaml")
    assert best.config.task == spec.task and best.claim and best.claim.test
    assert spec.metric.removeprefix("eval/") in best.claim.test
