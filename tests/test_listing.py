"""The studies of a storage as a list: of this program, of another tool, and of those who are at it."""

import io
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial
from rich.console import Console

from hpo.attempts import end_dead_trials, requeue
from hpo.lease import OWNER, owner
from hpo.listing import Listed, listed, listing
from hpo.output import FINALISTS
from hpo.run import main
from hpo.spec import FinalistsSpec, StudySpec
from hpo.storage import open_storage
from hpo.study import open_study

ROOT = Path(__file__).parent.parent


@pytest.fixture
def storage(output: Path) -> BaseStorage:
    return open_storage(output)


def a_study(spec: StudySpec, storage: BaseStorage, name: str, scores: list[float | None]) -> optuna.Study:
    """Of as many trials as there are scores; None is pruned. The default is the first."""
    study = open_study(spec.model_copy(update={"name": name}), storage)
    for score in scores:
        trial = study.ask()
        study.tell(trial, score, state=TrialState.PRUNED if score is None else TrialState.COMPLETE)
    return study


def only(storage: BaseStorage) -> Listed:
    (found,) = listed(storage)
    return found


def shown(studies: list[Listed], encoding: str = "utf-8") -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=80, color_system=None).print(listing(studies))
    stream.seek(0)
    return [line.rstrip() for line in stream.read().splitlines()]


def test_a_finished_study_its_scores_and_when_it_was_touched(spec: StudySpec, storage: BaseStorage) -> None:
    before = datetime.now()
    a_study(spec, storage, "done", [0.7, 0.8, None])
    found = only(storage)
    assert found.touched and before <= found.touched <= datetime.now()
    assert (found.name, found.state, found.ended, found.total) == ("done", "finished", 3, 3)
    assert found.counts == {"complete": 2, "pruned": 1}
    assert (found.metric, found.best, found.default) == ("accuracy", 0.8, 0.7)


def test_less_of_a_loss_is_better(spec: StudySpec, storage: BaseStorage) -> None:
    a_study(spec.model_copy(update={"metric": "eval/loss"}), storage, "loss", [0.7, 0.8])
    found = only(storage)
    assert (found.metric, found.best, found.state, found.ended) == ("loss", 0.7, "unfinished", 2)


def test_a_study_without_trials(spec: StudySpec, storage: BaseStorage) -> None:
    a_study(spec, storage, "new", [])
    found = only(storage)
    assert (found.state, found.counts, found.best, found.default, found.touched) == (
        "unfinished",
        {"queued": 1},
        None,
        None,
        None,
    )
    assert "never" in "".join(shown([found]))


@pytest.mark.parametrize("run_by", ["another process", "one that has ended", "another machine"])
def test_who_runs_a_trial_decides(spec: StudySpec, storage: BaseStorage, run_by: str) -> None:
    study = a_study(spec, storage, "tiny", [0.7])
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        from hpo.lease import _started

        whose: dict[str, Any] = owner() | {"pid": process.pid, "started": _started(process.pid)}
        if run_by == "another machine":
            whose["host"] = "another"
        if run_by == "one that has ended":
            process.kill()
            process.wait()
        study.ask().set_user_attr(OWNER, whose)
        found = only(storage)
        process.kill()
    states = {"another process": "running", "one that has ended": "interrupted", "another machine": "running elsewhere"}
    assert found.state == states[run_by]
    assert found.counts == {"complete": 1, "running": 1}


def test_what_was_interrupted_and_waits_to_go_on(spec: StudySpec, storage: BaseStorage) -> None:
    study = a_study(spec, storage, "tiny", [0.7])
    study.ask()
    end_dead_trials(study, study.get_trials(states=(TrialState.RUNNING,)))
    assert only(storage).state == "interrupted"
    requeue(study)
    found = only(storage)
    assert (found.state, found.ended, found.counts) == ("interrupted", 1, {"complete": 1, "queued": 1, "stopped": 1})


def test_finalists_belong_to_their_study(spec: StudySpec, storage: BaseStorage) -> None:
    a_study(spec, storage, "tiny", [0.7, 0.8, 0.9])
    finalists = optuna.create_study(study_name="tiny" + FINALISTS, storage=storage, direction="maximize")
    finalists.add_trial(create_trial(value=0.99))
    found = only(storage)
    assert (found.name, found.state, found.best) == ("tiny", "finished", 0.9)
    assert found.touched == finalists.trials[0].datetime_complete


