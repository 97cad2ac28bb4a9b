"""The page as a file: its order, that it is a function of storage alone, and that nothing of others is obeyed in it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hpo.errors import StorageError
from hpo.report import write_report
from hpo.report.contents import contents
from hpo.report.html_page import in_script, mlflow_address, page, plotly_script
from hpo.report.tables import view_of
from synthetic import synthetic_finals, synthetic_study
from test_hostile_study import OBEYED, TEXT

SECTIONS = ["answer", "winner", "search", "mattered", "trials", "errors", "data", "reproduce", "cost"]
HOSTILE = (
    f'</script><script>alert(1)</script><!-- "\' &amp; <img src=x onerror=alert(1)> <a href="javascript:1">a</a> {TEXT}'
)
# What a browser makes of its own; anything else would be of others.
TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "section",
        "nav",
        "div",
        "p",
        "span",
        "a",
        "h1",
    ),
    *("h2", "h3", "h4", "figure", "figcaption", "table", "thead", "tbody", "tr", "th", "td", "b", "small", "dl", "dt"),
    *("dd", "pre", "code", "details", "summary", "label", "input", "button", "noscript", "script", "wbr"),
}


class Elements(HTMLParser):
    """Every tag with its attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self.cdata_elem is None:
            self.texts.append(data)

    def data(self, name: str) -> Any:
        """What a script of JSON holds."""
        return next(json.loads(text) for attributes, text in self.scripts if attributes.get("id") == name)


def page_of(study: optuna.Study, folder: Path = Path("mlruns/films")) -> str:
    view = view_of(study)
    return page(view, contents(view, folder))


def test_the_sections_stand_in_their_order() -> None:
    for study in (synthetic_study(12, finals=synthetic_finals(winner=3)), synthetic_study(0), synthetic_study(1)):
        found = [attributes.get("id") for tag, attributes in Elements(page_of(study)).tags if tag == "section"]
        assert [name for name in found if name != "trial"] == SECTIONS


