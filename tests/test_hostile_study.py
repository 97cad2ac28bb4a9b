"""A study all of whose free text is hostile, run for real: no terminal, page, chart or tracker obeys any of it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from mlflow import MlflowClient
from playwright.sync_api import Browser

from benchmarks.tiny import sentences
from conftest import StudyMaker
from hpo.tracking import tracking_uri
from test_run import hpo

TEXT = (
    "# <script>alert(1)</script> | `code` ](javascript:alert(1)) ![a](http://example.org/a.png) *b* &lt; $x^$ "
    "[red]c[/] \x1b[31md\x1b]8;;http://example.org\x07e\x9b2J \u202ef \\"
)
OBEYED = set("\x00\x07\x08\x1b\x9b\u202e")


@pytest.mark.timeout(300)
def test_nothing_of_it_is_obeyed(
    raw_study: StudyMaker, model_folder: Path, output: Path, tmp_path: Path, chromium: Browser
) -> None:
    hostile_model = tmp_path / "m <script>|`$x^$ ](x) \x1b[31m"
    shutil.copytree(model_folder, hostile_model)
    data = tmp_path / "d <script>|``` ](x) \x1b]0;x\x07.jsonl"
    labels = [f"negative {TEXT}", f"positive {TEXT}"]
    rows = [{f"t {TEXT}": text, f"l {TEXT}": labels[label]} for text, label in sentences(300, seed=1)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    raw = raw_study()
    study = raw_study(
        description=f"{TEXT}\n\n# More\n\n- {TEXT}",
        data=raw["data"]
        | {"train": {"source": str(data)}, "text_column": f"t {TEXT}", "label_column": f"l {TEXT}", "labels": labels},
        model={"name": str(hostile_model)},
        search_space=raw["search_space"] | {"model.name": {"choices": [str(hostile_model), str(model_folder)]}},
        n_trials=4,
        pruner={"name": "none"},
    )
    path = tmp_path / "hostile <script>.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")

    run = hpo("run", "--study", path, "--output", output, "--set", f"description={json.dumps(TEXT)}")
    assert run.returncode == 0, run.stderr
    assert not OBEYED & set(run.stdout + run.stderr)
    assert "[red]c[/]" in run.stdout

    folder = output / "tiny"
    page = (folder / "report.md").read_text(encoding="utf-8")
    _shows_only_text(page)
    assert not OBEYED & set(page)
    assert all((folder / "figures" / f"{name}.png").is_file() for name in ("history", "parameters"))
    _its_commands_are_read_back_by_a_shell(page, path, folder)
    _is_shown_by_a_browser(chromium, folder / "report.html")

    client = MlflowClient(tracking_uri(output))
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    notes = [run.data.tags["mlflow.note.content"] for run in runs]
    for note in notes:
        _shows_only_text(note.partition("[Compare the best")[0])

    trained = hpo("train", "--config", folder / "best.yaml")
    assert trained.returncode == 0, trained.stderr
    assert not OBEYED & set(trained.stdout + trained.stderr)

    broken = hpo("run", "--study", path, "--output", output, "--set", f"metric={TEXT}", "--set", f"data.{TEXT}=1")
    assert broken.returncode == 2
    assert not OBEYED & set(broken.stdout + broken.stderr)
    data.write_text("\n".join(map(json.dumps, [{**rows[0], f"l {TEXT}": "\x1b[31mother"}, *rows[1:]])))
    refused = hpo("run", "--study", path, "--output", output, "--fresh")
    assert refused.returncode == 2
    assert "other" in refused.stderr
    assert not OBEYED & set(refused.stdout + refused.stderr)


def _shows_only_text(page: str) -> None:
    """Rendered as GitHub does, the page has headings, tables and images of our own, and no other link or tag."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page)
    kinds = {token.type for token in tokens}
    assert "html_block" not in kinds
    assert not {"h2", "h3"} & {token.tag for token in tokens if "script" in token.content}
    titles = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert "More" not in titles
    for token in tokens:
        for child in token.children or []:
            assert child.type not in {"html_inline", "s_open"}
            if child.type == "link_open":
                assert child.attrs["href"] in {"trials.csv", "report.html"}
            if child.type == "image":
                assert str(child.attrs["src"]).startswith("figures/")


def _is_shown_by_a_browser(chromium: Browser, path: Path) -> None:
    """Word for word, with no script, image or request of its own."""
    page = chromium.new_page()
    told: list[str] = []
    page.on("dialog", lambda dialog: told.append(dialog.message))
    page.on("console", lambda message: told.append(message.text))
    page.on("request", lambda request: told.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.locator("#trial-table tbody a").first.click()
    text = page.locator("main").inner_text()
    assert "<script>alert(1)</script>" in text and "[red]c[/]" in text
    assert not OBEYED & set(text)
    page.emulate_media(media="print")  # draws every figure
    page.locator(".plot .main-svg").first.wait_for()
    assert page.locator("main script, main img, main svg a").count() == 0
    assert told == []
    page.close()


def _its_commands_are_read_back_by_a_shell(page: str, path: Path, folder: Path) -> None:
    (block,) = (token for token in MarkdownIt().parse(page) if token.type == "fence" and token.info == "sh")
    script = f"python() {{ printf '%s\\0' \"$@\"; }}\n{block.content}"
    words = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode().split("\0")
    assert words[: words.index("--output")] == [
        *("-m", "hpo.run", "--study", str(path)),
        *("--set", f"description={json.dumps(TEXT)}"),
    ]
    assert str(folder / "best.yaml") in words
