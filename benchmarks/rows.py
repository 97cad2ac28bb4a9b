"""The rows of a study as files that every contestant can read, and what this machine computes in.

A process of its own: the peers shall not carry what our loader takes, in memory or in time.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import run_module


@dataclass(frozen=True)
class Rows:
    """What `python -m benchmarks.rows` has found out, and where it has written."""

    folder: str
    num_train: int
    num_labels: int
    precision: str
    """Of `auto`: bf16 where the processor has units for it. An expert would not use it elsewhere."""


def write_rows(folder: Path, study: Path, overrides: tuple[str, ...]) -> Rows:
    """Writes `train.json` and `validation.json` to the folder."""
    return Rows(**json.loads(run_module("benchmarks.rows", str(folder), str(study), *overrides).stdout))


def main(folder: Path, study: Path, overrides: list[str]) -> None:
    from hpo.data.splits import load_splits
    from hpo.study_file import read_study
    from hpo.training.device import choose_device

    spec = read_study(study, overrides)
    splits = load_splits("sequence_classification", spec.data, spec.seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", splits.train), ("validation", splits.validation)):
        columns = {"text": list(split.texts), "label": split.labels.tolist()}
        (folder / f"{name}.json").write_text(json.dumps(columns), encoding="utf-8")
    rows = Rows(str(folder), len(splits.train), len(splits.labels), choose_device("auto").precision)
    print(json.dumps(asdict(rows)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
