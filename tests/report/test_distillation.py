"""What the page of a distillation says, worked out by hand."""

from pathlib import Path

import pytest

from hpo.report.distillation import said_of, write_distillation
from hpo.results import Contender, Difference, Distillation, Estimate


def contender(name: str, accuracy: float, parameters: int, speed: float, seeds: int = 1) -> Contender:
    return Contender(
        name=name,
        model=f"<{name}>",
        seeds=seeds,
        scores={"accuracy": Estimate(value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02)},
        num_parameters=parameters,
        weights_mib=parameters * 4 / 2**20,
        examples_per_second=speed,
    )


def distillation(difference: Difference) -> Distillation:
    return Distillation(
        metric="accuracy",
        rows=1066,
        device="a CPU",
        contenders=[
            contender("Teacher 1", 0.84, 1000, 50.0),
            contender("Teacher 2", 0.82, 1000, 50.0),
            contender("Ensemble of 2", 0.85, 2000, 25.0),
            contender("Student, plainly tuned", 0.80, 500, 100.0, seeds=5).model_copy(
                update={"complete_trials": 9, "training_steps": 189}
            ),
            contender("Student, distilled", 0.82, 500, 100.0, seeds=5).model_copy(
                update={"complete_trials": 7, "training_steps": 1378}
            ),
        ],
        distilled_less_plain={"accuracy": difference},
        distilled_less_plain_seeds=5,
        ensemble_less_first={"accuracy": Difference(value=0.01, low=-0.01, high=0.03, p_value=0.3)},
    )


HELPED = Difference(value=0.02, low=0.01, high=0.03, p_value=0.001)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (HELPED, "The teachers helped: distilled, the student has a test accuracy of 0.820 (0.800 to 0.840)"),
        (Difference(value=0.02, low=-0.01, high=0.05, p_value=0.2), "There is no evidence that the teachers helped"),
        (Difference(value=-0.02, low=-0.03, high=-0.01, p_value=0.001), "The teachers harmed"),
    ],
)
def test_the_headline(difference: Difference, words: str) -> None:
    told = " ".join(said_of(distillation(difference), "s", ["accuracy", "f1_macro"]).headline)
    assert told.startswith(words)
    assert "25% of the parameters of the ensemble of 2 and labels 4.0 times as many examples a second" in told
    assert "its test accuracy is −0.030 beside that one's" in told


def test_the_pages(tmp_path: Path) -> None:
    files = write_distillation(said_of(distillation(HELPED), "s", ["accuracy"]), tmp_path)
    text, page = files.markdown.read_text(encoding="utf-8"), files.page.read_text(encoding="utf-8")
    assert "| Teacher 1 |" in text and "| **Student, distilled** |" in text
    assert "| Ensemble less its first teacher | accuracy | +0.010 (−0.010 to +0.030) | 0.30 |" in text
    assert "&lt;Teacher 1&gt;" in page and "<Teacher 1>" not in page
    assert "over 5 seeds" in text and "1,066 test rows" in text
    assert "9 complete trials, and was trained for 189 optimizer steps; the distilled one of 7, for 1,378." in text
