"""Two-layer models of every architecture whose dropout is known, with random weights."""

from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

N_LAYERS = 2
SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SPECIAL_IDS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}


def tiny_config(model_type: str) -> PretrainedConfig:
    config: PretrainedConfig
    if model_type == "distilbert":
        config = AutoConfig.for_model(
            model_type, vocab_size=32, dim=32, n_layers=N_LAYERS, n_heads=2, hidden_dim=64, max_position_embeddings=64
        )
    else:
        config = AutoConfig.for_model(model_type, **SIZES, **(SPECIAL_IDS if model_type == "modernbert" else {}))
    return config


def tiny_model(config: PretrainedConfig, attn_implementation: str = "eager") -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, attn_implementation=attn_implementation
    )
    return model
