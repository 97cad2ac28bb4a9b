"""`python -m hpo.onnx --model FOLDER` makes a trained model cheaper to serve, and measures what that costs.

Writes it as ONNX, in float32 and with int8 weights, and compares both with PyTorch on the validation split.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState
from rich.console import Console

from hpo.attempts import finalist_of
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
from hpo.export import exported_config
from hpo.hub import hub_references, settle
from hpo.model_folder import ONNX, config_of
from hpo.output import is_taken, prepare_output, study_folder, write_atomically
from hpo.plain_text import markup
from hpo.results import Serving
from hpo.spec import TrialConfig
from hpo.storage import open_storage, was_run
from hpo.study import finalist_trials, load_study, store_serving

if TYPE_CHECKING:
    from hpo.training.serving import Measured

COMPARISON = "comparison.json"


def main(arguments: list[str] | None = None) -> int:
    hide_arguments()
    parser = argparse.ArgumentParser(prog="python -m hpo.onnx", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="a model folder of a study or of `hpo.train`"
    )
    parser.add_argument(
        "--full-range",
        action="store_true",
        help="8 bits for int8 weights instead of 7: a little closer, but wrong on x86 processors without VNNI",
    )
    add_output(parser)
    add_storage(parser)
    add_verbose(parser)
    options = parser.parse_args(arguments)
    quiet(options.verbose)
    console, storage = Console(highlight=False), storage_address(options.storage)
    return exit_code(
        lambda: serve(options.model, options.output, storage, console, reduce_range=not options.full_range)
    )


def serve(model: Path, output: Path, storage: str | None, console: Console, *, reduce_range: bool) -> int:
    """Exports, compares, shows; keeps the comparison beside the files, and with the study whose model it is.

    Raises:
        HpoError: the extra is not installed.
        DataError: no such model or data, an architecture that cannot be exported, or an export that computes something
            else: then no file is left.
    """
    config = config_of(model)
    hub = settle([each for each in hub_references(config) if each.kind == "dataset"])  # the model is here
    if hub.missing:
        raise DataError(f"`{model}` was trained on what the Hub has, but {hub.notice}. Connect.")
    if hub.notice:
        console.print(markup(hub.notice))
    with importing():  # only now what takes seconds, and looks whether it is offline while it is imported
        from hpo.data.splits import load_splits
        from hpo.report import write_report
        from hpo.training.onnx_export import require_onnx
        from hpo.training.serving import load_measured

    require_onnx()
    prepare_output(model)
    study, trial = _study_of(model, config, output, storage)
    splits = load_splits(config.task, config.data, config.data_seed)
    if study and study.user_attrs["data"]["fingerprint"] != splits.fingerprint:
        raise DataError(
            f"the data must be that of the study `{study.study_name}`, but its fingerprint has changed. Restore the "
            "files, or run the study again."
        )
    measured = load_measured(model, splits)
    serving = _made(measured, model, trial, console, reduce_range=reduce_range)
    _show(serving, model / ONNX, console)
    if study:
        store_serving(study, serving)
        files = write_report(study, study_folder(output, study.study_name))
        console.print(f"report     {markup(str(files.page))}", soft_wrap=True)
    return 0


def _study_of(
    model: Path, config: TrialConfig, output: Path, storage: str | None
) -> tuple[optuna.Study | None, int | None]:
    """The study in whose folder a model lies, and which of its trials made it; nothing where it is of no study here."""
    name = model.resolve().parent.name
    if model.resolve().parent.parent != output.resolve() or is_taken(name):
        return None, None
    if not was_run(name, output, storage):
        return None, None
    study = load_study(open_storage(output, storage), name)
    for trial in [*finalist_trials(study), *study.get_trials(deepcopy=False)]:
        if trial.state == TrialState.COMPLETE and exported_config(trial) == config:
            searched = finalist_of(trial)
            return study, trial.number if searched is None else searched
    return None, None


def _made(measured: "Measured", model: Path, trial: int | None, console: Console, *, reduce_range: bool) -> Serving:
    """Writes all files, whole or not at all, in place of those of an earlier call."""
    from hpo.training.serving import compare, write_onnx

    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=model) as folder:
        making = Path(folder) / ONNX
        making.mkdir()
        with console.status("exporting"):
            write_onnx(measured, making, reduce_range=reduce_range)
        with console.status("comparing on the validation split"):
            serving = compare(measured, making, reduce_range=reduce_range).model_copy(update={"trial": trial})
        write_atomically(making / COMPARISON, serving.model_dump_json(indent=1).encode())
        shutil.rmtree(model / ONNX, ignore_errors=True)
        making.rename(model / ONNX)
    return serving


def _show(serving: Serving, folder: Path, console: Console) -> None:
    from hpo.console import printed
    from hpo.report.serving import comparison, conditions, table

    console.print(
        printed(table(serving)), "", markup(comparison(serving)), "", markup(conditions(serving)), "", sep="\n"
    )
    for each in serving.models[1:]:
        console.print(f"{each.name:10} {markup(str(folder / each.file))}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
