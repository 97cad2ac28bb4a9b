"""What a finished training predicts: row by row, of texts that it never saw too, and kept to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny import sentences, write_csv
from conftest import StudyMaker
from hpo.space import default_params, trial_config
from hpo.spec import StudySpec
from hpo.study_file import parse_study
from hpo.training.finetune import evaluate, finetune, predict
from hpo.training.predictions import packed, predictions, unpacked
from hpo.training.setup import held_back_tokens, set_up, trained_model


def test_logits_are_kept_to_the_bit() -> None:
    logits = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    assert np.array_equal(unpacked(json.loads(json.dumps(packed(logits)))), logits)


def test_predictions_are_in_the_order_of_the_rows(spec: StudySpec) -> None:
    setup = set_up(trial_config(spec, default_params(spec), seed=0), None)
    last = list(finetune(setup))[-1]
    scores = setup.task.evaluate(predict(setup, setup.validation), setup.validation.labels, setup.splits.labels)
    # Sums over the rows in another order may differ in the last bit.
    assert scores.keys() == evaluate(setup).keys()
    assert all(np.isclose(value, last.metrics[name], rtol=1e-12) for name, value in scores.items())

    kept = {name: unpacked(logits) for name, logits in predictions(setup, None).items()}
    model, tokenizer = trained_model(setup).eval(), setup.pretrained.tokenizer
    for name, split in (("validation", setup.splits.validation), ("test", setup.splits.test)):
        one_by_one = []
        with torch.inference_mode():
            for text in split.texts:
                batch = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
                one_by_one.append(model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0].numpy())
        np.testing.assert_allclose(kept[name], one_by_one, atol=1e-5)


def test_words_that_only_the_test_split_has_are_predicted_too(raw_study: StudyMaker, tmp_path: Path) -> None:
    """The training leaves out the embeddings of words that it never sees."""
    seen = [row for row in sentences(300, seed=1) if "music" not in row[0].split()]
    held = [(f"{text} music", label) for text, label in sentences(40, seed=2)]
    files = {name: str(write_csv(tmp_path / f"{name}.csv", rows)) for name, rows in (("train", seen), ("test", held))}
    data = {**files, "validation_size": 50, "labels": ["negative", "positive"]}
    spec = parse_study(raw_study(data=data), "tiny.yaml")
    setup = set_up(trial_config(spec, default_params(spec), seed=0), None)
    music = setup.pretrained.tokenizer.convert_tokens_to_ids("music")
    assert music not in setup.train.token_ids and music in held_back_tokens(setup, None).token_ids
    for _ in finetune(setup):
        pass
    with pytest.raises(IndexError):
        predict(setup, held_back_tokens(setup, None))
    assert unpacked(predictions(setup, None)["test"]).shape == (40, 2)
