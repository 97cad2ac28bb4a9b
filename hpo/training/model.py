"""The pretrained model and its tokenizer: read once a process, checked, fingerprinted, and copied for every trial."""

import copy
import functools
import hashlib
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers.processors import Sequence, TemplateProcessing
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from hpo.errors import DataError
from hpo.references import COMMIT, local_path
from hpo.spec import ModelSpec
from hpo.tasks.base import Task
from hpo.training.device import return_freed_memory
from hpo.training.dropout import replace_dropouts
from hpo.training.encoder import replace_layers
from hpo.training.layout import keep_layers

_OF_BERT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
# These have none but in the attention, and in the token classification's head.
_OF_LLAMA = ("attention_dropout", "classifier_dropout")
# Every place where an architecture has dropout, by the names its configuration gives them (transformers 5). The model
# also asks for some that its configuration does not declare: `cls_dropout`, and the decoders' `classifier_dropout`.
DROPOUT_FIELDS: dict[str, tuple[str, ...]] = {
    "albert": ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"),
    "bert": _OF_BERT,
    "camembert": _OF_BERT,
    "deberta-v2": ("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "cls_dropout"),
    "distilbert": ("dropout", "attention_dropout", "seq_classif_dropout"),
    "electra": _OF_BERT,
    "gpt2": ("embd_pdrop", "resid_pdrop", "attn_pdrop", "classifier_dropout"),
    "llama": _OF_LLAMA,
    "mistral": _OF_LLAMA,
    "modernbert": ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"),
    "mpnet": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "qwen2": _OF_LLAMA,
    "qwen3": _OF_LLAMA,
    "roberta": _OF_BERT,
    "xlm-roberta": _OF_BERT,
}
# What tells one model from another; a README or a license does not.
FINGERPRINTED = (".json", ".safetensors", ".bin", ".txt", ".model")
# Models of the Hub that this process has loaded. From then on their folder serves: no trial asks the Hub again, loses
# half a minute when it is away, or meets a newer commit than the trial before.
_snapshots: dict[ModelSpec, Path] = {}
# A folder's files that tell one model from another, each with its time of change and size.
Stamps = tuple[tuple[Path, int, int], ...]


@dataclass(frozen=True)
class Pretrained:
    """A model with a new head, its tokenizer, and what identifies the weights it started from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    new_weights: tuple[str, ...]
    num_parameters: int
    """Of the model, without what a method adds to train it."""
    num_trained_parameters: int
    embeddings: torch.Tensor
    """[vocabulary, hidden], the word embeddings as they were read: not to be changed."""
    capturable: bool
    """Its forward pass asks nothing of the device, so that a CUDA graph can hold it."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model as it was read, which nothing trains: each trial starts from a copy."""

    model: PreTrainedModel
    """On the CPU."""
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    new_weights: tuple[str, ...]
    """The parameters that pretraining left no values for."""

    def copy(self, dropout: float | None, device: str, seed: int) -> PreTrainedModel:
        """A new model with these weights, and with new ones drawn by the seed as the architecture draws them."""
        config = copy.deepcopy(self.model.config)
        if dropout is not None:
            set_dropout(config, dropout)
        with torch.device("meta"):  # its tensors are all replaced: none needs memory, or random numbers
            made: PreTrainedModel = type(self.model)(config)
        copies: dict[int, torch.Tensor] = {}  # one of a tensor that stands in two places
        parameters = self.model.named_parameters(remove_duplicate=False)
        for name, tensor in itertools.chain(parameters, self.model.named_buffers(remove_duplicate=False)):
            if id(tensor) not in copies:
                value = tensor.detach().to(device, copy=True)
                copies[id(tensor)] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value
            module, _, attribute = name.rpartition(".")
            setattr(made.get_submodule(module), attribute, copies[id(tensor)])
        for name, tensor in itertools.chain(made.named_parameters(), made.named_buffers()):
            # The mark by which transformers' own initialization passes over what was read.
            tensor._is_hf_initialized = name not in self.new_weights  # type: ignore[attr-defined]
        torch.manual_seed(seed)  # here, or the trial that read the checkpoint would draw others than the next one
        made.initialize_weights()
        made.eval()
        return made


def load_pretrained(
    spec: ModelSpec,
    task: Task,
    labels: tuple[str, ...],
    *,
    dropout: float | None,
    max_length: int,
    device: str,
    seed: int,
    prepare: Callable[[PreTrainedModel], None] = lambda model: None,
) -> Pretrained:
    """A model for one trial: weights in float32, a new head for `labels`, fast layers.

    Args:
        task: puts the head on.
        seed: of the head's weights.
        prepare: says what of it is trained, by its method.

    Raises:
        DataError: no such model, no head of this kind for its architecture, no known dropout though one is asked for,
            fewer layers than asked for, positions for fewer than `max_length` tokens, or what `prepare` raises.
    """
    path = local_path(spec.name)
    stamps = folder_stamps(path) if path else ()  # what lies under a commit of the Hub does not change
    checkpoint = read_checkpoint(spec, task.auto_model, task.problem_type, task.words, labels, device, stamps)
    positions = min(num_positions(checkpoint.model, default=max_length), checkpoint.tokenizer.model_max_length)
    if max_length > positions:
        raise DataError(
            f"training.max_length must be at most the model's {positions} positions, but got {max_length}. Lower it."
        )
    model = checkpoint.copy(dropout, device, seed)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    prepare(model)  # before the fast layers look what they are made of
    for name in checkpoint.new_weights:
        model.get_parameter(name).requires_grad_(True)
    replace_dropouts(model)
    capturable = replace_layers(model, task.first_token_only)
    return Pretrained(
        model=model,
        tokenizer=checkpoint.tokenizer,
        fingerprint=checkpoint.fingerprint,
        new_weights=checkpoint.new_weights,
        num_parameters=num_parameters,
        num_trained_parameters=sum(each.numel() for each in model.parameters() if each.requires_grad),
        embeddings=checkpoint.model.get_input_embeddings().get_parameter("weight").detach(),
        capturable=capturable,
    )


@functools.lru_cache(maxsize=4)
def read_checkpoint(
    spec: ModelSpec,
    head: str,
    problem_type: str | None,
    words: bool,
    labels: tuple[str, ...],
    device: str,
    stamps: Stamps,
) -> Checkpoint:
    """Reads weights, configuration and tokenizer, and checks them; kept in the process for the trials to come.

    Args:
        head: the class of transformers that puts it on.
        problem_type: transformers' own.
        words: the tokenizer gets words, not texts.
        stamps: of a folder's files, for an edited one is another model.

    Raises:
        DataError: as `load_pretrained`, but for `dropout` and `max_length`.
    """
    path = local_path(spec.name) or _snapshots.get(spec)
    source, auto_model = str(path or spec.name), getattr(transformers, head)
    if path and (path / "adapter_config.json").exists():  # beside `peft` transformers would load what that file names
        raise DataError(
            f"`{spec.name}` must be a whole model, but got an adapter. Merge it into its model, and save that."
        )
    try:
        config = AutoConfig.from_pretrained(source, revision=spec.revision, trust_remote_code=False)
    except Exception as error:  # a file that holds something else raises anything: TypeError, AttributeError, ...
        raise _cannot_load(spec, error) from error
    if type(config) not in auto_model._model_mapping:
        raise DataError(
            f"model.name must be an architecture with a head for this task, but `{spec.name}` is "
            f"`{config.model_type}`, which {auto_model.__name__} does not know. Choose another model."
        )
    architecture = auto_model._model_mapping[type(config)]
    try:
        # Byte-level tokenizers take words only so, and no other minds it.
        prefixed = {"add_prefix_space": True} if words else {}
        tokenizer = AutoTokenizer.from_pretrained(source, revision=spec.revision, trust_remote_code=False, **prefixed)
        vocabulary = set(tokenizer.get_vocab())
        tokenizer.model_max_length = int(tokenizer.model_max_length)  # of a JSON file, and anything there
    except Exception as error:
        raise _cannot_load(spec, error) from error
    # Not to be saved with what was trained: code that another loader might run, and templates, which may name files.
    vars(config).pop("auto_map", None)
    tokenizer.init_kwargs.pop("auto_map", None)
    tokenizer.chat_template = None
    if vocabulary <= set(tokenizer.all_special_tokens):
        # Without its files transformers makes one that knows no word, and every text becomes the same.
        raise DataError(f"`{spec.name}` must have a tokenizer, but got none. Save it there, or choose another model.")
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # GPT-2 and Llama were pretrained on texts without padding
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise DataError(
            f"`{spec.name}` must have a fast tokenizer with a padding token, but got {type(tokenizer).__name__} "
            f"with pad_token={tokenizer.pad_token}. Choose another model."
        )
    if config.pad_token_id is None or _is_decoder(config):
        # A decoder's head reads the last token that is not this one. Where the padding is also the end of a text, it is
        # passed over there as well, alone and in a batch alike: each text has one row that is read, padded or not.
        config.pad_token_id = tokenizer.pad_token_id
    separate_pairs(tokenizer)
    tokenizer.padding_side = "right"  # as our batches have it: absolute positions begin at the first token
    config.use_cache = False  # a decoder would keep keys and values for tokens that nobody generates
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = problem_type  # a checkpoint may bring another, which pipelines follow
    try:
        model, info = auto_model.from_pretrained(
            source,
            revision=spec.revision,
            config=config,
            trust_remote_code=False,  # left out, transformers would ask on the terminal, and run the code on a `y`
            dtype=torch.float32,  # the default, "auto", would train a half-precision checkpoint in half precision
            # Where our own layers do not take their place, eager attention's backward pass is twice as fast as sdpa's
            # on a CPU, and sdpa wins on a GPU.
            attn_implementation="sdpa" if device == "cuda" and architecture._supports_sdpa else "eager",
            ignore_mismatched_sizes=True,  # a head for other labels is replaced
            output_loading_info=True,
        )
    except Exception as error:
        raise DataError(
            f"`{spec.name}` must have weights that can be read into it, but got: {_first_line(error)}. "
            "Save or download them again, or choose another model."
        ) from error
    new = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    _require_pretrained(spec, architecture.base_model_prefix, new)
    if spec.num_hidden_layers is not None:
        keep_layers(model, spec.num_hidden_layers, spec.name)
        new = sorted(set(new) & {name for name, _ in model.named_parameters(remove_duplicate=False)})
    if local_path(spec.name):
        fingerprint = folder_fingerprint(Path(source))
    else:
        snapshot = _snapshots[spec] = path or hub_snapshot(spec)
        fingerprint = f"{COMMIT}{snapshot.name}"
    return_freed_memory()  # what reading it took, and the data before it
    return Checkpoint(model, tokenizer, fingerprint, tuple(new))


def read_masked_language_model(spec: ModelSpec) -> PreTrainedModel:
    """A checkpoint with the head that predicts masked words, on the CPU. A model of the Hub was loaded before.

    Raises:
        DataError: its architecture has no such head, or it was saved without.
    """
    source = str(local_path(spec.name) or _snapshots.get(spec) or spec.name)
    way_out = "Choose augment_method: neighbour, or a model that was saved with the head."
    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            source, revision=spec.revision, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except ValueError as error:
        raise DataError(
            f"augment_method masked_model needs a model that predicts masked words, but `{spec.name}` is of an "
            f"architecture that does not. {way_out}"
        ) from error
    prefix = f"{model.base_model_prefix}."
    if absent := sorted(key for key in info["missing_keys"] if not key.startswith(prefix)):
        raise DataError(
            "augment_method masked_model needs the head that predicted masked words in pretraining, but "
            f"`{spec.name}` was saved without it: {absent[0]} is missing. {way_out}"
        )
    found: PreTrainedModel = model.eval()
    return found


def separate_pairs(tokenizer: PreTrainedTokenizerBase) -> None:
    """Lets the end of a text stand between two, where a tokenizer puts nothing there, as those of GPT-2 and Qwen: one
    could not tell where the second begins. It is saved with the tokenizer, so pipelines put it there too."""
    read = tokenizer("a", "b").sequence_ids(0)
    last_of_first = len(read) - 1 - read[::-1].index(0) if 0 in read else -1
    end = tokenizer.sep_token or tokenizer.eos_token
    if 1 not in read or read.index(1) > last_of_first + 1 or end is None:
        return
    between = TemplateProcessing(
        single="$A", pair=f"$A {end} $B", special_tokens=[(end, tokenizer.convert_tokens_to_ids(end))]
    )
    backend = tokenizer.backend_tokenizer
    backend.post_processor = Sequence([backend.post_processor, between]) if backend.post_processor else between


def _require_pretrained(spec: ModelSpec, prefix: str, new: list[str]) -> None:
    """Only the head, and a pooler that pretraining had no use for, may start from random weights."""
    body = [key for key in new if key.startswith(f"{prefix}.") and "pooler" not in key]
    if body:
        raise DataError(
            f"`{spec.name}` must hold the weights that its config.json describes, but got none of that shape for "
            f"{len(body):,} of them, such as {body[0]}. Use the configuration that was saved with the weights."
        )


def _is_decoder(config: PretrainedConfig) -> bool:
    """Whether an architecture predicts the next token and no masked one, as GPT-2 and its kin."""
    mapping, masked = AutoModelForCausalLM._model_mapping, AutoModelForMaskedLM._model_mapping
    return type(config) in mapping and type(config) not in masked


def num_positions(model: PreTrainedModel, default: int) -> int:
    """The longest text in tokens that a model has positions for; `default` where nothing bounds it."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            # RoBERTa and its kin count positions from behind the padding token's id.
            return int(module.num_embeddings - module.padding_idx - 1)
    positions = int(getattr(model.config, "max_position_embeddings", default))
    return positions if positions > 0 else default  # XLNet's is -1


def set_dropout(config: PretrainedConfig, probability: float) -> None:
    """Sets every dropout probability of an architecture in its configuration, before the model is built.

    Raises:
        DataError: an architecture whose places of dropout are not known; never a dropout that does nothing.
    """
    fields = DROPOUT_FIELDS.get(config.model_type)
    if fields is None:
        raise DataError(
            f"dropout can be set for {', '.join(sorted(DROPOUT_FIELDS))}, but got a `{config.model_type}` model. "
            "Remove `dropout` from `training` and `search_space`."
        )
    for field in fields:
        setattr(config, field, probability)


def takes_token_types(model: PreTrainedModel) -> bool:
    """Whether it tells the texts of a pair apart by ids; one without, such as DistilBERT, may have a tokenizer with."""
    return "token_type_ids" in inspect.signature(model.forward).parameters


def hub_snapshot(spec: ModelSpec) -> Path:
    """The folder in the Hub's cache that holds the loaded files; its name is their commit."""
    config = cached_file(spec.name, "config.json", revision=spec.revision)
    assert config is not None
    return Path(config).parent


def folder_fingerprint(folder: Path) -> str:
    """sha256 over the names and contents of a model folder's files (weights, configuration, vocabulary)."""
    digest = hashlib.sha256()
    for path, *_ in folder_stamps(folder):
        with path.open("rb") as file:
            digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def folder_stamps(folder: Path) -> Stamps:
    """By which an edited folder is told to be another model."""
    if not folder.is_dir():
        return ()
    paths = sorted(path for path in folder.iterdir() if path.suffix in FINGERPRINTED)
    return tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)


def _cannot_load(spec: ModelSpec, error: Exception) -> DataError:
    return DataError(
        f"model.name must be a model that transformers can load, but got `{spec.name}`: {_first_line(error)}. "
        "Check the Hub id or the folder."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
