"""One step on as much of a batch as the memory holds, and the step that is captured and replayed."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

from hpo import space
from hpo.errors import TrialFailed
from hpo.spec import StudySpec, TrialConfig
from hpo.training.batches import Rows, evaluation_order
from hpo.training.device import CUDA_OUT_OF_MEMORY, is_out_of_memory
from hpo.training.finetune import evaluate, finetune
from hpo.training.graphs import GraphedStep
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.setup import Setup, set_up
from hpo.training.step import Step, in_parts
from models import N_LAYERS

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def config(spec: StudySpec) -> TrialConfig:
    return space.trial_config(spec, {"dropout": 0.0, "warmup_ratio": 0.0, "num_evaluations": 1}, seed=7)


def memory_for(setup: Setup, examples: int, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
    """Lets the model take no more examples than these at once; returns the sizes that it was given."""
    given: list[int] = []

    def refuse(model: torch.nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        given.append(len(kwargs["input_ids"]))
        if given[-1] > examples:
            raise error("DefaultCPUAllocator: can't allocate memory")

    setup.pretrained.model.register_forward_pre_hook(refuse, with_kwargs=True)
    return given


def weights(setup: Setup) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in setup.pretrained.model.parameters()])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_a_smaller_micro_batch_gives_the_same_result(config: TrialConfig, error: type[Exception]) -> None:
    plain, small = set_up(config, None), set_up(config, None)
    start = weights(plain).clone()
    (expected,) = finetune(plain)
    memory_for(small, 5, error)
    (evaluation,) = finetune(small)
    # 16 does not fit, nor 8; 4 does.
    assert (evaluation.micro_batch_size, expected.micro_batch_size) == (4, None)
    torch.testing.assert_close(weights(small) - start, weights(plain) - start, rtol=0.05, atol=2e-4)
    assert evaluation.metrics["eval/loss"] == pytest.approx(expected.metrics["eval/loss"], rel=1e-3)
    for point, same in zip(evaluation.curve, expected.curve, strict=True):
        assert point.loss == pytest.approx(same.loss, rel=1e-3)
        assert point.grad_norm == pytest.approx(same.grad_norm, rel=1e-2)


def test_uneven_parts_weigh_by_their_examples(config: TrialConfig) -> None:
    """Of 16 examples at most 7 at once: 4, 4, 4, 4; of 10 then 4, 4, 2, each example a tenth."""
    plain, small = (set_up(config, None) for _ in range(2))
    given = memory_for(small, 7)
    losses = []
    for setup in (plain, small):
        step, indices = setup.step, torch.arange(26)
        for part in (indices[:16], indices[16:]):
            losses.append(step(Rows(part, 15), 1e-3))
    assert given == [16, 8, 4, 4, 4, 4, 4, 4, 2]
    for (loss, norm), (small_loss, small_norm) in zip(losses[:2], losses[2:], strict=True):
        torch.testing.assert_close(small_loss, loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(small_norm, norm, rtol=1e-3, atol=1e-5)


def test_a_batch_in_parts() -> None:
    whole = {"input_ids": torch.arange(6).view(3, 2), "labels": torch.tensor([5, 6, 7])}
    parts = [{name: tensor.tolist() for name, tensor in part.items()} for part in in_parts(whole, 3, 2)]
    assert parts == [{"input_ids": [[0, 1], [2, 3]], "labels": [5, 6]}, {"input_ids": [[4, 5]], "labels": [7]}]
    assert [part is whole for part in in_parts(whole, 3, 3)] == [True]


def test_evaluation_in_smaller_batches(config: TrialConfig) -> None:
    setup = set_up(config, None)
    expected = evaluate(setup)
    sizes = {size: [len(rows) for rows in evaluation_order(setup.validation.padded, size)] for size in (128, 8)}
    assert max(sizes[128]) > 16  # so that 128, 64, 32 and 16 do not fit
    given = memory_for(setup, 10)
    assert evaluate(setup) == pytest.approx(expected, abs=1e-6)
    assert given == [10, 12] * 4 + sizes[8]  # of 128, 64, 32 and 16 the batch of 12 is refused


def test_not_even_one_example(config: TrialConfig) -> None:
    setup = set_up(config, None)
    given = memory_for(setup, 0)
    with pytest.raises(torch.OutOfMemoryError):
        next(finetune(setup))
    assert given == [16, 8, 4, 2, 1]


def test_another_error_is_not_tried_again(config: TrialConfig) -> None:
    setup = set_up(config, None)
    given = memory_for(setup, 0, ValueError)
    with pytest.raises(ValueError):
        next(finetune(setup))
    assert given == [16]
    assert not is_out_of_memory(TrialFailed("crashed", "")) and not is_out_of_memory(RuntimeError("shapes differ"))


# Graphs. What a CUDA graph does, with a function in its place: capturing computes nothing, replaying computes on what
# the captured tensors hold by then.


class Recorder:
    def __init__(self, error: Exception | None = None) -> None:
        self.captures, self.replays, self.error = 0, 0, error

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        if self.error is not None:
            raise self.error

        def replay() -> None:
            self.replays += 1
            record()

        return replay


def graphed(setup: Setup, recorder: Recorder) -> GraphedStep:
    assert isinstance(setup.step, Step)
    return GraphedStep(setup.step, recorder)


SHAPES = [(4, 10), (4, 12), (4, 10), (4, 10), (2, 12), (4, 12), (4, 12), (4, 10)]


def run(setup: Setup, step: Step | GraphedStep) -> list[tuple[float, float]]:
    at, results = 0, []
    for number, (size, length) in enumerate(SHAPES):
        short = torch.tensor([row for row in range(240) if setup.train.lengths[row] <= 10])
        loss, norm = step(Rows(short[at : at + size], length), 1e-3 / (number + 1))
        at += size
        results.append((loss, norm))
    return [(float(loss), float(norm)) for loss, norm in results]  # only now, as the loop does


def test_a_graph_is_captured_at_the_second_time_and_gives_the_plain_steps_results(config: TrialConfig) -> None:
    config = config.model_copy(update={"training": config.training.model_copy(update={"dropout": 0.1})})
    plain, fast = set_up(config, None), set_up(config, None)
    recorder = Recorder()
    torch.manual_seed(0)
    expected = run(plain, plain.step)
    torch.manual_seed(0)
    assert run(fast, graphed(fast, recorder)) == expected
    assert torch.equal(weights(plain), weights(fast))
    assert plain.step.taken == fast.step.taken == len(SHAPES)
    # Twice (4, 10) and (4, 12), met once, then captured, then replayed; (2, 12) is met once.
    assert (recorder.captures, recorder.replays) == (2, 5)


@pytest.mark.parametrize("by_cuda", [False, True])
def test_what_does_not_fit_as_a_graph_goes_on_plainly(config: TrialConfig, by_cuda: bool) -> None:
    plain, fast = set_up(config, None), set_up(config, None)
    error: RuntimeError = torch.OutOfMemoryError("no room for the graph")
    if by_cuda:  # which takes memory of its own for a graph, and says so with a number
        error = torch.AcceleratorError("CUDA error: out of memory")
        error.error_code = CUDA_OUT_OF_MEMORY  # type: ignore[attr-defined]
    recorder = Recorder(error)
    assert run(fast, graphed(fast, recorder)) == run(plain, plain.step)
    assert (recorder.captures, recorder.replays) == (1, 0)


def test_a_capture_that_fails_otherwise_ends_the_training(config: TrialConfig) -> None:
    setup = set_up(config, None)
    with pytest.raises(RuntimeError, match="not permitted"):
        run(setup, graphed(setup, Recorder(RuntimeError("operation not permitted when stream is capturing"))))


def test_a_step_in_parts_is_not_captured(config: TrialConfig) -> None:
    setup, recorder = set_up(config, None), Recorder()
    memory_for(setup, 2)
    step = graphed(setup, recorder)
    run(setup, step)
    assert (step.micro_batch_size, recorder.captures) == (2, 0)


# What a capture on a GPU would refuse, as far as it shows without one.

# Operators that make the host wait for a value, or copy one to the device.
ASKING = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "lift_fresh"}


class Operators(TorchDispatchMode):
    """Notes the names of all operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        indices = args[1] if func.overloadpacket.__name__ == "index" else ()
        assert all(index is None or index.dtype == torch.int64 for index in indices), "a mask's size is not known"
        return func(*args, **(kwargs or {}))


