"""The fast layers against transformers' own: the same predictions and the same gradients."""

import copy

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from hpo.training.encoder import PARTS, replace_layers
from models import SIZES, tiny_config, tiny_model

FAST = ("bert", "roberta", "electra", "distilbert", "xlm-roberta")
LENGTHS = (9, 4, 7)


def batch() -> dict[str, torch.Tensor]:
    """Three texts, two of them padded."""
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    torch.manual_seed(1)
    input_ids = torch.randint(4, 32, mask.shape) * mask
    return {"input_ids": input_ids, "attention_mask": mask}


def pair(model_type: str, first_token_only: bool) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same model twice, with transformers' layers and with ours."""
    torch.manual_seed(0)
    upstream = tiny_model(tiny_config(model_type))
    for parameter in upstream.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # as initialized, attention is next to uniform
    fast = copy.deepcopy(upstream)
    assert replace_layers(fast, first_token_only)
    return upstream.eval(), fast.eval()


@pytest.mark.parametrize("first_token_only", [False, True])
@pytest.mark.parametrize("model_type", FAST)
def test_predictions_and_gradients(model_type: str, first_token_only: bool) -> None:
    results = []
    for model in pair(model_type, first_token_only):
        logits = model(**batch()).logits
        logits.square().sum().backward()
        results.append((logits, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (logits, gradients), (fast_logits, fast_gradients) = results
    torch.testing.assert_close(fast_logits, logits, rtol=1e-4, atol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
    key_bias = [name for name in gradients if name.endswith(("key.bias", "k_lin.bias"))][-1]
    for name, gradient in gradients.items():
        fast_gradient = fast_gradients[name]
        if name == key_bias and first_token_only:  # cancels out in the softmax: its gradient is rounding
            assert fast_gradient is None and gradient is not None
            assert gradient.abs().max() < 1e-6 * largest
            continue
        assert (gradient is None) == (fast_gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(fast_gradient, gradient, rtol=1e-3, atol=1e-6 * largest)


@pytest.mark.parametrize("model_type", FAST)
def test_in_bf16_it_is_no_further_from_the_truth_than_upstream(model_type: str) -> None:
    upstream, fast = pair(model_type, first_token_only=True)
    with torch.no_grad():
        truth = upstream(**batch()).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors = [(model(**batch()).logits.float() - truth).abs().max().item() for model in (upstream, fast)]
    assert 0 < errors[1] < 3 * errors[0]


@pytest.mark.parametrize("first_token_only", [False, True])
@pytest.mark.parametrize("model_type", FAST)
def test_gradients_in_bf16_are_no_further_from_the_truth_than_upstreams(
    model_type: str, first_token_only: bool
) -> None:
    def gradients(model: PreTrainedModel, in_bf16: bool) -> torch.Tensor:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bf16):
            logits = model(**batch()).logits.float()
        logits.square().sum().backward()
        each = [torch.zeros_like(one) if one.grad is None else one.grad for one in model.parameters()]
        return torch.cat([gradient.flatten() for gradient in each]).clone()

    upstream, fast = pair(model_type, first_token_only)
    truth = gradients(upstream, in_bf16=False)
    errors = [(gradients(model, in_bf16=True) - truth).norm().item() for model in (upstream, fast)]
    assert 0 < errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("model_type", FAST)
def test_without_a_mask_nothing_is_padding(model_type: str) -> None:
    input_ids = batch()["input_ids"][:1]
    upstream, fast = (model(input_ids=input_ids).logits for model in pair(model_type, first_token_only=True))
    torch.testing.assert_close(fast, upstream, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("first_token_only", "rows"), [(False, 9), (True, 1)])
def test_the_rows_that_the_last_layer_computes(first_token_only: bool, rows: int) -> None:
    _, fast = pair("bert", first_token_only)
    last = fast.get_submodule("bert.encoder.layer.1")
    shapes: list[torch.Size] = []
    last.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    fast(**batch())
    assert shapes == [(3, rows, 32)]


def test_every_fast_architecture_is_tested() -> None:
    found = {type(module) for name in FAST for module in tiny_model(tiny_config(name)).modules()} & set(PARTS)
    assert found == set(PARTS)


@pytest.mark.parametrize("model_type", ["modernbert", "deberta-v2"])
def test_others_stay_as_they_are(model_type: str) -> None:
    config = tiny_config(model_type) if model_type == "modernbert" else AutoConfig.for_model(model_type, **SIZES)
    model = tiny_model(config).eval()
    expected = model(**batch()).logits
    assert not replace_layers(model, first_token_only=True)
    assert torch.equal(model(**batch()).logits, expected)


def test_a_decoder_stays_as_it_is() -> None:
    config = tiny_config("bert")
    config.is_decoder = True
    assert not replace_layers(tiny_model(config), first_token_only=True)
