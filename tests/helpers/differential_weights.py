"""Weight files in one or two other layouts, loaded here and by transformers: equal, or refused.

Equal: the same tensors bit for bit.

    python -m tests.helpers.differential_weights --cases 2000 --seed 1
"""

import argparse
import json
import random
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from clear_ref.model.names import GENERATIONS, name_in_generation
from clear_ref.model.weights import load_weights
from tests.helpers.differential import Case, Counts, compare
from tests.helpers.transformers_models import hub_name, transformers_model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MODELS = (
    "llava",
    "llava tied",
    "qwen2_vl",
    "qwen2_vl tied",
    "llama",
    "llama tied",
    "mistral",
    "qwen2 tied",
)
EMBEDDING = {
    "llava": "language_model.model.embed_tokens.weight",
}
# {what changes: (value, name that a refusal has in it)}
CHANGES: dict[str, list[tuple[Any, str]]] = {
    "shards": [(True, "index")],
    "both": [("equal", "index"), ("other", "index")],
    "generation": [(number, "names") for number in GENERATIONS],
    "dtype": [(name, name) for name in ("float64", "bfloat16", "float16")],
    "one_dtype": [
        (name, code)
        for name, code in (
            ("float64", ""),
            ("bfloat16", ""),
            ("float16", ""),
            ("float8_e4m3fn", "F8_E4M3"),
            ("float8_e5m2", "F8_E5M2"),
            ("int64", "I64"),
            ("uint8", "U8"),
        )
    ],
    "double": [("equal", "norm"), ("other", "norm")],
    "extra": [
        (name, name.rsplit(".", 1)[-1])
        for name in (
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "language_model.model.layers.1.self_attn.rotary_emb.inv_freq",
            "vision_tower.vision_model.embeddings.position_ids",
            "model.rotary_emb.inv_freq",
            "model.layers.0.self_attn.q_proj.bias_extra",
            "model.layers.9.mlp.up_proj.weight",
            "score.weight",
        )
    ],
    "missing": [(name, name) for name in ("lm_head", "post_layernorm", "embed_tokens", "o_proj")],
    "head": [("equal", "lm_head"), ("other", "lm_head")],
    "beside": [
        (name, name)
        for name in (
            "model.fp16.safetensors",
            "consolidated.safetensors",
            "model-00001-of-00009.safetensors",
            "pytorch_model.bin",
            "sub/model.safetensors",
            "tf_model.h5",
        )
    ],
}


class Change(NamedTuple):
    """The model and what changes in its files: {kind: value}."""

    model: str
    what: dict[str, Any]


def cases(n: int, seed: int, names: tuple[str, ...] = ()) -> list[Case]:
    """n cases, the same for the same seed. names: of models; (): all."""
    draw = random.Random(seed)
    models = names or MODELS
    found = []
    for number in range(n):
        kinds = draw.sample(sorted(CHANGES), draw.choice((1, 2, 2)))
        drawn = {kind: draw.choice(CHANGES[kind]) for kind in kinds}
        change = Change(models[number % len(models)], {k: value for k, (value, _) in drawn.items()})
        keys = tuple(name or kind for kind, (_, name) in drawn.items())
        found.append(Case(f"{change.model}: {change.what}", keys, change))
    return found


