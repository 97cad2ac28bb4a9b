"""What is found out about the data before the first trial."""

import json
from pathlib import Path

import pytest

from conftest import StudyMaker
from hpo.data.splits import load_splits
from hpo.errors import DataError
from hpo.facts import study_facts
from hpo.results import DataQuality
from hpo.study_file import parse_study


def test_the_quality_of_the_data_is_plain_data_that_a_report_can_read_again(
    raw_study: StudyMaker, tmp_path: Path
) -> None:
    training = raw_study()["training"] | {"max_length": 14}
    spec = parse_study(raw_study(training=training), "tiny.yaml")
    facts = study_facts(spec, tmp_path).data
    quality = DataQuality.model_validate_json(json.dumps(facts.quality))
    splits = load_splits("sequence_classification", spec.data, spec.seed)
    # The tokenizer takes a word for a token, and puts one before and one after them.
    lengths = {name: [len(text.split()) + 2 for text in getattr(splits, name).texts] for name in facts.rows}
    assert quality.max_length == 14
    for name, split in quality.splits.items():
        assert split.rows == facts.rows[name]
        assert split.class_counts == splits.class_counts[name]
        assert split.lengths.percentiles["max"] == max(lengths[name])
        assert split.lengths.percentiles["min"] == min(lengths[name])
        assert split.lengths.truncated == sum(length > 14 for length in lengths[name]) > 0
        cut = sum(max(length - 14, 0) for length in lengths[name])
        assert split.lengths.tokens_cut == cut / sum(lengths[name])


def test_what_matters_is_among_the_notes(raw_study: StudyMaker, tmp_path: Path) -> None:
    training = raw_study()["training"] | {"max_length": 6}
    facts = study_facts(parse_study(raw_study(training=training), "tiny.yaml"), tmp_path).data
    assert any("of its tokens are cut at training.max_length=6" in note for note in facts.notes)


def test_what_is_learned_from_is_among_the_notes(raw_study: StudyMaker, tmp_path: Path) -> None:
    training = raw_study()["training"] | {"train_fraction": 0.5}
    facts = study_facts(parse_study(raw_study(training=training), "tiny.yaml"), tmp_path).data
    assert "train: 120 of 240 rows are learned from (training.train_fraction)." in facts.notes


def test_a_searched_augmentation_that_the_model_cannot_do_is_found_before_the_first_trial(
    raw_study: StudyMaker, tmp_path: Path
) -> None:
    space = {"augment_method": {"choices": ["none", "masked_model"]}}
    with pytest.raises(DataError, match="was saved without it"):
        study_facts(parse_study(raw_study(search_space=space), "tiny.yaml"), tmp_path)


def test_the_smallest_share_of_the_rows_is_tried_before_the_first_trial(raw_study: StudyMaker, tmp_path: Path) -> None:
    sections = {
        "search_space": {"train_fraction": {"choices": [0.001, 1.0]}},
        "sampler": {"name": "random"},
        "pruner": {"name": "none"},
    }
    with pytest.raises(DataError, match="must leave a row of every class"):
        study_facts(parse_study(raw_study(**sections), "tiny.yaml"), tmp_path)
