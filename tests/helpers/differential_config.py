"""Changes of config.json, read by this package and by transformers: logits equal, or refused.

python -m tests.helpers.differential_config --cases 5000 --seed 1 prints the counts of each file.
"""

import argparse
import dataclasses
import hashlib
import json
import random
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import KeyTable, NoEffect
from clear_ref.data.batches import Batch
from clear_ref.data.torch_draws import torch_generator
from clear_ref.model import config_keys, qwen2_5_keys
from clear_ref.model.families import family
from clear_ref.model.generate import check_length, prefill
from clear_ref.model.language import next_positions
from clear_ref.model.vlm import VLM
from clear_ref.model.weights import load_weights
from tests.helpers.config_values import ACTIVATIONS, DELETE, KEPT, SPARSE, VALUES, changed
from tests.helpers.differential import Case, compare

T = 45  # tokens of the longer row
PADDED = 7  # padding of the other one
CONTINUED = [9, 4, 17, 23]  # tokens after the prompt, read one by one from the cache
BOUND = 5e-5
TABLES = (*config_keys.TABLES, *qwen2_5_keys.TABLES)
VISION = {
    "llava": config_keys.CLIP,
    "qwen2_vl": qwen2_5_keys.QWEN2_VL_VISION,
    "qwen2_5_vl": qwen2_5_keys.QWEN2_5_VL_VISION,
}
Change = tuple[str, str, Any]  # (part of config.json, key, value)


class World:
    """A folder for the weights and configs of all cases, and the reference library."""

    def __init__(self, folder: Path) -> None:
        import transformers

        transformers.logging.set_verbosity(transformers.logging.CRITICAL)
        transformers.logging.disable_progress_bar()
        self.library = transformers
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bases = dict(SPARSE)
        for name, config in SPARSE.items():
            if "flat" not in name:
                full = json.loads(self.config_of(config).to_json_string(use_diff=False))
                self.bases[f"{name}, written by transformers"] = full

    def config_of(self, config: dict[str, Any]) -> Any:
        """The reference's config of a config.json."""
        (self.folder / "config.json").write_text(json.dumps(config))
        return self.library.AutoConfig.from_pretrained(self.folder)

    def model_of(self, config: dict[str, Any], head: str) -> Any:
        """The reference's model of a config.json, with weights that depend on their names.

        The weights of the folder are written again if they do not fit.
        head  in a tied model's file: absent, equal or different
        """
        read = self.config_of(config)
        kind = "ImageTextToText" if hasattr(read, "vision_config") else "CausalLM"
        loader = getattr(self.library, f"AutoModelFor{kind}")
        head = head if read.tie_word_embeddings else "different"
        usual = self.folder / f"weights-{read.model_type}-{head}"
        if usual.exists():
            with suppress(Exception):
                return self._loaded(loader, usual)
        shapes = {name: each.shape for name, each in loader.from_config(read).state_dict().items()}
        stored = self._written(shapes, head)
        model = self._loaded(loader, stored)
        if not usual.exists():
            usual.hardlink_to(stored)
        return model

    def _loaded(self, loader: Any, stored: Path) -> Any:
        """The folder's model with a file of weights; ValueError unless they fit."""
        link = self.folder / "model.safetensors"
        link.unlink(missing_ok=True)
        link.hardlink_to(stored)
        model, info = loader.from_pretrained(
            self.folder, dtype=torch.float32, output_loading_info=True
        )
        problems = {key: value for key, value in info.items() if value}
        if problems:
            raise ValueError(f"the reference does not load these weights: {problems}")
        return model.eval()

    def _written(self, shapes: dict[str, torch.Size], head: str) -> Path:
        """A file of weights with these shapes; written once."""
        key = json.dumps([head, sorted((name, list(shape)) for name, shape in shapes.items())])
        stored = self.folder / f"weights-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
        if not stored.exists():
            values = {name: weight(name, shape) for name, shape in shapes.items()}
            embedding = next(values[name] for name in values if "embed_tokens" in name)
            if head == "absent":
                del values["lm_head.weight"]
            if head == "equal":
                values["lm_head.weight"] = embedding.clone()
            save_file(values, stored, metadata={"format": "pt"})
        return stored

    def theirs(self, change: tuple[dict[str, Any], str]) -> list[torch.Tensor]:
        """Logits of transformers: of the prompts' real tokens, and of each continued token."""
        config, head = change
        model = self.model_of(config, head)
        inputs = inputs_of(model.config)
        self.inputs = inputs
        mask = inputs["attention_mask"]
        with torch.no_grad():
            out = model(**inputs, use_cache=True)
            logits = [out.logits[mask.bool()]]
            for token in CONTINUED:
                mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
                positions = None
                if "mm_token_type_ids" in inputs:
                    # As in its generate(): the number of real tokens before, moved by the pictures.
                    last = mask.sum(1, keepdim=True) - 1 + model.model.rope_deltas
                    positions = last.expand(3, -1, -1)
                out = model(
                    input_ids=torch.full((2, 1), token),
                    position_ids=positions,
                    attention_mask=mask,
                    past_key_values=out.past_key_values,
                    use_cache=True,
                )
                logits.append(out.logits[:, -1])
        return logits

    def ours(self, change: tuple[dict[str, Any], str]) -> list[torch.Tensor]:
        """The same logits of this package; without the continued ones where those are refused."""
        config, _ = change
        where = self.folder / "config.json"
        kind = family(config, where)
        read = kind.config(config, where)
        model = kind.model(read).float().eval().requires_grad_(False)
        weights = dict(model.named_parameters())
        tied = VLM.tied(SimpleNamespace(text_config=read.text, model=model))
        load_weights(weights, self.folder, kind.name, tied)
        given = self.inputs
        mask = given["attention_mask"]
        batch = Batch(
            given["input_ids"],
            mask,
            given["input_ids"],
            given.get("pixel_values"),
            given.get("image_grid_thw"),
        )
        start = prefill(model, batch)
        logits = [model.head(start.hidden)[mask.bool()]]
        try:
            check_length(T + len(CONTINUED), read.text.longest_text)
        except UserError:
            return logits
        positions = start.positions
        for token in CONTINUED:
            positions = next_positions(positions, 1)
            mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
            embedding = model.decoder.embed_tokens(torch.full((2, 1), token))
            with torch.no_grad():
                hidden = model.decoder(embedding, mask, positions, start.past)[0]
            logits.append(model.head(hidden[:, -1]))
        return logits


