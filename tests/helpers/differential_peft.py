"""adapter_config.json with one or two keys changed, loaded here and by PEFT: logits, or refused.

A case changes keys of a file that PEFT wrote for a small random model. Its tensors are those that
PEFT makes for the changed config (`fitted`) or those of the unchanged one (`kept`).

    python -m tests.helpers.differential_peft --cases 5000 --seed 1
"""

import argparse
import copy
import dataclasses
import json
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from clear_ref.model import lora, peft_format
from clear_ref.model.families import family as family_of
from tests.helpers.differential import Case, Counts, compare
from tests.helpers.peft_files import CONFIG, WEIGHTS, randomise
from tests.helpers.transformers_models import hub_name, transformers_model

ATOL = 5e-5  # logits are below 8
FAMILIES = ("llava", "qwen2_vl", "llama", "mistral", "qwen2")
TIED = ("llava", "llama", "qwen2", "qwen2_vl")
OMITTED = object()
IMAGE = 5  # the id of the image token
# {family: target_modules of the unchanged file}
TARGETS = {
    "llava": ["q_proj", "fc1", "linear_1"],
    "qwen2_vl": ["q_proj", "qkv", "up_proj"],
    "llama": ["q_proj", "up_proj"],
    "mistral": ["q_proj", "down_proj"],
    "qwen2": ["q_proj", "k_proj"],
}
LAYER = {"llava": "model.language_model.layers", "qwen2_vl": "model.language_model.layers"}
# {key: values}; a value that PEFT does not take makes a case invalid
VALUES: dict[str, list[Any]] = {
    "r": [1, 2, 8, 17, 0, None, 2.0, "3"],
    "lora_alpha": [1, 7.5, 16, 0, -2, None],
    "use_rslora": [True, False, None],
    "rank_pattern": [
        {"q_proj": 2},
        {"0.self_attn.q_proj": 1, "q_proj": 4},
        {"q_proj": 4, "0.self_attn.q_proj": 1},
        {r".*layers\.1\..*": 2},
        {r"^model\.layers\.0\.self_attn\.q_proj": 5},
        {r"layers\.\d\.self_attn\.(q|k)_proj": 2, "up_proj": 3},
        {"proj": 2},
        {"q_proj|up_proj": 2},
        {"": 2},
        {"(": 2},
        {"q_proj": 0},
        None,
    ],
    "alpha_pattern": [
        {"q_proj": 2},
        {"0.self_attn.q_proj": 1.5, "q_proj": 14},
        {"q_proj": 14, "0.self_attn.q_proj": 1.5},
        {r".*layers\.1\..*": -3},
        {r"language_model.*\.q_proj": 9},
        {r"encoder\.layers\.0\.mlp\.fc1": 9, "linear_1": 30},
        {"q_proj|up_proj": 9},
        {"": 9},
        None,
    ],
    "target_modules": [
        ["q_proj"],
        ["q_proj", "v_proj", "nothing"],
        ["mlp.up_proj", "0.self_attn.o_proj"],
        ["fc2", "linear_2", "q_proj"],
        ["proj", "q_proj"],
        ["mlp.0", "q_proj"],
        ["LAYER.1.self_attn.k_proj"],
        ["LAYER.0.self_attn.k_proj", "v_proj"],
        ["lm_head", "q_proj"],
        # PEFT shortens a list of 20 names or more.
        [f"LAYER.{n}.self_attn.{part}_proj" for n in range(9) for part in "qkv"],
        [f"LAYER.0.self_attn.{part}_proj" for part in "qkvo"] + ["q_proj"] + ["none"] * 20,
        [f"LAYER.0.mlp.{part}_proj" for part in ("up", "down")] + [f"n{n}" for n in range(20)],
        ["embed_tokens"],
        ["norm"],
        [],
        None,
        "all-linear",
        "All-Linear",
        "q_proj",
        r".*\.q_proj",
        r".*\.(q_proj|fc1)$",
        r"(?!.*vision).*\.down_proj",
        r"LAYER\.0\..*proj",
        r".*visual.*\.(qkv|fc1)",
        ".*lm_head|.*q_proj",
        "(",
    ],
    "exclude_modules": [
        [],
        "",
        ["0.self_attn.q_proj"],
        ["q_proj"],
        r".*\.1\..*",
        r".*(vision|visual).*",
        "all-linear",
        ["nothing"],
    ],
    "layers_to_transform": [0, 1, [0], [1], [0, 1], [], [7], 7, True, [1.0], "0"],
    "layers_pattern": ["layers", ["layers"], "", [], ["blocks", "layers"], "blocks", "h", "l.*s"],
    "bias": ["all", "lora_only", "some", None],
    "fan_in_fan_out": [True, None],
    "init_lora_weights": [
        False,
        None,
        "gaussian",
        "orthogonal",
        "eva",
        "mica",
        "pissa",
        "pissa_niter_4",
        "olora",
        "OLoRA",
        "corda",
        "loftq",
        "lora_ga",
        "nothing",
        1,
    ],
    "modules_to_save": [[], ["lm_head"], ["norm"], ["q_proj"]],
    "trainable_token_indices": [[], [1, 2], {"embed_tokens": [1]}],
    "use_dora": [True, None],
    "lora_bias": [True, None],
    "use_qalora": [True, None],
    "qalora_group_size": [8, None],
    "layer_replication": [[], [[0, 2], [1, 2]]],
    "target_parameters": [[], ["q_proj.weight"]],
    "megatron_config": [{}, {"a": 1}],
    "megatron_core": ["megatron", None],
    "loftq_config": [None, {"loftq_bits": 4}],
    "eva_config": [{"rho": 2.0}, {}],
    "corda_config": [{}],
    "lora_ga_config": [{}],
    "velora_config": [{}],
    "monteclora_config": [{}],
    "alora_invocation_tokens": [[], [1, 2]],
    "use_bdlora": [{}, {"target_modules_bd_a": ["q_proj"], "nblocks": 2}, False],
    "arrow_config": [{}],
    "kasa_config": [{}],
    "ensure_weight_tying": [True, None],
    "task_type": ["CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "TOKEN_CLS", "x"],
    "peft_type": ["LORA", "lora", "LOHA", "IA3", None],
    "lora_dropout": [0.5, 1.0],
    "inference_mode": [True, False],
    "auto_mapping": [{"base_model_class": "x", "parent_library": "y"}],
    "base_model_name_or_path": ["somewhere/else", ""],
    "revision": ["main", None],
    "peft_version": [None, "0.10.0"],
    "runtime_config": [{}, {"ephemeral_gpu_offload": True}],
    "tomorrow": [None, False, 3],
    "enable_lora": [None],
    "merge_weights": [False],
    "lora_dtype": ["float32", None],
    "lorap_lr_ratio": [16.0],
    "lorap_emb_lr": [1e-6],
}


class Change(NamedTuple):
    """What changes: the model, {key: value or OMITTED}, and which tensors the file has.

    copies  base weights that the file holds beside the adapter: {name: added to its values}
    dtype   of the tensors in the file
    """

    model: str
    keys: dict[str, Any]
    fitted: bool
    copies: dict[str, float]
    dtype: torch.dtype


def written(keys: dict[str, Any], name: str) -> dict[str, Any]:
    """The changed keys with the names of this family's layers."""
    layer = LAYER.get(name.split()[0], "model.layers")
    return {
        key: json.loads(json.dumps(value).replace("LAYER", layer))
        for key, value in keys.items()
        if value is not OMITTED
    }


def cases(n: int, seed: int, names: tuple[str, ...] = ()) -> list[Case]:
    """n cases, the same for the same seed. names: of models; (): all."""
    draw = random.Random(seed)
    models = list(names) or [*FAMILIES, *(f"{family} tied" for family in TIED)]
    found = []
    for number in range(n):
        name = models[number % len(models)]
        keys = draw.sample(sorted(VALUES), draw.choice((1, 1, 2)))
        if draw.random() < 0.3:
            keys = draw.sample(["target_modules", "exclude_modules", "layers_to_transform"], 2)
        if "layers_pattern" in keys and len(keys) == 1:
            keys.append("layers_to_transform")
        values = {key: OMITTED if draw.random() < 0.1 else draw.choice(VALUES[key]) for key in keys}
        copies = {}
        if draw.random() < 0.1:
            copies[draw.choice(("embed_tokens", "lm_head"))] = draw.choice((0.0, 0.0, 0.5))
        dtype = draw.choice((torch.float32, torch.float32, torch.bfloat16, torch.float64))
        change = Change(name, values, draw.random() < 0.8, copies, dtype)
        shown = {key: "omitted" if value is OMITTED else value for key, value in values.items()}
        label = f"{name}, {'fitted' if change.fitted else 'kept'}: {shown} {copies or ''}"
        found.append(Case(label, (*keys, *copies), change))
    return found


class Base:
    """A small random model of transformers and the same model here.

    adapter  (adapter_config.json, tensors) that PEFT wrote for TARGETS
    """

    def __init__(self, name: str) -> None:
        import peft

        self.family, *tied = name.split()
        self.theirs = transformers_model(self.family, bool(tied)).eval()
        if self.family == "qwen2_vl":
            for number, part in enumerate(("image", "video", "vision_start", "vision_end")):
                setattr(self.theirs.config, f"{part}_token_id", IMAGE + number)
        with torch.no_grad():
            for parameter in self.theirs.parameters():
                parameter.mul_(0.25).add_(parameter.dim() == 1)
        config = json.loads(self.theirs.config.to_json_string(use_diff=False))
        kind = family_of(config, "config.json")
        self.ours = kind.model(kind.config(config, "config.json")).eval().requires_grad_(False)
        named = dict(self.theirs.named_parameters())
        self.ours.load_state_dict({hub_name(self.family, n): t for n, t in named.items()})
        wanted = peft.LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS[self.family])
        with tempfile.TemporaryDirectory() as folder:
            model = peft.get_peft_model(copy.deepcopy(self.theirs), wanted)
            randomise(p for n, p in model.named_parameters() if "lora_" in n)
            model.save_pretrained(folder)
            self.adapter = (
                json.loads((Path(folder) / CONFIG).read_text()),
                load_file(Path(folder) / WEIGHTS),
            )

    def inputs(self) -> dict[str, torch.Tensor]:
        """Token ids, and a picture if the family has them."""
        generator = torch.Generator().manual_seed(3)
        ids = torch.tensor([[9, 1, 2, 30, 7, 11]])
        pixels: dict[str, torch.Tensor] = {}
        if self.family == "llava":
            ids = torch.tensor([[9, *[IMAGE] * 4, 1, 2, 30]])
            pixels = {"pixel_values": torch.randn(1, 3, 28, 28, generator=generator)}
        if self.family == "qwen2_vl":
            ids = torch.tensor([[9, *[IMAGE] * 4, 1, 2, 30]])
            pixels = {
                "pixel_values": torch.randn(16, 3 * 2 * 14 * 14, generator=generator),
                "image_grid_thw": torch.tensor([[1, 4, 4]]),
            }
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}


