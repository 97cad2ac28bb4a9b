"""`python -m hpo.distill --teacher STUDY --student MODEL`: a smaller model that learns from tuned ones.

Two studies of the student, with teachers and without, of the same budget; then all are held against the test split.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.progress import Progress

from hpo import run
from hpo.addresses import masked
from hpo.command_line import (
    add_output,
    add_storage,
    add_verbose,
    exit_code,
    hide_arguments,
    importing,
    quiet,
    storage_address,
)
from hpo.errors import DataError
from hpo.hub import hub_references, settle
from hpo.interrupt import CtrlC
from hpo.live import standard_output
from hpo.model_folder import TRAINING, config_of
from hpo.output import output_option, prepare_output, require_written, study_folder
from hpo.plain_text import markup, shell_word
from hpo.students import (
    DISTILLED,
    OF_TEACHING,
    Basis,
    basis_of_config,
    basis_of_study,
    student_studies,
    write_study,
)
from hpo.study_file import override, parse_study


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m hpo.distill", description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--teacher",
        action="append",
        required=True,
        dest="teachers",
        metavar="STUDY|FOLDER",
        help="a study whose winner teaches, or a model folder of one; several teach together",
    )
    made.add_argument("--student", required=True, metavar="MODEL", help="the pretrained student, as model.name has it")
    made.add_argument("--layers", type=int, metavar="N", help="cut the student down to N of its layers")
    made.add_argument(
        "--top",
        type=run.positive,
        metavar="K",
        help="of each study the K best trials teach together, trained again once and kept in its ensemble/",
    )
    made.add_argument(
        "--unlabelled",
        metavar="SOURCE",
        help="further texts, a file or a Hub id as data.unlabelled has it, that the teachers label for their student",
    )
    made.add_argument("--name", help="NAME-distilled and NAME-student are the studies (default: the first teacher's)")
    made.add_argument(
        "--trials", type=int, metavar="N", help="of each of both (default: as many as the teacher's study)"
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="PATH=VALUE",
        help="override any key of both study files, such as finalists.n_test_seeds=3; may be repeated",
    )
    made.add_argument("--workers", type=run.positive, default=1, metavar="N", help="how many trials run at once")
    add_output(made)
    add_storage(made)
    made.add_argument("--fresh", action="store_true", help="start both over; the earlier ones keep dated names")
    add_verbose(made)
    return made


def main(arguments: list[str] | None = None) -> int:
    hide_arguments()
    options = parser().parse_args(arguments)
    quiet(options.verbose)
    return exit_code(lambda: distill(options))


def distill(options: argparse.Namespace) -> int:
    """Runs both studies, or goes on with them, and compares; the exit code."""
    console, storage = standard_output(), storage_address(options.storage)
    prepare_output(options.output)
    basis, teachers = _teachers(options, storage)
    name = options.name or basis.name
    plain, distilled = student_studies(basis, name, options.student, options.layers, teachers, options.unlabelled)
    settled = [_settled(study, options) for study in (distilled, plain)]
    for study in settled:  # the distilled one first: a mistake about the teachers shows before anything is trained
        path = write_study(study, options.output)
        console.print(f"\n[dim]study file[/]  {markup(str(path))}\n", soft_wrap=True)
        code = run.search(run.parser().parse_args(_arguments(options, path)))
        if code:
            return code
    with importing():
        from hpo.console import printed
        from hpo.distillation import compare_students, why_none
        from hpo.report import write_report
        from hpo.report.distillation import said_of, write_distillation
        from hpo.storage import open_storage
        from hpo.study import load_study
        from hpo.tasks import DEFAULT_TASK, TASKS

    console.print()
    if reason := why_none(name, options.output, storage):
        console.print(markup(reason))
        return 0
    found = compare_students(name, teachers, options.output, storage)
    shown = TASKS[basis.sections.get("task", DEFAULT_TASK)].shown
    said = said_of(found, name, shown)
    folder = study_folder(options.output, f"{name}{DISTILLED}")
    files = write_distillation(said, folder)
    write_report(load_study(open_storage(options.output, storage), f"{name}{DISTILLED}"), folder)  # which links to it
    columns = len(said.scores.header)
    console.print(printed(said.scores, [0, 2, columns - 3, columns - 1]))
    console.print(f"\n[bold]{markup(' '.join(said.headline))}[/]\n")
    console.print(f"[dim]report  [/]{markup(str(files.page))}\n        {markup(str(files.markdown))}", soft_wrap=True)
    return 0


def _settled(study: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One of both study files with all that was set. Raises `SpecError` with its mistakes."""
    overrides = [each for each in options.overrides if "teachers" in study or not each.startswith(OF_TEACHING)]
    overrides += [] if options.trials is None else [f"n_trials={options.trials}"]
    settled = override(study, overrides)
    parse_study(settled, f"the student's study, which --name and --set change ({study['name']})")
    return settled


