"""What a training has: one section of the study file, each setting documented once, here.

All of it that `space_checks.SEARCHABLE` names can be searched.
"""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from hpo.members import AUGMENTATIONS, METHODS, OPTIMIZERS
from hpo.settings import NonEmpty, Settings, one_of

MethodName = Annotated[str, one_of(METHODS), WithJsonSchema({"type": "string", "enum": [*METHODS]})]
OptimizerName = Annotated[str, one_of(OPTIMIZERS), WithJsonSchema({"type": "string", "enum": [*OPTIMIZERS]})]
# Mixup changes no words, but what the model makes of them: it is an objective.
AUGMENT_METHODS = ("none", *AUGMENTATIONS, "mixup")
AugmentMethod = Annotated[str, one_of(AUGMENT_METHODS), WithJsonSchema({"type": "string", "enum": [*AUGMENT_METHODS]})]
SchedulerType = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant_with_warmup",
    "inverse_sqrt",
    "warmup_stable_decay",
]


class TrainingSpec(Settings):
    """One fine-tuning run. What the search space does not name stays as it stands here."""

    method: MethodName = "full"
    """What is trained: all of the model; its head; its last layers and the head; or low-rank adapters and the head."""
    num_trained_layers: Annotated[int, Field(ge=1)] = 2
    """Of `last_layers`: how many, from the last one on."""
    layer_lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer learns at this many times the rate of the one above it, the head at the full rate. 1.0: all alike."""
    lora_rank: Annotated[int, Field(ge=1)] = 8
    """Of `lora`: the rank of the adapters."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Of `lora`: adapters count `lora_alpha / lora_rank` times."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of `lora`: the dropout probability of what goes into the adapters."""
    lora_target_modules: NonEmpty = "query_value"
    """Of `lora`: what has an adapter. `query_value` are these projections of the attention, `all_linear` every linear
    layer, in any architecture; or the architecture's own names, with commas between: `query,key,value`."""
    optimizer: OptimizerName = "adamw"
    """`adamw` decouples weight decay, `adam` adds it to the gradient, `sgd` uses `momentum`. `adafactor` keeps hardly
    any state; it moves a matrix by `learning_rate` times its root mean square, and needs some 20 times the rate that
    `adamw` does. `muon` makes the updates of hidden layers' matrices orthogonal and takes `adamw` for all else, both
    with the learning rate of `adamw`; on a CPU without bf16 it makes a step some eight times as long."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """The peak learning rate, after warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Applied to weight matrices, not to biases and normalisation weights."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `sgd` and `muon`."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `adamw` and `adam`, and of what `muon` leaves to `adamw`."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of `adamw` and `adam`, and of what `muon` leaves to `adamw`."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Of `adamw` and `adam`, and of what `muon` leaves to `adamw`."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are clipped to this global norm; `null` is no clipping."""
    lr_scheduler_type: SchedulerType = "linear"
    """The shape after warm-up. `cosine_with_restarts` makes two cycles, `polynomial` has power 2, `inverse_sqrt` falls
    by the root of the steps in units of the warm-up or of a tenth of all steps, whichever is more, and
    `warmup_stable_decay` falls to 0 over the last fifth of the steps, as half a cosine."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """The share of all steps over which the learning rate rises from 0."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The dropout probability at every place where the architecture has one; `null` leaves the model's own. Llama,
    Mistral and Qwen have it in their attention alone."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of each label that is spread evenly over all classes; of many labels a text, the share that becomes a
    half. Not for numbers. `eval/loss` is without it."""
    class_weights: Literal["balanced"] | None = None
    """How much the classes count in the training's loss: `balanced` by the inverse of how often each occurs in the
    train split (n / (classes * count), as scikit-learn has it; for many labels a text, those that are there by absent
    to present ones); `null`: alike. Not for numbers. `eval/loss` is without them."""
    r_drop_alpha: Annotated[float, Field(ge=0)] = 0.0
    """R-Drop (Liang et al. 2021): two passes with other dropout, the mean of both losses, and this much of how far the
    predictions are apart (symmetric Kullback-Leibler divergence; of numbers the squared difference). 0 is without it,
    and so is a trial without dropout, where both passes would be the same. Takes twice the time."""
    distillation_alpha: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much of what is minimized is the distance to what the study's `teachers` say (Hinton et al. 2015); the rest
    is the labels' loss. 0 learns from the labels alone, 1 from the teachers alone. The distance is the Kullback-Leibler
    divergence at `distillation_temperature`, times its square; of numbers the squared difference."""
    distillation_temperature: Annotated[float, Field(gt=0)] = 2.0
    """What the logits of teachers and student are divided by before they are compared: the higher, the more the
    improbable classes count. Not for numbers."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate and export an exponential moving average of the weights instead of the last ones; what is trained stays
    as it is. Over the first steps the decay rises to this, as (1 + steps) / (10 + steps). `null`: the last weights."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """End a trial after so many evaluations in a row that are no better, by the study's metric, than the best before
    them. Its score is then what every trial's is: that of its last evaluation, and its weights are those of that
    moment. The best evaluation's are not brought back, for the best of many looks at validation is the luckiest. The
    learning rate's schedule is that of the whole budget. `null`: every trial that is not pruned spends it."""
    augment_method: AugmentMethod = "none"
    """Changes the train split's texts anew in every epoch. `deletion` leaves words out, `swap` has words change places
    (EDA: Wei and Zou 2019), `neighbour` puts one of the five words there whose embeddings in the model are nearest
    (words of like use, opposites among them), `masked_model` one of the five that the model's own masked-language-model
    head finds likeliest, if it was saved with it. A text that would be empty stays as it is. `mixup` (Zhang et al.
    2018, Guo et al. 2019) mixes the embeddings of two texts, and what is learned of them. In `token_classification`
    only words tagged `O` are changed, and `swap` and `mixup` are not for it."""
    augment_probability: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of `augment_method`: how probable it is for each word, of `mixup` for each text. 0 is without it."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the train split that is learned from, drawn by the study's seed and stratified by label; a smaller
    one is contained in a larger one. Searched, it makes a study of what more data would bring: with `choices`, the
    sampler `random` (several trials a size) or `grid` (one), and no pruner. The winner is of the trials with all."""
    train_batch_size: Annotated[int, Field(ge=1)] = 32
    """Examples per optimizer step."""
    eval_batch_size: Annotated[int, Field(ge=1)] = 128
    """Examples per forward pass in evaluation; changes no result."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the train split; fractions are allowed."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Longer texts are truncated to this many tokens; how many were is said."""
    num_evaluations: Annotated[int, Field(ge=1)] = 10
    """How often validation is looked at, at equal shares of the budget. The pruner counts in these."""
    activation_checkpointing: bool = False
    """Compute the activations twice instead of keeping them: more time, less memory; changes no result."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the computation; weights and optimizer are float32. `auto`: bf16 where the device computes in it."""