class Readers:
    """The two readers; `theirs` writes the case's directory, `ours` reads it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, Any] = {}

    def model(self, name: str) -> tuple[Any, dict[str, torch.Tensor]]:
        """transformers' model of that name and its tensors by our names, made once."""
        if name not in self.models:
            family, *tied = name.split()
            model = transformers_model(family, bool(tied))
            tensors = {hub_name(family, n): t.detach() for n, t in model.named_parameters()}
            self.models[name] = (model, tensors)
        return self.models[name]

    def write(self, change: Change) -> None:
        """The directory of a case."""
        model, tensors = self.model(change.model)
        family, *tied = change.model.split()
        shutil.rmtree(self.folder)
        model.config.save_pretrained(self.folder)
        what = change.what
        stored = dict(tensors)
        embedding = EMBEDDING.get(family, "model.embed_tokens.weight")
        head = embedding.replace("model.embed_tokens", "lm_head")
        if "head" in what and tied:
            stored[head] = stored[embedding] + (what["head"] == "other")
        if "missing" in what:
            stored = {n: t for n, t in stored.items() if what["missing"] not in n}
        if "dtype" in what:
            stored = {n: t.to(getattr(torch, what["dtype"])) for n, t in stored.items()}
        if "one_dtype" in what:
            name = next(name for name in stored if name.endswith("input_layernorm.weight"))
            stored[name] = stored[name].to(getattr(torch, what["one_dtype"]))
        generation = what.get("generation", 0)
        stored = {name_in_generation(n, family, generation): t for n, t in stored.items()}
        if "extra" in what:
            stored[what["extra"]] = torch.arange(4.0)
        self.write_files({n: t.contiguous() for n, t in stored.items()}, what)

    def write_files(self, stored: dict[str, torch.Tensor], what: dict[str, Any]) -> None:
        """One file, or two shards and an index, or both; and files beside them."""
        metadata = {"format": "pt"}
        if not {"shards", "both", "double"} & set(what):
            save_file(stored, self.folder / SINGLE, metadata=metadata)
        else:
            names = sorted(stored)
            half = len(names) // 2
            shards = [{n: stored[n] for n in names[:half]}, {n: stored[n] for n in names[half:]}]
            if "both" in what:
                save_file(stored, self.folder / SINGLE, metadata=metadata)
                if what["both"] == "other":
                    shards = [{n: t * 2 for n, t in shard.items()} for shard in shards]
            place = {}
            for number, shard in enumerate(shards):
                file = f"model-0000{number + 1}-of-00002.safetensors"
                place |= dict.fromkeys(shard, file)
                if "double" in what and number == 0:
                    name = next(n for n in names[half:] if "norm" in n)
                    shard[name] = stored[name] + (what["double"] == "other")
                save_file(shard, self.folder / file, metadata=metadata)
            index = {"metadata": {"total_size": 0}, "weight_map": place}
            (self.folder / INDEX).write_text(json.dumps(index))
        if "beside" in what:
            path = self.folder / what["beside"]
            path.parent.mkdir(exist_ok=True)
            save_file({n: t * 3 for n, t in stored.items()}, path, metadata=metadata)

    def theirs(self, change: Change) -> dict[str, torch.Tensor]:
        """transformers' tensors by our names; ValueError if it had to invent one that acts."""
        self.write(change)
        model, _ = self.model(change.model)
        loaded, info = type(model).from_pretrained(
            self.folder, dtype=torch.float32, output_loading_info=True
        )
        invented = [name for name in info["missing_keys"] if "post_layernorm" not in name]
        if invented or info["mismatched_keys"]:
            raise ValueError(f"random values for {invented}")
        family = change.model.split()[0]
        return {hub_name(family, n): t.detach() for n, t in loaded.named_parameters()}

    def ours(self, change: Change) -> dict[str, torch.Tensor]:
        """This package's tensors of the directory that `theirs` wrote."""
        _, tensors = self.model(change.model)
        family, *tied = change.model.split()
        target = {name: torch.full_like(tensor, 7.0) for name, tensor in tensors.items()}
        embedding = EMBEDDING.get(family, "model.embed_tokens.weight")
        heads = {embedding.replace("model.embed_tokens", "lm_head"): embedding} if tied else {}
        load_weights(target, self.folder, family, heads)
        return target


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> str:
    """The first tensor that differs; "" if none does."""
    if set(found) != set(expected):
        return f"names {sorted(set(found) ^ set(expected))[:3]}"
    for name, tensor in found.items():
        if not torch.equal(tensor, expected[name]):
            return f"{name} differs"
    return ""


def run(chosen: list[Case]) -> Counts:
    """Both readers on these cases."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (Path(folder) / "model").mkdir()
        readers = Readers(Path(folder) / "model")
        return compare(chosen, readers.ours, readers.theirs, difference)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=700)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--refused", action="store_true", help="print the refused cases too")
    asked = parser.parse_args()
    all_cases = cases(asked.cases, asked.seed)
    for model in MODELS:
        counts = run([case for case in all_cases if case.change.model == model])
        print(counts.row(f"weight files, {model}"))
        for line in counts.different + (counts.refusals if asked.refused else []):
            print("   ", line)
