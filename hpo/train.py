"""`python -m hpo.train --config best.yaml`: runs an exported configuration again and saves the model."""

import argparse
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from hpo.command_line import add_verbose, exit_code, importing, quiet
from hpo.errors import DataError
from hpo.export import Exported, read_exported
from hpo.hub import hub_references, settle
from hpo.interrupt import CtrlC
from hpo.model_folder import ONNX
from hpo.output import prepare_output
from hpo.plain_text import markup


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hpo.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="BEST.YAML", help="as a study exported it")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="the model folder (default: `model` beside it)")
    add_verbose(parser)
    options = parser.parse_args(arguments)
    quiet(options.verbose)
    folder = options.output or options.config.parent / "model"
    return exit_code(lambda: train(read_exported(options.config), folder, Console(highlight=False)))


def train(exported: Exported, folder: Path, console: Console) -> int:
    """Trains, compares the score with the exported one, and saves model and tokenizer to `folder`.

    Raises:
        DataError: data or weights are not those that the configuration was found with.
    """
    config = exported.config
    hub = settle(hub_references(config))
    if hub.missing:
        raise DataError(f"`{exported.study}` was trained on what the Hub has, but {hub.notice}. Connect.")
    if hub.notice:
        console.print(markup(hub.notice))
    with importing():  # only now what takes seconds, and looks whether it is offline while it is imported
        from hpo.provenance import versions
        from hpo.training.finetune import finetune
        from hpo.training.setup import save_model, set_up

    prepare_output(folder)  # before the training, not after it
    console.print(f"{markup(exported.study)}, trial {exported.trial}: {markup(config.model.name)}, seed {config.seed}")
    setup = set_up(config, cache_dir=None)
    _require_same("data", exported.data_fingerprint, setup.splits.fingerprint)
    _require_same("model", exported.model_fingerprint, setup.pretrained.fingerprint)
    with CtrlC() as ctrl_c, Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("training", total=setup.num_training_steps)

        def on_step(step: int) -> None:
            progress.update(bar, completed=step)
            ctrl_c.check()

        for evaluation in finetune(setup, on_step):
            score = evaluation.metrics[config.metric]
            console.print(f"{evaluation.step:3}/{config.training.num_evaluations}  {config.metric} {score:.4f}")

    shutil.rmtree(folder / ONNX, ignore_errors=True)  # of the model that was here before
    save_model(setup, folder)
    console.print(f"model   {markup(str(folder))}", soft_wrap=True)
    if evaluation.metrics == exported.metrics:
        console.print(f"{config.metric} {score!r}: the same to the bit as exported")
        return 0
    console.print(f"{config.metric} {score!r}, exported {exported.score!r}, difference {score - exported.score:+.2g}")
    now = {**versions(), "device": setup.device.name, "precision": setup.device.precision}
    for name, was in {**exported.versions, **exported.machine}.items():
        if now.get(name) != was:
            console.print(f"  {markup(name)} was {markup(was)}, is {markup(str(now.get(name)))}")
    return 0


def _require_same(what: str, exported: str, found: str) -> None:
    if exported != found:
        raise DataError(
            f"the {what} must be that of the exported trial, but its fingerprint was {exported[:24]} and is "
            f"{found[:24]}. Restore the files, or run the study again."
        )


if __name__ == "__main__":
    sys.exit(main())