def test_a_search_that_is_over_has_its_finalists_left(spec: StudySpec, storage: BaseStorage) -> None:
    asking = spec.model_copy(update={"finalists": FinalistsSpec()})
    a_study(asking, storage, "tiny", [0.7, 0.8, 0.9])
    assert only(storage).state == "finalists left"
    a_study(asking, storage, "hopeless", [None, None, None])  # of nothing complete there are none
    assert {each.name: each.state for each in listed(storage)}["hopeless"] == "finished"


def test_studies_of_another_tool(storage: BaseStorage) -> None:
    one = optuna.create_study(study_name="one", storage=storage, direction="minimize")
    one.optimize(lambda trial: trial.suggest_float("x", 0, 1) + 1, n_trials=3)
    one.ask()
    optuna.create_study(study_name="two", storage=storage, directions=["minimize", "maximize"]).optimize(
        lambda trial: (1.0, 2.0), n_trials=2
    )
    optuna.create_study(study_name="empty [red]", storage=storage)
    named = optuna.create_study(study_name="named", storage=storage)
    with pytest.warns(ExperimentalWarning):
        named.set_metric_names(["error"])
    found = {study.name: study for study in listed(storage)}
    assert found["one"].best == one.best_value and found["one"].default is None and found["one"].total is None
    assert found["one"].counts == {"complete": 3, "running": 1}
    assert (found["two"].best, found["two"].metric) == (None, "2 objectives")
    assert found["named"].metric == "error"
    assert {study.state for study in found.values()} == {"of another tool"}
    assert any("empty [red]" in line for line in shown(list(found.values())))


def test_a_spec_of_another_version_is_one_of_another_tool(spec: StudySpec, storage: BaseStorage) -> None:
    a_study(spec, storage, "old", [0.7]).set_user_attr("spec", {"unknown": 1})
    found = only(storage)
    assert (found.state, found.best, found.default) == ("of another tool", 0.7, None)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_the_list_fits_into_80_columns(encoding: str) -> None:
    touched = datetime(2026, 11, 25, 14, 2)
    counts = {"complete": 1200, "pruned": 1800, "failed": 12, "running": 8, "queued": 1, "stopped": 4}
    long = Listed(
        "a-study-of-a-long-name-that-goes-on-and-on",
        "running elsewhere",
        3012,
        5000,
        counts,
        *("precision_macro", 0.8, 0.7),
        touched,
    )
    text = shown([long, Listed("short", "finished", 3, 3, {"complete": 3}, "accuracy", 0.8, 0.7, touched)], encoding)
    assert max(map(len, text)) <= 80
    words = " ".join(" ".join(text).split())
    for said in ("1200 complete", "1800 pruned", "3012 of 5000", "precision_macro", "0.8000", "0.7000", "2026-11-25"):
        assert said in words
    assert "14:02" in words and long.name in "".join(line[:13].strip() for line in text)


def test_the_last_touched_stands_first(spec: StudySpec, storage: BaseStorage) -> None:
    for name in ("b", "a", "c"):
        a_study(spec, storage, name, [0.5])
    assert [study.name for study in listed(storage)] == ["c", "a", "b"]


Capture = pytest.CaptureFixture[str]


def test_from_the_command_line(spec: StudySpec, output: Path, capsys: Capture) -> None:
    a_study(spec, open_storage(output), "tiny", [0.7])
    assert main(["--list", "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert "tiny" in out and "1 of 3" in out and not err
    assert main(["--list", "--output", str(output / "nowhere")]) == 2
    assert "run `python -m hpo.run` first" in capsys.readouterr().err
    assert not (output / "nowhere").exists()


def test_a_storage_without_studies(output: Path, storage: BaseStorage, capsys: Capture) -> None:
    assert main(["--list", "--output", str(output)]) == 0
    assert "No study has been run here yet." in capsys.readouterr().out


def test_either_a_study_or_the_list(capsys: Capture) -> None:
    for arguments in ([], ["--list", "--study", "sst2"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "--study" in capsys.readouterr().err


def test_a_list_on_a_server(spec: StudySpec, output: Path, address: str | None, capsys: Capture) -> None:
    a_study(spec, open_storage(output, address), "tiny", [0.7])
    assert main(["--list", "--output", str(output), *(["--storage", address] if address else [])]) == 0
    assert "tiny" in capsys.readouterr().out


def test_the_list_loads_nothing_heavy(spec: StudySpec, output: Path) -> None:
    a_study(spec, open_storage(output), "tiny", [0.7])
    code = (
        "import json, sys; from hpo.run import main; code = main(sys.argv[1:]);"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    command = [sys.executable, "-c", code, "--list", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "optuna" in loaded
    assert not loaded & {"torch", "transformers", "mlflow", "datasets", "pandas", "matplotlib", "sklearn", "plotly"}
