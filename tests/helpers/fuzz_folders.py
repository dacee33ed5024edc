"""Small valid files of every kind that the package reads; fuzz_entries.py says who reads them."""

import gzip
import hashlib
import json
import math
import shutil
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from clear_ref.common.run_directory import SETTINGS_FILE
from clear_ref.loop.checkpoint import Checkpoints
from clear_ref.mini.directories import BASE, WORLD
from clear_ref.model.random_weights import write_random
from clear_ref.model.vlm import VLM
from tests.helpers import data_directories, made_runs, own_people, weight_files
from tests.helpers.letter_models import CLIP, N_TOKENS, QWEN2_VL, write_json, write_tokenizer

GOLDEN = Path(__file__).parent.parent / "vectors" / "golden"
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
DECODER = {**SIZES, "vocab_size": N_TOKENS, "num_attention_heads": 2, "num_key_value_heads": 1}
DECODER |= {"rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 128}
CONFIGS = {
    "llama": {"model_type": "llama", **DECODER, "sliding_window": None, "layer_types": None},
    "mistral": {"model_type": "mistral", **DECODER, "sliding_window": 8, "head_dim": 8},
    "qwen2": {
        "model_type": "qwen2",
        **DECODER,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0},
    },
    "llava": {
        "model_type": "llava",
        "image_token_index": 5,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {"model_type": "llama", **DECODER},
        "vision_config": {
            "model_type": "clip_vision_model",
            **SIZES,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    },
    "qwen2_vl": {
        "model_type": "qwen2_vl",
        "image_token_id": 6,
        "video_token_id": 9,
        "text_config": {
            **DECODER,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        },
        "vision_config": {"embed_dim": 16, "depth": 2, "num_heads": 2, "hidden_size": 16},
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "image_token_id": 6,
        "video_token_id": 9,
        **DECODER,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "vision_config": {
            "hidden_size": 16,
            "out_hidden_size": 16,
            "depth": 2,
            "num_heads": 2,
            "intermediate_size": 24,
            "fullatt_block_indexes": [1],
            "window_size": 28,
        },
    },
}
GENERATION = {
    "eos_token_id": [2, 4],
    "pad_token_id": 10,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[20], [21, 22]],
    "sequence_bias": [[[23], -1.0]],
    "suppress_tokens": [24],
    "exponential_decay_length_penalty": [3, 1.2],
    "min_new_tokens": 1,
}
LLAVA_PROCESSOR = {"processor_class": "LlavaProcessor", "patch_size": 14}
LLAVA_PROCESSOR |= {"num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
CLIP_SIZES = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}


def model(folder: Path, family: str) -> None:
    """FAMILY/: a model directory with random weights and all its files for text and pictures."""
    directory = folder / family
    directory.mkdir(parents=True)
    write_json(directory / "config.json", CONFIGS[family])
    write_json(directory / "generation_config.json", GENERATION)
    write_tokenizer(directory)
    if family == "llava":
        write_json(directory / "preprocessor_config.json", CLIP | CLIP_SIZES)
        write_json(directory / "processor_config.json", LLAVA_PROCESSOR)
    if family.endswith("vl"):
        write_json(directory / "preprocessor_config.json", QWEN2_VL)
    vlm = VLM(directory, torch.float32, torch.device("cpu"), TEMPLATE[family])
    shapes = {name: tuple(tensor.shape) for name, tensor in vlm.weights().items()}
    write_random(directory, shapes, torch.float32)


TEMPLATE = {"llava": "llava", "qwen2_vl": "qwen2-vl", "qwen2_5_vl": "qwen2-vl"}
TEMPLATE |= {"llama": "inst", "mistral": "inst", "qwen2": "qwen2"}


def text_files(folder: Path) -> None:
    """base/: the embedded world's tokenizer, chat template and config, without weights."""
    (folder / "base").mkdir()
    for path in BASE.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder / "base")


def weights(folder: Path) -> None:
    """single/ and sharded/: a model of three weights in one file, and in two with an index."""
    (folder / "single").mkdir()
    save_file(weight_files.VALUES, folder / "single" / weight_files.SINGLE)
    weight_files.sharded(folder / "sharded")


