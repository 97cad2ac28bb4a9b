"""What a study leaves in MLflow, looked at in a real browser, and its registered model, run by MLflow's own command."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from playwright.sync_api import Browser, Page, Request
from scipy.special import softmax

from benchmarks.tiny import tiny_study
from hpo.data.splits import load_splits
from hpo.output import FINALISTS
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import load_study
from hpo.study_file import parse_study
from hpo.tracking import tracking_uri
from hpo.training.predictions import PREDICTIONS, unpacked
from hpo.tune import Outcome, tune
from hpo.ui import free_port
from test_tune import Recorder

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("mlflow_ui")]


Finished = tuple[StudySpec, Path, Outcome]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path, model_folder: Path, data_file: Path
) -> Finished:
    """A study with finalists, of which texts longer than eight tokens are cut."""
    raw = tiny_study(model_folder, data_file, n_trials=3, description="Is a review *good*?")
    raw["training"] |= {"max_length": 8, "learning_rate": 7e-3, "num_train_epochs": 5}
    raw["finalists"] = {"n_trials": 1, "n_seeds": 1, "n_test_seeds": 2}
    raw["pruner"] = {"name": "none"}
    spec, output = parse_study(raw, "tiny.yaml"), tmp_path_factory.mktemp("ui")
    (output / "mlflow.db").write_bytes(migrated_database.read_bytes())
    return spec, output, tune(spec, output, Recorder())


def test_mlflow_predicts_what_the_finalist_did(finished: Finished, tmp_path: Path) -> None:
    """On the 100 rows of validation, whose logits the finalist left when it was trained."""
    spec, output, outcome = finished
    assert outcome.notes == [
        "The winner is version 1 of hpo-tiny in MLflow's registry. It is the champion, as the first one whose test "
        "score is known."
    ]
    splits = load_splits("sequence_classification", spec.data, spec.seed)
    texts = list(splits.validation.texts)
    assert len(texts) == 100 and sum(len(text.split()) > 6 for text in texts) > 50  # two tokens are special ones
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "rows.csv", index=False)
    command = ["models", "predict", "-m", "models:/hpo-tiny@champion", "-t", "csv", "--env-manager", "local"]
    subprocess.run(
        [sys.executable, "-m", "mlflow", *command, "-i", tmp_path / "rows.csv", "-o", tmp_path / "found.json"],
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri(output), "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=200,
    )
    found = pd.DataFrame(json.loads((tmp_path / "found.json").read_text())["predictions"])
    finals = outcome.finals
    assert finals
    trials = load_study(open_storage(output), f"tiny{FINALISTS}").get_trials(deepcopy=False)
    own = softmax(unpacked(trials[finals.exported].user_attrs[PREDICTIONS]["validation"]).astype(float), axis=1)
    assert found["label"].tolist() == [splits.labels[index] for index in own.argmax(axis=1)]
    assert found["label"].nunique() == 2
    np.testing.assert_allclose(found["score"], own.max(axis=1), atol=1e-5)


def test_the_description_has_the_answer_and_the_inputs_the_data(finished: Finished) -> None:
    spec, output, outcome = finished
    client = MlflowClient(tracking_uri(output))
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    parent = client.get_run(outcome.study.user_attrs["mlflow_parent_run_id"])
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith(r"Is a review \*good\*?")
    assert "95 % interval" in note and "| accuracy |" in note and "version 1 of hpo-tiny" in note
    contexts = {run.info.run_name: {each.tags[0].value for each in run.inputs.dataset_inputs} for run in runs}
    assert contexts["tiny"] == {"train", "validation", "test"}
    assert contexts["trial-0000"] == contexts["finalist 0, seed 1"] == {"train", "validation"}
    rows = {each.tags[0].value: json.loads(each.dataset.profile)["num_rows"] for each in parent.inputs.dataset_inputs}
    splits = load_splits(spec.task, spec.data, spec.seed)
    assert rows == {name: len(getattr(splits, name)) for name in rows}
    told = next(run for run in runs if run.info.run_name == "trial-0001").data.tags["mlflow.note.content"]
    assert re.match(r"\*\*Complete\*\* after \d+ of \d+ steps. learning_rate = ", told)


@pytest.fixture(scope="module")
def address(finished: Finished) -> Iterator[str]:
    """Of a running `hpo.ui`."""
    command = [sys.executable, "-m", "hpo.ui", "--output", str(finished[1]), "--port", str(free_port(5650))]
    process = subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[2].strip() == f"report: {(finished[1] / 'tiny' / 'report.html').as_uri()}"
        yield lines[1].split(": ")[1].strip()  # the study's page
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.fixture
def page(address: str, chromium: Browser) -> Iterator[Page]:
    """Of a browser that may reach nothing but the server."""
    server, outside = address.partition("/#")[0], list[str]()

    def note(request: Request) -> None:
        if not request.url.startswith((server, "data:", "blob:")):
            outside.append(request.url)

    context = chromium.new_context(viewport={"width": 1600, "height": 1200})
    context.set_default_timeout(45_000)
    context.on("request", note)
    yield context.new_page()
    context.close()
    assert outside == []  # no telemetry, no font, no picture


def test_a_browser_finds_trials_study_comparison_and_registered_model(
    finished: Finished, address: str, page: Page
) -> None:
    server = address.partition("/#")[0]
    study: Any = finished[2].study
    page.goto(address)  # the trials, the best first, with the curve of the study's metric first
    for name in ("trial-0000", "trial-0001", "trial-0002", "finalists"):
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    page.get_by_text("eval/accuracy").first.wait_for()
    page.goto(address.replace("&compareRunsMode=CHART", ""))
    page.get_by_text("eval/accuracy", exact=True).first.wait_for()
    names = page.locator("a[href*='/runs/']").all_inner_texts()
    scores = {f"trial-{trial.number:04d}": trial.value for trial in study.trials}
    shown = [scores[name] for name in names if name in scores]
    assert len(shown) == 3 and shown == sorted(shown, reverse=True)

    page.get_by_role("link", name="trial-0001", exact=True).click()
    parent = page.locator(f"a[href*='{study.user_attrs['mlflow_parent_run_id']}']")
    parent.first.click()
    page.get_by_role("link", name="finalists", exact=True).wait_for()  # one of its children
    page.get_by_text("the untuned default").first.wait_for()
    page.get_by_role("cell", name="accuracy", exact=True).wait_for()  # of the table in its description

    compared = _opened_by(page, "Compare the best 3 trials")
    compared.get_by_text("Comparing 3 Runs from 1 Experiment").wait_for()
    compared.get_by_text("trial-0002").first.wait_for()
    report = _opened_by(page, "Report")
    report.frame_locator("iframe").get_by_role("heading", name="tiny").wait_for()

    page.goto(f"{server}/#/models/hpo-tiny")
    page.get_by_role("link", name="Version 1").wait_for()
    page.get_by_text("@ champion").wait_for()


def _opened_by(page: Page, link: str) -> Page:
    """The tab that MLflow opens for a link of a description."""
    with page.expect_popup() as popup:
        page.get_by_role("link", name=link, exact=True).click()
    return popup.value