def weight(name: str, shape: torch.Size) -> torch.Tensor:
    """Random values that depend on the name; vectors are near 1."""
    noise = torch.randn(shape, generator=torch_generator(3, name))
    return 0.3 * noise + (len(shape) == 1 and not name.endswith("bias"))


def inputs_of(config: Any) -> dict[str, torch.Tensor]:
    """Two rows of T and T - PADDED tokens, each with a picture if the model takes pictures.

    config  the reference's, from which the number of a picture's tokens is taken
    """
    draws = torch_generator(5, "ids")
    ids = torch.randint(6, 48, (2, T), generator=draws)
    mask = torch.ones_like(ids)
    mask[1, :PADDED] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return inputs
    if config.model_type == "llava":
        side = vision.image_size
        n_tokens = (side // vision.patch_size) ** 2
        n_tokens += config.vision_feature_select_strategy == "full"
        shape: tuple[int, ...] = (2, vision.num_channels, side, side)
    else:
        n_tokens = 32 // vision.spatial_merge_size**2
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        shape = (64, width)
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 8], [1, 8, 4]])
    ids[ids == config.image_token_id] = 5
    for row, begin in ((0, 3), (1, PADDED + 2)):
        ids[row, begin : begin + n_tokens] = config.image_token_id
    if config.model_type != "llava":
        inputs["mm_token_type_ids"] = (ids == config.image_token_id).int()
    inputs["pixel_values"] = torch.randn(shape, generator=torch_generator(5, "pixels"))
    return inputs