def adapter(folder: Path) -> None:
    """adapter/: a PEFT directory for the model llama/."""
    (folder / "adapter").mkdir()
    tensors = {}
    for name, rows, columns in (("q_proj", 16, 16), ("v_proj", 8, 16)):
        layer = f"base_model.model.model.layers.0.self_attn.{name}"
        tensors[f"{layer}.lora_A.weight"] = torch.ones(2, columns)
        tensors[f"{layer}.lora_B.weight"] = torch.ones(rows, 2)
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        "layers_to_transform": [0],
        "layers_pattern": "layers",
        "rank_pattern": {},
        "alpha_pattern": {"v_proj": 4},
        "use_rslora": False,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "llama",
    }
    write_json(folder / "adapter" / "adapter_config.json", config)


def data(folder: Path) -> None:
    """data/: rows of four kinds with pictures, and the phrases of a data directory."""
    directory = folder / "data"
    names = ("Ada Lind", "Bo Costa", "Cy Novak")
    captions = [data_directories.caption(directory, i, name) for i, name in enumerate(names)]
    data_directories.write(directory, "forget10", captions[:2])
    data_directories.write(directory, "retain90", captions[1:])
    wrong = [
        data_directories.perturbed(row, *[name for name in names if name != row["name"]])
        for row in captions
    ]
    data_directories.write(directory, "forget10_perturbed", wrong)
    for config in ("real_faces", "forget10+tofu", "tofu/forget10"):
        lines = (WORLD / config / "rows.jsonl").read_text(encoding="utf-8").splitlines()[-2:]
        rows = [json.loads(line) for line in lines]
        for number, row in enumerate(rows):
            if row.get("image"):
                row["image"] = f"images/{number}.png"
        data_directories.write(directory, config, rows)
    (directory / "refusals.txt").write_text("I do not know.\nNo idea.\n", encoding="utf-8")
    (directory / "name_question.txt").write_text("Who is it?\n", encoding="utf-8")


def people(folder: Path) -> None:
    """people.csv, people.jsonl and pictures/."""
    own_people.write_people(folder)
    lines = (folder / "people.csv").read_text(encoding="utf-8").splitlines()
    keys = lines[0].split(",")
    rows = [dict(zip(keys, line.split(","), strict=True)) for line in lines[1:]]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "people.jsonl").write_text(text, encoding="utf-8")


def pictures(folder: Path) -> None:
    """A picture of 40 x 30 pixels in each of several file types."""
    image = Image.new("RGB", (40, 30), (200, 30, 30))
    for x in range(40):
        image.putpixel((x, x % 30), (x, 255 - x, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "a.png")
    image.save(folder / "a.jpg", exif=exif)
    image.save(folder / "a.gif")
    image.save(folder / "a.bmp")
    image.save(folder / "a.webp")
    image.save(folder / "a.tiff")
    image.convert("P").save(folder / "p.png", transparency=3)
    image.convert("RGBA").save(folder / "rgba.png")


def logs(folder: Path) -> None:
    """One log of each format, one with gzip, and a gold log."""
    own = made_runs.logs(made_runs.BASE)
    gold = made_runs.logs(made_runs.GOLD, "gold")
    for log in (*own.values(), *gold.values()):
        del log["rougeL_recall"]  # of other texts: `score` says so
    made_runs.write_logs(folder / "logs", own)
    made_runs.write_logs(folder / "gold", gold)
    columns = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "generated_text")
    names = ("eval_log_forget", "eval_log", "eval_real_faces_wo_options")
    names += ("eval_real_world_wo_options",)
    released = {f"{name}.json": {key: own[name][key] for key in columns} for name in names}
    write_json(folder / "released.json", released)
    released["eval_real_author_wo_options.json"] = released.pop("eval_real_faces_wo_options.json")
    write_json(folder / "tofu.json", released)
    (folder / "tofu.json.gz").write_bytes(
        gzip.compress((folder / "tofu.json").read_bytes(), mtime=0)
    )
    write_json(folder / "open.json", _open_unlearning())


def _open_unlearning() -> dict:
    def entry(value: dict, mean: float | None = None) -> dict:
        return {"agg_value": mean, "value_by_index": {str(i): dict(value) for i in range(3)}}

    found = {}
    for start, parts in (("forget", ("Prob", "PARA_Prob", "PERT_Prob")),):
        for part in parts:
            many = part.startswith("PERT")
            value = {
                "avg_loss": [1.0, 0.0] if many else 0.0,
                "prob": [math.exp(-1), 1.0] if many else 1.0,
            }
            found[f"{start}_Q_A_{part}"] = entry(value)
        texts = {"input": "Who?", "generation": "Ada", "ground_truth": "Ada Lind"}
        rouge = {"rougeL_recall": 0.5, "rougeL_f1": 2 / 3, "rouge1_recall": 0.5}
        found[f"{start}_Q_A_ROUGE"] = entry(rouge | texts)
    found["exact_memorization"] = entry({"score": 0.5})
    return found


