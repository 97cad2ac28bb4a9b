"""The best trials of a search, trained again to be kept: together they are a better teacher than the best of them.

A search keeps the weights of its best trial alone. Each is trained as it was, once; its folder says which trial it is.
"""

from collections.abc import Callable
from pathlib import Path

from hpo.errors import DataError
from hpo.export import exported_config
from hpo.model_folder import is_model_of
from hpo.output import study_folder
from hpo.storage import open_storage
from hpo.study import best_first, load_study
from hpo.training.checkpoint import Checkpoints
from hpo.training.finetune import Evaluation, Progress, finetune
from hpo.training.setup import Setup, keep_best, set_up

ENSEMBLE = "ensemble"
"""The folder of a study that has them."""
# Seconds, as a study's default.
CHECKPOINT_EVERY = 60.0


def train_ensemble(
    name: str,
    size: int,
    output: Path,
    storage: str | None,
    say: Callable[[str], None],
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    check: Callable[[], None] = lambda: None,
) -> list[Path]:
    """The model folders of the best `size` trials of a study, the best first; trains those that are not there.

    Args:
        say: told what is trained, and how it scored.
        on_step: told after each step how many are done, and of how many.
        check: asked between steps and between batches; raises KeyboardInterrupt to stop.

    Raises:
        DataError: fewer trials are complete.
        StorageError: there is no such study.
    """
    search = load_study(open_storage(output, storage), name)
    best = best_first(search.direction, search.get_trials(deepcopy=False))[:size]
    if len(best) < size:
        raise DataError(
            f"--top must be at most the complete trials of `{name}`, {len(best)}, but got {size}. Lower it, or run "
            "more trials."
        )
    folders = []
    for number, trial in enumerate(best, start=1):
        config = exported_config(trial)
        folder = study_folder(output, name) / ENSEMBLE / f"trial-{trial.number:04d}"
        folders.append(folder)
        if is_model_of(folder, config):
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        say(f"trial {trial.number} of {name} again, {number} of {size}")
        setup = set_up(config, output / "cache")
        last = _train(setup, folder.with_suffix(".pt"), on_step, check)
        keep_best(setup, folder, instead_of=())
        say(f"trial {trial.number} of {name}: {config.metric} {last.metrics[config.metric]:.4f}")
    return folders


def _train(setup: Setup, path: Path, on_step: Callable[[int, int], None], check: Callable[[], None]) -> Evaluation:
    """To the end, or to where it is stopped, with a checkpoint that the next call goes on from."""
    checkpoints = Checkpoints(path, CHECKPOINT_EVERY)
    progress = checkpoints.restore(setup) or Progress()
    ended = False

    def stepped(step: int) -> None:
        on_step(step, setup.num_training_steps)
        check()
        if checkpoints.due:
            checkpoints.save(setup, progress)

    try:
        *_, last = finetune(setup, stepped, progress=progress, between_batches=check)
        ended = True
    except KeyboardInterrupt:
        checkpoints.save(setup, progress)
        checkpoints.wait()
        raise
    finally:
        checkpoints.close(keep=not ended)
    return last