def candidates(world: World, name: str) -> tuple[list[Change], list[Change]]:
    """Every change of one key: those without effect by our table of the part, and all others.

    The keys are those of the file, of the reference's classes and of this package's tables.
    """
    config = world.bases[name]
    read = world.config_of(config)
    known = {key for table in TABLES for key in table.keys if table.file == "config.json"}
    harmless: list[Change] = []
    acting: list[Change] = []
    for part in ("", "text_config", "vision_config"):
        if part and part not in config:
            continue
        place = config[part] if part else config
        table = table_of(config, part)
        fields = {field.name: field for field in dataclasses.fields(getattr(read, part, read))}
        for key in sorted({*place, *fields, *VALUES} | known):
            if key in ("text_config", "vision_config") or (not part and key == "model_type"):
                continue
            changes = [(part, key, value) for value in values_of(world, key, fields.get(key))]
            if key in place and key not in KEPT:
                changes.append((part, key, DELETE))
            is_harmless = isinstance(table.keys.get(key, NoEffect("")), NoEffect)
            (harmless if is_harmless else acting).extend(changes)
    return harmless, acting


def table_of(config: dict[str, Any], part: str) -> KeyTable:
    """Our table of a part of a config.json."""
    name = config["model_type"]
    is_vlm = "vision_config" in config
    if part == "vision_config":
        return VISION[name]
    if part == "text_config" or not is_vlm:
        return config_keys.DECODERS["llama" if name == "llava" else name]
    if name == "llava":
        return config_keys.LLAVA
    return config_keys.QWEN2_VL if "text_config" in config else config_keys.QWEN2_VL_FLAT


def values_of(world: World, key: str, field: Any) -> list[Any]:
    """Values of a key: those of the list, or by the type that the reference declares."""
    if key in VALUES:
        if VALUES[key] == ACTIVATIONS:
            return sorted(world.library.activations.ACT2CLS)
        return VALUES[key]
    declared = str(field.type) if field is not None else "bool"
    return [None, 7] if "int" in declared and "bool" not in declared else [True, False, None]


def cases(world: World, name: str, n: int, seed: int) -> list[Case]:
    """n changes of one file: single keys, and pairs of keys that are not said to be harmless."""
    draws = random.Random(f"{seed} {name}")
    harmless, acting = candidates(world, name)
    draws.shuffle(harmless)
    draws.shuffle(acting)
    singles = acting[: n // 2] + harmless[: n // 8]
    chosen = [[each] for each in singles]
    by_key: dict[tuple[str, str], list[Change]] = {}
    for change in acting:
        by_key.setdefault(change[:2], []).append(change)
    while len(chosen) < n:
        chosen.append([draws.choice(by_key[key]) for key in draws.sample(sorted(by_key), 2)])
    made = []
    for changes in chosen:
        heads = ["absent", "absent", "equal", "different"]
        head = draws.choice(heads)
        keys = [key for _, key, _ in changes] + ["tie_word_embeddings"] * (head == "different")
        words = ", ".join(f"{part}.{key}={value!r}" for part, key, value in changes)
        config = changed(world.bases[name], changes)
        made.append(Case(f"{name}: {words}; head {head}", tuple(keys), (config, head)))
    return made


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> str:
    """ "" if the logits are equal; a refused continuation is not compared."""
    for number, (mine, their) in enumerate(zip(found, expected, strict=False)):
        if mine.shape != their.shape:
            return f"logits are {list(mine.shape)}, expected {list(their.shape)}"
        largest = float((mine - their).abs().max())
        if not largest <= BOUND * max(1.0, float(their.abs().max()) / 8):
            both_nan = torch.equal(mine.isnan(), their.isnan()) and bool(their.isnan().any())
            if not both_nan:
                return f"logits after {number} continued tokens differ by {largest:.1e}"
    return ""


def main() -> None:
    """Print the counts of every file and the cases that differ."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--refusals", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        names = [name for name in world.bases if options.only in name]
        for name in names:
            made = cases(world, name, options.cases // len(names), options.seed)
            counts = compare(made, world.ours, world.theirs, difference)
            print(counts.row(name), flush=True)
            for line in counts.different + (counts.refusals if options.refusals else []):
                print("   ", line[:300], flush=True)


if __name__ == "__main__":
    main()