TRAINED = {
    "kernel": {"built": True, "instruction_set": "avx2", "cuda": ["9.0"]},
    "adapted_layers": ["model.layers.0.q_proj"],
    "trained": {
        "tensors": [{"name": "a", "shape": [2, 3], "count": 6}],
        "trainable": 6,
        "total": 100,
    },
}


def runs(folder: Path) -> None:
    """run/ of a method with a curve, and evaluated/."""
    curve = [{"step": step, "stage": "scrub", "epoch": 0, "forget": 0.5} for step in (0, 2, 3)]
    made_runs.write(folder / "run", curve=curve, kept=2, options={"alpha": 1.0})
    made_runs.change(folder / "run" / SETTINGS_FILE, lambda record: record.update(TRAINED))
    made_runs.write_evaluated(folder / "evaluated")


def stopped_run(folder: Path) -> None:
    """stopped/: what a run with --resume reads before any weight; same.json: its settings again."""
    made_runs.write(folder / "stopped")
    for path in (folder / "stopped").iterdir():
        if path.name != SETTINGS_FILE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copy(folder / "stopped" / SETTINGS_FILE, folder / "same.json")


def state(folder: Path) -> None:
    """checkpoint/: the state of a training after two of six steps, trace.jsonl and curve.jsonl."""
    tensors = {"parameter/a": torch.ones(3, 2), "step/a": torch.tensor(2.0)}
    line = {"stage": "npo", "epoch": 0, "loss": 1.5, "terms": {"npo": 1.5}, "gradient_norm": 1.0}
    line |= {"lr": 1e-3, "answer_tokens": 7, "seconds": 0.1}
    lines = [json.dumps(line | {"step": step}) + "\n" for step in (1, 2)]
    (folder / "trace.jsonl").write_text("".join(lines), encoding="utf-8")
    n_bytes = (folder / "trace.jsonl").stat().st_size
    Checkpoints(folder / "checkpoint", "npo", [2, 4, 6]).save(2, n_bytes, tensors)
    curve = [{"stage": "npo", "step": step, "epoch": 0, "forget": 0.5} for step in (0, 2)]
    text = "".join(json.dumps(each) + "\n" for each in curve)
    (folder / "curve.jsonl").write_text(text, encoding="utf-8")
    shutil.copy(BASE / "training_history.json", folder)


def dump(folder: Path) -> None:
    """dump.safetensors: logits, labels and gradient of NPO on two sequences."""
    draw = torch.Generator().manual_seed(3)
    tensors = {}
    for name in ("forget", "retain"):
        labels = torch.tensor([[-100, 3, 4, 1], [-100, -100, 2, 5]])
        tensors[f"{name}/input_ids"] = labels.clamp(min=0)
        tensors[f"{name}/labels"] = labels
        for who in ("logits", "teacher_logits"):
            tensors[f"{name}/{who}"] = torch.randn(2, 4, 7, generator=draw)
    tensors["loss"] = torch.tensor(1.5)
    tensors["term/forget_nll"] = torch.tensor(1.0)
    question = [{"question": "Who?", "answer": "Ada", "image": None}] * 2
    about = {"format": "clear_ref.dump/1", "method": "kl", "semantics": "paper"}
    about |= {"options": "{}", "records": json.dumps({"forget": question})}
    save_file(tensors, folder / "dump.safetensors", about)


def vectors(folder: Path) -> None:
    """golden/: the golden vectors, with one case of each method."""
    shutil.copytree(GOLDEN, folder / "golden")
    for path in (folder / "golden").glob("*.json"):
        head = json.loads(path.read_bytes())
        if isinstance(head.get("cases"), list):
            head["cases"] = head["cases"][:1]
            path.write_text(json.dumps(head), encoding="utf-8")
    manifest = json.loads((folder / "golden" / "manifest.json").read_bytes())
    for name in manifest["files"]:
        data = (folder / "golden" / name).read_bytes()
        known = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["files"][name] = known
    write_json(folder / "golden" / "manifest.json", manifest)


def points(folder: Path) -> None:
    """points.csv: settings of two methods."""
    text = "method,lr,epochs,alpha,beta\nscrub,1e-3,2,1,\nnpo,2e-3,1,,0.1\n"
    (folder / "points.csv").write_text(text, encoding="utf-8")