def ready_to_capture(config: TrialConfig) -> tuple[Setup, Step, Rows]:
    """A step that has been run, as every shape is before it is captured."""
    setup = set_up(config, None)
    assert isinstance(setup.step, Step)
    setup.pretrained.model.train()
    rows = Rows(torch.arange(4), 15)
    setup.step(rows, 1e-3)
    return setup, setup.step, rows


@pytest.mark.parametrize("optimizer", [name for name, kind in OPTIMIZERS.items() if kind.capturable])
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "class_weights": "balanced"}, {"r_drop_alpha": 1.0}])
def test_a_step_asks_nothing_of_the_device(config: TrialConfig, optimizer: str, settings: dict[str, Any]) -> None:
    training = config.training.model_copy(update={"dropout": 0.1, "optimizer": optimizer, **settings})
    _, step, rows = ready_to_capture(config.model_copy(update={"training": training}))
    with Operators() as operators:
        step.compute(rows)
    assert {"embedding", "native_layer_norm", "_foreach_norm"} <= operators.names
    assert operators.names & ASKING == set()


def test_adafactor_asks(config: TrialConfig) -> None:
    """What the test above would not let pass."""
    training = config.training.model_copy(update={"optimizer": "adafactor"})
    _, step, rows = ready_to_capture(config.model_copy(update={"training": training}))
    with Operators() as operators:
        step.compute(rows)
    assert "_local_scalar_dense" in operators.names


def test_nothing_of_a_step_outlives_it(config: TrialConfig) -> None:
    """What adds up a gradient runs on the stream where it was made: one of an earlier step would break the capture."""
    setup, step, rows = ready_to_capture(config)
    named = dict(setup.pretrained.model.named_parameters())
    named.pop(f"bert.encoder.layer.{N_LAYERS - 1}.attention.self.key.bias")  # has no gradient: see one_query_attention
    parameters = list(named.values())

    def notes() -> list[dict[Any, Any]]:
        """Of what adds up each parameter's gradient: a new one has none."""
        nodes: list[Any] = [get_gradient_edge(parameter).node for parameter in parameters]
        return [node.metadata for node in nodes]

    def mark(*_: Any) -> None:
        for note in notes():
            note["step"] = 1

    def marked() -> int:
        return sum("step" in note for note in notes())

    during: list[int] = []
    model = setup.pretrained.model
    model.register_forward_hook(mark)
    model.get_submodule("classifier").register_full_backward_hook(lambda *_: during.append(marked()))
    gc.disable()  # a cycle would keep it until somebody collects
    try:
        step.compute(rows)
        assert (during, marked()) == ([len(parameters)], 0)
    finally:
        gc.enable()
    assert all(parameter.grad is None for parameter in parameters)  # nor a gradient in the graphs' memory
