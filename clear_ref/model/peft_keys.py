"""The table of adapter_config.json: what happens to each key of PEFT's LoraConfig."""

from clear_ref.common.file_keys import KeyTable, NoEffect, Only, Used

ORIGIN = NoEffect("where the adapter comes from; PEFT reads it for nothing it computes")
TRAINING = NoEffect("it acts in training only")
START = NoEffect("it decides initial values only, and the file's replace them")
SWIFT = NoEffect("ms-swift writes it for training; PEFT drops it")
RETRAIN = "PEFT computes something else than W x + s B A x; train the adapter without it"

ADAPTER_CONFIG = KeyTable(
    file="adapter_config.json",
    part="LoRA, every family",
    reference="peft 0.21.2, LoraConfig and PeftConfig",
    keys={
        "peft_type": Only(("LORA",), "no other kind of adapter is computed here"),
        "task_type": Only(
            (None, "CAUSAL_LM", "FEATURE_EXTRACTION"),
            "PEFT adds a classifier or calls the model in another way",
        ),
        "r": Used("rank; 8 if omitted"),
        "rank_pattern": Used("ranks by layer: the first expression that matches a name's end"),
        "lora_alpha": Used("scale s = alpha / r; 8 if omitted", "NaN and infinity"),
        "alpha_pattern": Used("alphas by layer, as rank_pattern"),
        "use_rslora": Used("scale s = alpha / sqrt(r)"),
        "target_modules": Used(
            "the layers: one expression for whole names, a list of names or their ends, "
            "all-linear; null in a language model: q_proj and v_proj",
            "a choice of other layers than the file holds; layers that are not linear; the "
            "head where it is the embedding",
        ),
        "exclude_modules": Used("layers that are not adapted, in the form of target_modules"),
        "layers_to_transform": Used(
            "numbers of the layers that are adapted",
            "true and false; a whole name in target_modules that it leaves out",
        ),
        "layers_pattern": Used("the name before a layer's number, one or several expressions"),
        "bias": Used(
            "whether the file holds biases of the model",
            "with all and lora_only: a file whose biases differ from the model's",
        ),
        "init_lora_weights": Only(
            (True, False, None, "gaussian", "orthogonal", "eva", "mica"),
            "PEFT changes the base weights when it loads such an adapter; convert it first "
            "(save_pretrained with path_initial_model_for_weight_conversion)",
        ),
        "modules_to_save": Only((None, []), "the file replaces whole layers; merge it with PEFT"),
        "trainable_token_indices": Only((None,), "the file replaces rows of the embedding"),
        "use_dora": Only((False, None), RETRAIN),
        "lora_bias": Only((False, None), RETRAIN),
        "use_qalora": Only((False, None), RETRAIN),
        "velora_config": Only((None,), RETRAIN),
        "monteclora_config": Only((None,), RETRAIN),
        "alora_invocation_tokens": Only((None, []), RETRAIN),
        "use_bdlora": Only((None, False), RETRAIN),
        "arrow_config": Only((None,), RETRAIN),
        "kasa_config": Only((None,), RETRAIN),
        "layer_replication": Only((None, []), "PEFT builds a model with more layers"),
        "target_parameters": Only((None, []), "PEFT adapts tensors that are no linear layers"),
        "megatron_config": Only((None, {}), "it needs another library"),
        "ensure_weight_tying": NoEffect(
            "it acts on an adapter of the embedding or of a tied head, which is refused"
        ),
        "fan_in_fan_out": NoEffect("PEFT sets it to false for linear layers"),
        "lora_dropout": TRAINING,
        "inference_mode": TRAINING,
        "loftq_config": START,
        "eva_config": START,
        "corda_config": START,
        "lora_ga_config": START,
        "megatron_core": NoEffect("it names the library of megatron_config"),
        "qalora_group_size": NoEffect("it acts with use_qalora only"),
        "runtime_config": NoEffect("PEFT ignores it in a file"),
        "auto_mapping": ORIGIN,
        "base_model_name_or_path": ORIGIN,
        "peft_version": ORIGIN,
        "revision": ORIGIN,
        "lora_dtype": SWIFT,
        "lorap_lr_ratio": SWIFT,
        "lorap_emb_lr": SWIFT,
    },
    others="PEFT drops it with a warning; one whose value is not null, false or empty is refused "
    "all the same, because another version may compute something with it",
)

TABLES = (ADAPTER_CONFIG,)