def _arguments(options: argparse.Namespace, path: Path) -> list[str]:
    """What `hpo.run` is called with for one of both."""
    given = ["--study", str(path), "--output", str(options.output), "--workers", str(options.workers)]
    given += [] if (address := storage_address(options.storage)) is None else ["--storage", masked(address)]
    return [*given, *["--fresh"] * options.fresh, *["--verbose"] * options.verbose]


def _teachers(options: argparse.Namespace, storage: str | None) -> tuple[Basis, list[str]]:
    """What the student's studies take over from the first teacher, and the model folders of all.

    Raises:
        DataError: one is neither a study that has a winner's model here nor a model folder of ours.
    """
    bases: list[Basis] = []
    folders: list[str] = []
    for teacher in options.teachers:
        folder = Path(teacher)
        if os.path.isfile(folder / TRAINING):
            if options.top:
                raise DataError(f"--top takes the best trials of a study, but got the folder {folder}. Name its study.")
            bases.append(basis_of_config(folder.resolve().parent.name, config_of(folder)))
            folders.append(folder.as_posix())
        elif os.path.isdir(folder) and not _is_study(teacher, options.output, storage):
            raise DataError(
                f"--teacher must be a study, or a model folder that a study or hpo.train left, with its {TRAINING}, "
                f"but got {folder}. Name such a folder: {options.output}/STUDY/model."
            )
        else:
            basis, found = _of_study(teacher, options, storage)
            bases.append(basis)
            folders += [path.as_posix() for path in found]
    # As the study file names them: with `./` a path is none of the Hub's names.
    named = [each if each.startswith((".", "/", "~")) else f"./{each}" for each in folders]
    return bases[0], list(dict.fromkeys(named))


def _is_study(name: str, output: Path, storage: str | None) -> bool:
    """Whether a study of this name was run: a folder of data may be called as it is."""
    with importing():
        from hpo.storage import was_run

    return len(Path(name).parts) == 1 and was_run(name, output, storage)


def _of_study(name: str, options: argparse.Namespace, storage: str | None) -> tuple[Basis, list[Path]]:
    if storage is None:
        require_written(options.output / "optuna.db")
    with importing():
        from hpo.storage import open_storage
        from hpo.study import load_study, stored_spec

    spec = stored_spec(load_study(open_storage(options.output, storage), name))
    settle(hub_references(spec))  # before the libraries are imported that would wait for it
    with importing():
        from hpo.ensemble import train_ensemble
        from hpo.finalists import model_path

    basis = basis_of_study(spec)
    if options.top:
        console = standard_output()
        with CtrlC() as ctrl_c, Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("training", total=None)

            def say(text: str) -> None:
                console.print(f"[dim]ensemble[/]  {markup(text)}")

            def on_step(step: int, steps: int) -> None:
                progress.update(bar, completed=step, total=steps)

            return basis, train_ensemble(name, options.top, options.output, storage, say, on_step, ctrl_c.check)
    model = model_path(study_folder(options.output, name))
    if not os.path.isfile(model / TRAINING):
        raise DataError(
            f"a teacher's study must have its winner's model on this machine, but {model} is none. Let it finish "
            f"(python -m hpo.run --study {shell_word(name)}{output_option(options.output)}), or take its best trials "
            "with --top."
        )
    return basis, [model]


if __name__ == "__main__":
    sys.exit(main())