class Readers:
    """The two readers; `theirs` writes the case's directory, `ours` reads it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bases: dict[str, Base] = {}

    def base(self, name: str) -> Base:
        """The model of that name, made once."""
        if name not in self.bases:
            self.bases[name] = Base(name)
        return self.bases[name]

    def theirs(self, change: Change) -> torch.Tensor:
        """PEFT's logits; raises what PEFT raises."""
        import peft

        base = self.base(change.model)
        config, tensors = base.adapter
        config = {k: v for k, v in config.items() if k not in change.keys}
        config |= written(change.keys, change.model)
        if change.fitted:
            wanted = peft.PeftConfig.from_peft_type(**copy.deepcopy(config))
            model = peft.get_peft_model(copy.deepcopy(base.theirs), wanted)
            randomise((p for n, p in model.named_parameters() if "lora_" in n), 0.1)
            model.save_pretrained(self.folder)
            tensors = load_file(self.folder / WEIGHTS)
        for part, shift in change.copies.items():
            found = next(m for n, m in base.theirs.named_modules() if n.endswith(part))
            name = next(n for n, m in base.theirs.named_modules() if n.endswith(part))
            tensors = tensors | {f"base_model.model.{name}.weight": found.weight.detach() + shift}
        tensors = {n: t.to(change.dtype) if "lora_" in n else t for n, t in tensors.items()}
        save_file(tensors, self.folder / WEIGHTS)
        (self.folder / CONFIG).write_text(json.dumps(config))
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base.theirs), self.folder).eval()
        kwargs = base.inputs()
        if base.family == "qwen2_vl":
            kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == IMAGE).int()
        with torch.no_grad():
            return loaded(**kwargs).logits

    def ours(self, change: Change) -> torch.Tensor:
        """This package's logits of the directory that `theirs` wrote."""
        base = self.base(change.model)
        try:
            peft_format.load(base.ours, base.family, self.folder)
            batch = base.inputs()
            hidden = base.ours.hidden(
                batch["input_ids"],
                batch["attention_mask"],
                batch.get("pixel_values"),
                batch.get("image_grid_thw"),
            )
            return base.ours.head(hidden)
        finally:
            for layer in lora.linear_layers(base.ours).values():
                layer.adapter = None


def difference(found: torch.Tensor, expected: torch.Tensor) -> str:
    """How far two results are apart; "" if it is rounding."""
    if found.shape != expected.shape:
        return f"shapes {list(found.shape)} and {list(expected.shape)}"
    largest = float((found - expected).abs().max())
    bound = ATOL * max(1.0, float(expected.abs().max()) / 8)
    return "" if largest < bound else f"logits differ by {largest:.2g}"


def run(chosen: list[Case]) -> Counts:
    """Both readers on these cases."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        readers = Readers(Path(folder))
        return compare(chosen, readers.ours, readers.theirs, difference)


def fields() -> set[str]:
    """The keys that PEFT's class takes from a file."""
    import peft

    return {field.name for field in dataclasses.fields(peft.LoraConfig)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--refused", action="store_true", help="print the refused cases too")
    asked = parser.parse_args()
    all_cases = cases(asked.cases, asked.seed)
    for family in FAMILIES:
        counts = run([case for case in all_cases if case.change.model.split()[0] == family])
        print(counts.row(f"adapter_config.json, {family}"))
        for line in counts.different + (counts.refusals if asked.refused else []):
            print("   ", line)
