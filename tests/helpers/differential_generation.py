"""The same generation settings, followed by this package and by transformers.

A tiny random model of every family; one or two keys of generation_config.json (or, without that
file, of config.json) are changed. Compared are greedy ids up to the end of each text, and the
decoded texts, of four rows of unequal length that are padded on the left.

    python -m tests.helpers.differential_generation --cases 5000 --seed 1
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from clear_ref import load
from clear_ref.data.batches import Batch
from clear_ref.model import generation_keys
from clear_ref.model.generate import ended_texts
from clear_ref.model.generation_config import generation
from tests.helpers.differential import Case, Counts, compare
from tests.helpers.letter_models import FAMILIES, N_TOKENS, prompts, write_json, write_model

N_NEW = 24
# The stop ids of the unchanged settings: enough of the vocabulary for most texts to end early.
STOP_IDS = [2, 17, 20, 23, 29, 31, 37]
BASE = {"eos_token_id": STOP_IDS, "pad_token_id": 0, "bos_token_id": 1}


class Change(NamedTuple):
    """own: generation_config.json, None for no file; config: keys of config.json."""

    own: dict[str, Any] | None
    config: dict[str, Any]


# ---- changed values


def one_id(draw: random.Random) -> int:
    return draw.randrange(N_TOKENS)


def ids(draw: random.Random) -> list[int]:
    return [one_id(draw) for _ in range(draw.choice((1, 2, 5, 20)))]


def sequences(draw: random.Random) -> list[list[int]]:
    return [[one_id(draw) for _ in range(draw.choice((1, 1, 2, 2, 3)))] for _ in range(30)]


def value_of(key: str, draw: random.Random) -> Any:
    """A value that the reference accepts, not always for every model and batch."""
    few = draw.choice((0, 1, 2, 3, 5, 12, 30))
    drawn: dict[str, Any] = {
        "eos_token_id": [[], [-1, 2], [2, 30], 2, one_id(draw), ids(draw), None],
        "pad_token_id": [None, 0, 10, 33, -1, N_TOKENS, one_id(draw)],
        "bos_token_id": [None, 7],
        "repetition_penalty": [1.0, None, 0.5, 1.05, 1.7, 30.0],
        "encoder_repetition_penalty": [1.0, None, 0.5, 1.05, 1.7, 30.0],
        "no_repeat_ngram_size": [few, None, -1],
        "encoder_no_repeat_ngram_size": [few, None, -1],
        "bad_words_ids": [sequences(draw), [[one_id(draw)]], [[]], [[2]], None],
        "sequence_bias": [
            [[each, draw.uniform(-20, 20)] for each in sequences(draw)],
            [[[one_id(draw)], 50.0], [[one_id(draw)], -50.0]],
            None,
        ],
        "min_length": [few, 14, 20, 40, None],
        "min_new_tokens": [few, None],
        "forced_bos_token_id": [one_id(draw), None],
        "forced_eos_token_id": [one_id(draw), ids(draw), None],
        "remove_invalid_values": [True, False, None],
        "exponential_decay_length_penalty": [[few, draw.uniform(0.5, 3)], [2, 2], None],
        "suppress_tokens": [ids(draw), ids(draw) + [N_TOKENS, -3], list(range(N_TOKENS)), []],
        "begin_suppress_tokens": [ids(draw), ids(draw) + [N_TOKENS + 3], None],
        "renormalize_logits": [True, False, None],
        "do_sample": [True, False],
        "max_length": [1, 5, 400],
        "max_new_tokens": [1, 300],
        "temperature": [0.1, 7.0],
        "top_k": [1, 3],
        "top_p": [0.1],
        "min_p": [0.9],
        "top_h": [0.1],
        "typical_p": [0.1],
        "epsilon_cutoff": [0.3],
        "eta_cutoff": [0.3],
        "early_stopping": [True, "never"],
        "length_penalty": [-3.0],
        "diversity_penalty": [2.0],
        "num_beam_groups": [2],
        "low_memory": [True],
        "num_assistant_tokens": [3],
        "num_assistant_tokens_schedule": ["heuristic"],
        "assistant_confidence_threshold": [0.9],
        "assistant_lookbehind": [1],
        "target_lookbehind": [1],
        "assistant_ensemble_weight": [0.5],
        "max_matching_ngram_size": [3],
        "speculation_type": ["dflash"],
        "output_attentions": [True],
        "output_hidden_states": [True],
        "output_scores": [True],
        "output_logits": [True],
        "return_dict_in_generate": [True],
        "use_cache": [True, False],
        "max_cache_len": [200],
        "cache_config": [{"nbits": 4}],
        "cache_implementation": ["static", "dynamic", "hybrid", "sliding_window", "quantized"],
        "disable_compile": [True],
        "prefill_chunk_size": [3, 100],
        "continuous_batching_config": [{}],
        "decoder_start_token_id": [3],
        "transformers_version": ["4.30.0"],
        "_from_model_config": [True],
        "_commit_hash": ["abc"],
        "_original_object_hash": [5],
        "num_beams": [1, 2],
        "num_return_sequences": [1, 0],
        "constraints": [None, [[1]]],
        "force_words_ids": [[[3]]],
        "penalty_alpha": [0, 0.6],
        "dola_layers": ["high"],
        "use_mtp": [False, True],
        "prompt_lookup_num_tokens": [2],
        "assistant_early_exit": [1],
        "is_assistant": [False, True],
        "guidance_scale": [1, 1.0, 3.0],
        "watermarking_config": [{"bias": 5.0}, {}, None],
        "token_healing": [False, True],
        "stop_strings": [["ABC"]],
        "max_time": [1000.0],
        "compile_config": [{}],
        "force_bos_token_to_be_generated": [False, True],
    }
    return draw.choice(drawn[key])


def cases(n: int, seed: int) -> Iterator[Case]:
    """n cases: in one half every key in turn; in the other, keys that change text, mostly two.

    The first key is number 16 * seed, so that 160 cases with the seeds 0 to 4 have all of them.
    """
    draw = random.Random(seed)
    used, all_keys = sorted(generation_keys.USED), sorted(generation_keys.SETTINGS)
    for number in range(n):
        keys = [all_keys[(16 * seed + number // 2) % len(all_keys)]]
        if number % 2:
            keys = draw.sample(used, draw.choice((1, 2, 2)))
            if draw.random() < 0.2:
                keys[-1] = draw.choice(all_keys)
        values = {key: value_of(key, draw) for key in keys}
        place = draw.choice(("own", "own", "own", "top", "text_config", "both", "ignored"))
        if place == "own":
            change = Change(BASE | values, {})
        elif place == "top":
            change = Change(None, BASE | values)
        elif place == "text_config":
            change = Change(None, {"text_config": BASE | values})
        elif place == "both":
            change = Change(None, values | {"text_config": BASE})
        else:
            change = Change(BASE, values | {"text_config": values})
        if draw.random() < 0.1:
            for settings in (change.own, change.config):
                (settings or {}).pop("eos_token_id", None)
            keys.append("eos_token_id")
        yield Case(f"{place} {json.dumps(values)}", tuple(keys), change)


# ---- both readers


class Generated(NamedTuple):
    """ids: [row][new tokens]; texts: without surrounding blanks; stop_ids, fill: theirs."""

    ids: list[list[int]]
    texts: list[str]
    stop_ids: list[int]
    fill: int | None


class Pair:
    """One model, loaded by both, whose settings are changed from case to case."""

    def __init__(self, family: str, directory: Path) -> None:
        T = pytest.importorskip("transformers", reason="the parity extra is not installed")
        self.directory = directory / family
        self.reference = write_model(family, self.directory)
        self.ours = load(self.directory)
        self.config = json.loads((self.directory / "config.json").read_text())
        self.tokenizer = T.AutoTokenizer.from_pretrained(self.directory)
        self.inputs = prompts(family)

    def write(self, change: Change) -> dict[str, Any]:
        """Writes the changed files; returns config.json."""
        own = self.directory / "generation_config.json"
        own.unlink(missing_ok=True)
        if change.own is not None:
            write_json(own, change.own)
        config = self.config | change.config
        if "text_config" in change.config:
            config["text_config"] = (
                self.config.get("text_config", {}) | change.config["text_config"]
            )
        write_json(self.directory / "config.json", config)
        return config

    def generate(self, change: Change) -> Generated:
        """Our ids and texts."""
        config = self.write(change)
        vlm = self.ours
        vlm.generation = generation(self.directory, config, N_TOKENS, vlm.tokenizer)
        inputs = self.inputs
        batch = Batch(
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["input_ids"],
            inputs.get("pixel_values"),
            inputs.get("image_grid_thw"),
        )
        ids = vlm.generate_ids(batch, N_NEW)
        rows = ended_texts(ids, vlm.generation.stop_ids)
        return Generated(ids.tolist(), [vlm.tokenizer.text(row).strip() for row in rows], [], None)

    def generate_by_reference(self, change: Change) -> Generated:
        """transformers' ids and texts, with the settings that it reads from the directory."""
        self.write(change)
        model = self.reference
        place = {"cache_dir": None, "force_download": False, "proxies": None, "token": None}
        place |= {"local_files_only": True, "revision": "main", "subfolder": ""}
        model.adjust_generation_fn(
            None, None, None, self.directory, trust_remote_code=False, **place
        )
        with torch.no_grad():
            output = model.generate(**self.inputs, max_new_tokens=N_NEW, do_sample=False)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        new = sequences[:, self.inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        stop_ids, fill = model.generation_config.eos_token_id, model.generation_config.pad_token_id
        if not isinstance(stop_ids, list):
            stop_ids = [] if stop_ids is None else [stop_ids]
        if fill is None and stop_ids:
            fill = stop_ids[0]
        return Generated(new.tolist(), [text.strip() for text in texts], stop_ids, fill)


def difference(found: Generated, expected: Generated) -> str:
    """Ids behind a stop id are not compared: theirs are `fill`, ours the tokenizer's pad token."""
    for row, (ours, theirs) in enumerate(zip(found.ids, expected.ids, strict=True)):
        ends = [n + 1 for n, token in enumerate(theirs) if token in expected.stop_ids]
        end = min(ends, default=len(theirs))
        if len(ours) != len(theirs) or ours[:end] != theirs[:end]:
            return f"row {row}: ids {ours}, expected {theirs}"
        if any(token != expected.fill for token in theirs[end:]):
            return f"row {row}: not filled with {expected.fill}: {theirs}"
    if found.texts != expected.texts:
        return f"texts {found.texts}, expected {expected.texts}"
    return ""


def run(family: str, directory: Path, n: int, seed: int) -> Counts:
    """The counts of n cases of a family; files are written under `directory`."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads wait for each other at every one of the tiny operations
    try:
        pair = Pair(family, directory)
        return compare(cases(n, seed), pair.generate, pair.generate_by_reference, difference)
    finally:
        torch.set_num_threads(n_threads)


def main() -> None:
    """Print a row for each family, and the cases that differ."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", choices=FAMILIES)
    settings = parser.parse_args()
    for seed, family in enumerate(FAMILIES, settings.seed):
        if settings.family not in (None, family):
            continue
        with tempfile.TemporaryDirectory() as directory:
            counts = run(family, Path(directory), settings.cases, seed)
        print(counts.row(f"generation, {family}"))
        for line in counts.different:
            print(f"    {line}")


if __name__ == "__main__":
    main()
