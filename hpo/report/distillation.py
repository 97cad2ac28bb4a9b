"""The page of a distillation: teachers, their ensemble and both students side by side, `comparison.html` and `.md`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import StorageError
from hpo.output import write_atomically
from hpo.report import answers, formats, html_page, page
from hpo.report.compare import ComparisonFiles
from hpo.report.parts import COMPARISON, Table
from hpo.results import Contender, Difference, Distillation


@dataclass(frozen=True, kw_only=True)
class Said:
    """What is said of a distillation."""

    name: str
    headline: Sequence[str]
    scores: Table
    differences: Table
    notes: Sequence[str]


def said_of(found: Distillation, name: str, shown: Sequence[str]) -> Said:
    """What there is to say.

    Args:
        shown: metrics beside the study's own.
    """
    first = found.contenders[0].scores
    metrics = [metric for metric in dict.fromkeys([found.metric, *shown, "loss"]) if metric in first]
    return Said(
        name=name,
        headline=list(_headline(found, metrics[0])),
        scores=_scores(found.contenders, metrics),
        differences=_differences(found, metrics),
        notes=list(_notes(found)),
    )


def write_distillation(said: Said, folder: Path) -> ComparisonFiles:
    """Writes the page into the folder of the distilled study. Raises `StorageError` if that cannot be written."""
    files = ComparisonFiles(page=folder / COMPARISON, markdown=(folder / COMPARISON).with_suffix(".md"))
    try:
        write_atomically(files.page, html_page.document("distillation.html.j2", [], said=said).encode())
        write_atomically(files.markdown, page.markdown_of("distillation.md.j2", said=said).encode())
    except OSError as error:
        raise StorageError(
            f"a comparison is written to the study's folder, but {folder} refused it: {error.strerror or error}. "
            "Free space, or change its permissions; the same command goes on."
        ) from error
    return files


def _headline(found: Distillation, metric: str) -> Iterator[str]:
    words, (plain, distilled) = formats.metric(metric), found.contenders[-2:]
    difference = found.distilled_less_plain[metric]
    told = f"{formats.difference(difference)}, {formats.p_value(difference.p_value)}"
    better = (difference.value < 0) == (metric in answers.LOSSES)
    if answers.is_uncertain(difference):
        yield f"There is no evidence that the teachers helped: the distilled student's test {words} less the plain"
        yield f"one's is {told}."
    else:
        yield f"The teachers {'helped' if better else 'harmed'}: distilled, the student has a test {words} of"
        yield f"{formats.estimate(distilled.scores[metric])}, plainly tuned {formats.short(plain.scores[metric].value)}"
        yield f"(difference {told})."
    teacher = found.contenders[-3]
    faster = distilled.examples_per_second / teacher.examples_per_second
    smaller = distilled.num_parameters / teacher.num_parameters
    yield (
        f"It has {smaller:.0%} of the parameters of {_small(teacher.name)} and labels {faster:.1f} times as many "
        f"examples a second; its test {words} is "
        f"{formats.signed(distilled.scores[metric].value - teacher.scores[metric].value)} beside that one's."
    )


def _small(name: str) -> str:
    return f"the {name[:1].lower()}{name[1:]}"


def _scores(contenders: Sequence[Contender], metrics: Sequence[str]) -> Table:
    header = ["", "Model", *(f"Test {formats.metric(metric)}" for metric in metrics)]
    header += ["Seeds", "Parameters", "Weights (MiB)", "Examples/s"]
    rows = [
        [
            each.name,
            each.model,
            *(formats.estimate(each.scores[metric]) for metric in metrics),
            str(each.seeds),
            f"{each.num_parameters:,}",
            f"{each.weights_mib:,.1f}",
            f"{each.examples_per_second:,.0f}",
        ]
        for each in contenders
    ]
    return Table(header=header, rows=rows, words=2, strong=frozenset({len(rows) - 1}))


def _differences(found: Distillation, metrics: Sequence[str]) -> Table:
    rows = [*_rows("Distilled less plain student", found.distilled_less_plain, metrics)]
    rows += _rows("Ensemble less its first teacher", found.ensemble_less_first, metrics)
    return Table(header=["", "Test metric", "Difference", "p"], rows=rows, words=2)


def _rows(what: str, differences: Mapping[str, Difference], metrics: Sequence[str]) -> list[list[str]]:
    there = [(formats.metric(metric), differences[metric]) for metric in metrics if metric in differences]
    return [[what, words, formats.difference(each), formats.p_cell(each.p_value)] for words, each in there]


def _notes(found: Distillation) -> Iterator[str]:
    yield f"Scores are of {found.rows:,} test rows, with 95 % intervals; nothing was chosen by them."
    yield (
        f"Those of the students cover seeds and examples, and their difference is paired by both, over "
        f"{formats.count(found.distilled_less_plain_seeds, 'seed')}. A teacher is the very model that taught, of one "
        "seed: its interval covers the examples only."
    )
    plain, distilled = found.contenders[-2:]
    if plain.complete_trials is not None and distilled.complete_trials is not None:
        trials = formats.count(plain.complete_trials, "complete trial")
        yield (
            f"The plainly tuned student is the winner of {trials}, and was trained for {plain.training_steps:,} "
            f"optimizer steps; the distilled one of {distilled.complete_trials:,}, for {distilled.training_steps:,}. "
            "Texts without labels make an epoch longer."
        )
    yield f"Examples a second are of the validation split on {found.device}, tokenized; an ensemble's one by one."
    yield (
        "What teachers say of the train split they say of rows that they have learned: they are surer there than of "
        "new ones. That is how distillation is commonly done."
    )
