"""Every architecture and every task as ONNX: the same answers for batches of any size and length; int8 as it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from hpo.data.splits import load_splits
from hpo.errors import DataError
from hpo.model_folder import tell_config
from hpo.results import Serving
from hpo.space import default_params, trial_config
from hpo.spec import ModelSpec, StudySpec, TrialConfig
from hpo.study_file import parse_study
from hpo.training import onnx_export
from hpo.training.batches import Batch
from hpo.training.finetune import finetune
from hpo.training.model import DROPOUT_FIELDS, num_positions
from hpo.training.onnx_export import export, file_mib, input_names, onnx_runtime, torch_runtime
from hpo.training.serving import MODEL, QUANTIZED, Measured, compare, load_measured, predict, write_onnx
from hpo.training.setup import save_model, set_up
from models import save_tiny
from task_data import KINDS, task_study

pytestmark = pytest.mark.usefixtures("no_gpu")


def saved(config: TrialConfig, folder: Path, *, learn: bool = False) -> Measured:
    """What a study leaves of a configuration, with or without its training."""
    setup = set_up(config, None)
    if learn:
        list(finetune(setup))
    save_model(setup, folder)
    tell_config(folder, config, setup.splits.fingerprint)
    return load_measured(folder, load_splits(config.task, config.data, config.data_seed))


def batch_of(measured: Measured, lengths: list[int]) -> Batch:
    """Random tokens, the shorter rows padded."""
    pad, longest = measured.trained.model.config.pad_token_id, max(lengths)
    ids = torch.randint(4, 32, (len(lengths), longest), generator=torch.Generator().manual_seed(longest))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return {"input_ids": torch.where(mask, ids, pad), "attention_mask": mask.long()}


@pytest.mark.parametrize("architecture", sorted(DROPOUT_FIELDS))
def test_every_architecture_answers_the_same_whatever_the_batch(
    architecture: str, spec: StudySpec, tmp_path: Path
) -> None:
    config = trial_config(spec, {}, seed=3)
    model = ModelSpec(name=str(save_tiny(architecture, tmp_path / "pretrained")))
    measured = saved(config.model_copy(update={"model": model}), tmp_path / "model")
    with torch.no_grad():  # of random weights all texts look alike
        measured.trained.model.get_parameter(_head(measured)).mul_(100)
    write_onnx(measured, tmp_path, reduce_range=True)
    exact = torch_runtime(measured.trained.model, measured.names)
    exported, small = onnx_runtime(tmp_path / MODEL), onnx_runtime(tmp_path / QUANTIZED)
    longest = num_positions(measured.trained.model, default=64)
    spread = []
    for lengths in ([1], [6], [1, 1], [7, 5, 2], [13, 1, 2, 7, 9], [longest, 3]):
        batch = batch_of(measured, lengths)
        expected = exact(batch)
        torch.testing.assert_close(exported(batch), expected, rtol=1e-3, atol=1e-3)
        assert small(batch).shape == expected.shape and torch.isfinite(small(batch)).all()
        spread.append(expected)
    assert torch.cat(spread).std(dim=0).min() > 3e-2  # or equality would say nothing


def _head(measured: Measured) -> str:
    """Embeddings of two token types have its shape as well."""
    named = [(name, each) for name, each in measured.trained.model.named_parameters() if "token_type" not in name]
    (head,) = [name for name, each in named if each.ndim == 2 and len(each) == len(measured.trained.classes)]
    return head


@pytest.fixture(params=KINDS)
def served(request: pytest.FixtureRequest, model_folder: Path, tmp_path: Path) -> tuple[Measured, Serving]:
    """A trained model of every task, and the comparison."""
    spec = parse_study(task_study(request.param, model_folder, tmp_path), "tiny.yaml")
    measured = saved(trial_config(spec, default_params(spec), seed=0), tmp_path / "model", learn=True)
    write_onnx(measured, tmp_path, reduce_range=True)
    return measured, compare(measured, tmp_path, reduce_range=True)


def test_every_task_scores_what_its_training_scored(served: tuple[Measured, Serving], tmp_path: Path) -> None:
    measured, serving = served
    last = list(finetune(set_up(measured.trained.config, None)))[-1].metrics
    before, exported, small = serving.models
    assert before.metrics == pytest.approx(last, rel=1e-4, abs=1e-5)
    assert exported.metrics == pytest.approx(before.metrics, rel=1e-4, abs=1e-5)
    assert before.largest_difference == 0 < exported.largest_difference < 1e-4 < small.largest_difference
    decides = measured.trained.task.decisions is not None
    assert [each.equal for each in (before, exported)] == ([1, 1] if decides else [None, None])
    assert small.metrics[serving.metric] == pytest.approx(before.metrics[serving.metric], abs=0.2)
    assert small.mib < exported.mib and serving.rows == len(measured.split)
    assert all(each.latency_ms > 0 and each.examples_per_second > 0 for each in serving.models)
    outputs = predict(onnx_runtime(tmp_path / QUANTIZED), measured.tokens)
    assert small.metrics == measured.trained.task.evaluate(outputs, measured.tokens.labels, measured.trained.classes)


@pytest.fixture
def measured(spec: StudySpec, tmp_path: Path) -> Measured:
    return saved(trial_config(spec, {}, seed=3), tmp_path / "model", learn=True)


def test_a_file_that_answers_otherwise_is_refused(measured: Measured, tmp_path: Path) -> None:
    write_onnx(measured, tmp_path, reduce_range=True)
    with torch.no_grad():
        measured.trained.model.get_parameter("classifier.bias").add_(torch.tensor([0.01, 0.0]))
    with pytest.raises(DataError, match=r"`bert` it differs by 0\.01 in its logits on the validation split"):
        compare(measured, tmp_path, reduce_range=True)


def test_weights_have_seven_bits_or_eight(measured: Measured, tmp_path: Path) -> None:
    largest = {}
    for reduce_range in (True, False):
        write_onnx(measured, tmp_path, reduce_range=reduce_range)
        tensors = [onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / QUANTIZED).graph.initializer]
        largest[reduce_range] = max(int(np.abs(each.astype(int)).max()) for each in tensors if each.dtype == np.int8)
    assert 32 < largest[True] <= 64 < largest[False] <= 128


def test_weights_that_no_single_file_holds_lie_beside_it(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(measured, tmp_path, reduce_range=True)
    batch, one_file = batch_of(measured, [7, 3]), file_mib(tmp_path / MODEL)
    monkeypatch.setattr(onnx_export, "MOST_BYTES_WITHIN", 1000)  # as a model of more than 2 GiB
    (apart := tmp_path / "apart").mkdir()
    write_onnx(measured, apart, reduce_range=True)
    assert {path.name for path in apart.iterdir()} == {
        f"{name}{end}" for name in (MODEL, QUANTIZED) for end in ("", ".data")
    }
    assert file_mib(apart / MODEL) == pytest.approx(one_file, rel=0.1)
    moved = apart.rename(tmp_path / "moved")
    for name in (MODEL, QUANTIZED):
        torch.testing.assert_close(onnx_runtime(moved / name)(batch), onnx_runtime(tmp_path / name)(batch))


def test_a_model_takes_token_types_where_it_knows_several(measured: Measured) -> None:
    assert list(measured.names) == ["input_ids", "attention_mask", "token_type_ids"]
    single = AutoConfig.for_model("roberta", num_hidden_layers=1, type_vocab_size=1)  # as its checkpoints
    decoder = AutoConfig.for_model("gpt2", n_layer=1)
    for config in (single, decoder):
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
        assert input_names(model, types=False) == ["input_ids", "attention_mask"]


def test_an_architecture_that_torch_cannot_export_is_told(tmp_path: Path) -> None:
    config = AutoConfig.for_model("xlnet", vocab_size=32, d_model=32, n_layer=1, n_head=2, d_inner=64, pad_token_id=0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with pytest.raises(DataError, match="architecture that torch can export to ONNX, but `xlnet` raised") as raised:
        export(model, input_names(model, types=False), tmp_path / MODEL)
    assert "\x1b" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_model_of_other_labels_than_its_data_is_refused(measured: Measured) -> None:
    splits = load_splits(measured.trained.config.task, measured.trained.config.data, measured.trained.config.data_seed)
    with pytest.raises(DataError, match="has negative, positive, and the data bad, good"):
        load_measured(measured.trained.folder, replace(splits, labels=("bad", "good")))