def test_it_loads_nothing_and_runs_its_own_scripts_only() -> None:
    elements = Elements(page_of(synthetic_study(12, finals=synthetic_finals(winner=3))))
    for _, attributes in elements.tags:
        assert not {"src", "srcset", "data", "action", "background"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "link" not in {tag for tag, _ in elements.tags}
    policy = next(a["content"] or "" for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in policy
    code = [text for attributes, text in elements.scripts if attributes.get("type") != "application/json"]
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code] == allowed
    assert len(code) == 2 and "plotly.js" in code[0][:200]


def test_the_same_trials_give_the_same_bytes(tmp_path: Path) -> None:
    """From another storage, at another time, in another process's order of hashes."""
    here = synthetic_study(30, finals=synthetic_finals(winner=3))
    there = synthetic_study(30, finals=synthetic_finals(winner=3), storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    first, second = (write_report(study, tmp_path / "out" / "films") for study in (here, there))
    assert first == second
    before = first.page.read_bytes()
    write_report(here, tmp_path / "out" / "films")
    assert first.page.read_bytes() == before
    other = page_of(
        optuna.load_study(study_name="films", storage=f"sqlite:///{tmp_path / 'optuna.db'}"), tmp_path / "x"
    )
    assert page_of(here, tmp_path / "x") == other


def test_a_running_study_is_shown_up_to_what_storage_knows() -> None:
    study = synthetic_study(6, n_trials=9)
    study.ask()
    elements = Elements(page_of(study))
    assert [trial["state"] for trial in elements.data("trial-data")["trials"]].count("RUNNING") == 1
    assert "2 of 9 still to end" in page_of(study) or "3 of 9 still to end" in page_of(study)
    assert page_of(study) == page_of(study)


def test_the_page_of_another_tools_study(tmp_path: Path) -> None:
    """What it keeps under our names means something else."""
    study = optuna.create_study(study_name="theirs", direction="minimize")
    for name, value in {"data": "a.csv", "finals": 3, "call": "x", "mlflow_run_ids": [1]}.items():
        study.set_user_attr(name, value)
    for number in range(8):
        study.add_trial(
            create_trial(
                state=TrialState.FAIL if number == 5 else TrialState.COMPLETE,
                value=None if number == 5 else 1 / (1 + number),
                params={"x": number / 8, "kind": "ab"[number % 2]},
                distributions={"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])},
                user_attrs={"result": 0.5, "config": "theirs", "machine": 7, "owner": "me"},
            )
        )
    files = write_report(study, tmp_path / "theirs")
    text = files.page.read_text(encoding="utf-8")
    elements = Elements(text)
    assert set(elements.data("figures")) >= {"history", "parameter_0", "parameter_1"}
    assert elements.data("trial-data")["trials"][0]["number"] == 7
    assert "The best trial is trial 7: score 0.1250" in text
    assert "Another tool ran this study" in text and "untuned default has" not in text
    told = "Another tool ran this study: what its models predict is not known."
    for page_text in (text, files.markdown.read_text(encoding="utf-8")):
        assert "Another tool ran this study, and knows how" in page_text and told in page_text
        assert "inalists have been trained" not in page_text


def test_a_trial_that_repeats_the_first_one_says_so() -> None:
    study = synthetic_study(3)
    repeated = study.get_trials()[1]
    study.add_trial(create_trial(value=0.8, params={}, user_attrs=repeated.user_attrs | {"retry_of": 0}))
    trials = {each["number"]: each for each in Elements(page_of(study)).data("trial-data")["trials"]}
    assert trials[3]["repeats"] == 0
    assert "repeats" not in trials[1]


def test_several_objectives_are_refused_with_a_way_out() -> None:
    with pytest.raises(StorageError, match="optuna-dashboard"):
        view_of(optuna.create_study(directions=["minimize", "maximize"]))


def test_nothing_of_others_is_obeyed() -> None:
    """A description, labels, notes, texts, models, parameters, their choices, messages, and what finals say."""
    finals = synthetic_finals(winner=1, texts=(HOSTILE, TEXT)).model_dump(mode="json")
    finals["errors"]["labels"] = [HOSTILE, "positive"]
    finals["errors"]["by_class"][0]["name"] = HOSTILE
    finals["readings"][0] |= {"method": HOSTILE, "at": HOSTILE}
    finals["notes"] = [HOSTILE]
    finals["readings"][0]["winner_scores"][f"f1/{HOSTILE}"] = finals["readings"][0]["winner_scores"]["accuracy"]
    finals["readings"][0]["default_scores"][f"f1/{HOSTILE}"] = finals["readings"][0]["default_scores"]["accuracy"]
    finals["readings"][0]["differences"][f"f1/{HOSTILE}"] = finals["readings"][0]["differences"]["accuracy"]
    study = synthetic_study(5, description=HOSTILE, model={"name": HOSTILE}, data={"train": HOSTILE})
    study.set_user_attr("finals", finals)
    facts = study.user_attrs["data"]
    known = {
        "labels": [HOSTILE],
        "notes": [HOSTILE],
        "quality": {HOSTILE: {HOSTILE: {HOSTILE: HOSTILE}}, "b": [HOSTILE]},
    }
    study.set_user_attr("data", facts | known)
    study.set_user_attr("call", ["--study", HOSTILE])
    study.set_user_attr("mlflow_address", f"https://me:***@example.org/{HOSTILE}")
    owner = {"host": HOSTILE.replace(" ", "_"), "pid": HOSTILE, "started": "1"}
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=0.9,
            params={HOSTILE: HOSTILE, "text": 0.5},
            distributions={HOSTILE: CategoricalDistribution([HOSTILE, None]), "text": FloatDistribution(0, 1)},
            intermediate_values={1: 0.9},
            user_attrs={
                "result": {"state": "COMPLETE", "message": HOSTILE, "reason": HOSTILE, "metrics": {}},
                "mlflow_run_id": HOSTILE,
                "machine": {"device": HOSTILE},
                "owner": owner,
                "git_commit": HOSTILE,
            },
        )
    )
    text = page_of(study, Path(f"runs/{HOSTILE.replace('/', '')}"))
    found = OBEYED & set(text.replace(plotly_script(), ""))
    shown = text.replace(plotly_script(), "")
    assert not found, [shown[max(0, shown.index(each) - 300) :][:320] for each in found]
    elements = Elements(text)
    assert {tag for tag, _ in elements.tags} <= TAGS
    for _, attributes in elements.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert not (attributes.get("href") or "").lower().startswith(("javascript:", "data:"))
    assert len(elements.scripts) == 4
    assert HOSTILE.partition("<img")[0] in "".join(elements.texts)  # shown as it is written, not lost
    for figure in elements.data("figures").values():
        _holds_no_tag(figure)
    assert all("run" not in trial for trial in elements.data("trial-data")["trials"] if trial["number"] == 5)


def _holds_no_tag(given: Any) -> None:
    """Plotly takes tags in any text for such; of ours there are line breaks, `extra`, and the study's own score."""
    if isinstance(given, str) and given != "<b>Accuracy</b>":
        assert not set(re.findall(r"<[^>]*>?", given)) - {"<br>", "<extra>", "</extra>"}, given
    for inner in given.values() if isinstance(given, dict) else given if isinstance(given, list) else ():
        _holds_no_tag(inner)


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "&amp;", "\u2028", "\u2029"])
def test_json_in_a_script_ends_nowhere_else(text: str) -> None:
    shown = in_script(json.dumps({text: [text]}, ensure_ascii=False))
    assert text not in shown and "<" not in shown
    assert json.loads(shown) == {text: [text]}


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (None, "http://127.0.0.1:5000"),
        ("sqlite:////home/me/mlruns/mlflow.db", "http://127.0.0.1:5000"),
        ("http://mlflow.example:5000/", "http://mlflow.example:5000"),
        ("https://me:***@mlflow.example/mlflow", "https://mlflow.example/mlflow"),
        ("javascript:alert(1)", "http://127.0.0.1:5000"),
    ],
)
def test_links_lead_to_the_server_that_trials_were_logged_to(stored: str | None, told: str) -> None:
    study = synthetic_study(1)
    if stored:
        study.set_user_attr("mlflow_address", stored)
    assert mlflow_address(view_of(study)) == told
    assert Elements(page_of(study)).data("trial-data")["address"] == told


def test_a_run_that_mlflow_did_not_know_when_its_trial_ended_is_linked_when_it_does() -> None:
    study = synthetic_study(1)
    study.set_user_attr("mlflow_run_ids", {f"{0:032x}": "b" * 32})
    assert Elements(page_of(study)).data("trial-data")["trials"][0]["run"] == "b" * 32
    study.set_user_attr("mlflow_run_ids", {f"{0:032x}": "hpo.key=1-2"})
    assert "run" not in Elements(page_of(study)).data("trial-data")["trials"][0]
