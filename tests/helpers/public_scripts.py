"""Adapters for public training scripts, whose loss is in main(): see who_passes.py.

A script is run from its first line on, with the fake model where it loads one and the batches of
the case where it loads data. A step on forget data and one on retain data, one after the other,
are judged by the sum of their losses.
"""

import contextlib
import io
from collections import defaultdict
from types import SimpleNamespace

import torch

from .public_code import Stand, row
from .public_trainers import project

MLLMU = project("MLLMU-Bench", "franciscoliu/MLLMU-Bench", "0e3098e")
MMUNLEARNER = project("MMUnlearner", "Z1zs/MMUnlearner", "fa77c66")
LLM = project("llm_unlearn", "kevinyaobytedance/llm_unlearn", "647f309")
FIUBENCH = project("FIUBench", "SaFoLab-WISC/FIUBench", "8e12cdd")
SKU = project("SKU", "franciscoliu/SKU", "a17663f")


# The cases of a method whose options have their defaults.
WITHOUT_OPTIONS = "{0}/original/plain,{0}/original/[!p]*"


class Bar(list):
    """Stands for tqdm: the batches."""

    def __init__(self, batches, **options):
        super().__init__(batches)

    def set_postfix(self, **numbers):
        pass


class Named(Stand):
    """Stands for a class with from_pretrained, which gives `found`."""

    found: object = None

    @classmethod
    def from_pretrained(cls, *args, **options):
        return cls.found


def run_main(theirs, fakes, loaders, **arguments):
    """The sum of what main(args) gives to accelerator.backward; loaders: its batches, in order."""
    arguments = {"model_id": "llava", "gradient_accumulation": False, **arguments}
    args = SimpleNamespace(trainer=False, num_epochs=1, batch_size=1, lr=0.0, **arguments)
    args.__dict__.update(vanilla_dir="", save_dir="", oracle_model_id="", data_split_dir="")
    folders = {"data_folder": "", "forget_split_ratio": 5, "forget_ratio": 5, "ans_only": False}
    args.__dict__.update({**folders, **arguments})
    given = iter(loaders)
    vocabulary = SimpleNamespace(tokenizer=(), batch_decode=Stand)
    names = {
        "Accelerator": lambda **options: fakes.accelerator,
        "AdamW": Stand,
        "AutoTokenizer": type("AutoTokenizer", (Named,), {"found": ()}),
        "AutoProcessor": type("AutoProcessor", (Named,), {"found": vocabulary}),
        "CLEAR_Dataset": Stand,
        "DataLoader": lambda *args, **options: [next(given)],
        "LLAVA_multimodal_Dataset": Stand,
        "LlavaForConditionalGeneration": type("Llava", (Named,), {"found": fakes.teacher}),
        "LoraConfig": Stand,
        "get_peft_model": lambda model, config: model,
        "get_scheduler": Stand,
        "load_dataset": Stand,
        "load_model_and_processor": lambda *args: (fakes.student, vocabulary),
        "os": SimpleNamespace(path=SimpleNamespace(join=lambda *parts: "")),
        "pd": Stand(),
        "prepare_model_for_kbit_training": lambda model: model,
        "tqdm": Bar,
    }
    theirs.__dict__.update(names, args=args)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.main(args)
    return sum(fakes.accelerator.losses)


def tuples(fakes, *names):
    """The batches as (input_ids, attention_mask, pixel_values, labels)."""
    found = []
    for name in names:
        batch = fakes.inputs[name]
        found.append((batch["input_ids"], batch["attention_mask"], None, batch["labels"]))
    return found


def dicts(fakes, *names):
    """The batches as dicts."""
    return [fakes.inputs[name] for name in names]


@row(MLLMU, "baselines.GA", "main", "grad_ascent")
def mllmu_ga(theirs, fakes, options):
    """MLLMU-Bench's GA."""
    return run_main(theirs, fakes, tuples(fakes, "forget"))


@row(
    MLLMU, "baselines.GA_Difference", "main", "grad_diff", only=WITHOUT_OPTIONS.format("grad_diff")
)
def mllmu_ga_difference(theirs, fakes, options):
    """MLLMU-Bench's GA_Difference: a step on forget, then one on retain."""
    return run_main(theirs, fakes, tuples(fakes, "forget", "retain"))


@row(MLLMU, "baselines.KL_Min", "main", "kl")
def mllmu_kl_min(theirs, fakes, options):
    """MLLMU-Bench's KL_Min: a step on forget, then one on retain."""
    return run_main(theirs, fakes, tuples(fakes, "forget", "retain"))


@row(MLLMU, "baselines.NPO", "main", "npo", only=WITHOUT_OPTIONS.format("npo"))
def mllmu_npo(theirs, fakes, options):
    """MLLMU-Bench's NPO."""
    return run_main(theirs, fakes, tuples(fakes, "forget"), beta=options["beta"])


@row(
    MLLMU,
    "baselines.NPO",
    "main",
    "npo",
    only=WITHOUT_OPTIONS.format("npo"),
    note="with --gradient_accumulation",
)
def mllmu_npo_accumulated(theirs, fakes, options):
    """MLLMU-Bench's NPO with --gradient_accumulation: 4 steps."""
    batches = tuples(fakes, "forget")
    return run_main(theirs, fakes, batches, beta=options["beta"], gradient_accumulation=True)


@row(MMUNLEARNER, "baselines.CLEAR_GA", "main", "grad_ascent")
def mmunlearner_ga(theirs, fakes, options):
    """MMUnlearner's CLEAR_GA."""
    return run_main(theirs, fakes, dicts(fakes, "forget"))


@row(
    MMUNLEARNER,
    "baselines.CLEAR_GA_Diff",
    "main",
    "grad_diff",
    only=WITHOUT_OPTIONS.format("grad_diff"),
)
def mmunlearner_ga_diff(theirs, fakes, options):
    """MMUnlearner's CLEAR_GA_Diff: a step on forget, then one on retain."""
    return run_main(theirs, fakes, dicts(fakes, "forget", "retain"))


@row(MMUNLEARNER, "baselines.CLEAR_KL_Min", "main", "kl")
def mmunlearner_kl_min(theirs, fakes, options):
    """MMUnlearner's CLEAR_KL_Min: a step on forget, then one on retain."""
    return run_main(theirs, fakes, dicts(fakes, "forget", "retain"))


@row(MMUNLEARNER, "baselines.CLEAR_NPO", "main", "npo", only=WITHOUT_OPTIONS.format("npo"))
def mmunlearner_npo(theirs, fakes, options):
    """MMUnlearner's CLEAR_NPO."""
    return run_main(theirs, fakes, dicts(fakes, "forget"), beta=options["beta"], forget_ratio="5")


def pad_id_1(batches):
    """The batches with the ids of their tokenizer: padding is 1. No two other ids are the same."""
    changed = {}
    next_id = 2
    for name, batch in batches.items():
        unique = next_id + torch.arange(batch["labels"].numel()).reshape(batch["labels"].shape)
        next_id += unique.numel()
        ids = torch.where(batch["attention_mask"] == 0, 1, unique)
        changed[name] = {**batch, "input_ids": ids, "own_ids": batch["input_ids"]}
    return changed


class Tokenizer:
    """Stands for a tokenizer: text is the place of a sequence, "b", and a random batch's name."""

    def __init__(self, fakes):
        self.batches = fakes.batches
        self.texts = {}
        for b, ids in enumerate(fakes.batches["forget"]["input_ids"]):
            self.texts[tuple(ids.tolist())] = str(b)

    def decode(self, ids):
        return f"### Question: {self.texts[tuple(ids.tolist())]}"

    def __call__(self, text, **options):
        b, _, name = text.removeprefix("### Question: ").partition("\n ### Answer: ")
        batch = self.batches[name or "forget"]
        return {key: batch[key][int(b)] for key in ("input_ids", "attention_mask")}

    def collator(self, **options):
        """Stands for DataCollatorForLanguageModeling: labels are the ids, -100 at padding."""

        def collate(features):
            found = {key: [one[key] for one in features] for key in features[0]}
            ids = torch.stack(found["input_ids"])
            stored = {int(i): int(j) for i, j in self.pairs()}
            labels = ids.clone().apply_(lambda i: stored[i]).masked_fill(ids == 1, -100)
            mask = torch.stack(found["attention_mask"])
            starts = found["start_locs"]
            return {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": labels,
                "start_locs": starts,
            }

        return collate

    def pairs(self):
        """(id, the id of the golden vectors) of every position."""
        for batch in self.batches.values():
            yield from zip(batch["input_ids"].flatten(), batch["own_ids"].flatten(), strict=True)


class Done(Exception):
    """The script has come to its first backward."""


def fiubench(theirs, fakes, forget_loss):
    """What main(cfg) of FIUBench's forget.py gives to its first backward."""
    models = iter([fakes.student, fakes.teacher])

    def backward(loss):
        fakes.accelerator.losses.append(loss)
        raise Done

    fakes.accelerator.backward = backward
    fakes.accelerator.state = fakes.accelerator.init_trackers = Stand()
    named = defaultdict(str, model_path="llava", forget_loss=forget_loss, num_epochs=1)
    named.update(LoRA=SimpleNamespace(r=0), lr=0.0, warmup_ratio=0.0, gradient_accumulation_steps=1)
    config = type("Config", (), {"__getattr__": lambda self, name: named[name]})()
    llava = SimpleNamespace(from_pretrained=lambda *args, **options: next(models))
    pairs = [(fakes.inputs["forget"], fakes.inputs["retain"])]
    names = {
        "Accelerator": lambda **options: fakes.accelerator,
        "AutoTokenizer": Named,
        "CLIPImageProcessor": Named,
        "DataLoader": lambda *args, **options: pairs,
        "LlavaForConditionalGeneration": llava,
        "MMForgetDatasetQA": Stand,
        "OmegaConf": Stand(),
        "Path": Stand,
        "custom_data_collator_forget": Stand,
        "datasets": Stand(),
        "e_prepare_deepspeed": lambda model, accelerator: model,
        "get_model_identifiers_from_yaml": lambda family: {"hf_key": ""},
        "get_scheduler": Stand,
        "logger": Stand(),
        "logging": Stand(),
        "open": lambda *args: io.StringIO(),
        "os": Stand(),
        "set_seed": Stand,
        "transformers": Stand(),
    }
    theirs.__dict__.update(names)
    main = getattr(theirs.main, "__wrapped__", theirs.main)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(Done):
            main(config)
    return fakes.accelerator.losses[0]


@row(FIUBENCH, "forget", "main", "grad_ascent")
def fiubench_ga(theirs, fakes, options):
    """FIUBench's ga."""
    return fiubench(theirs, fakes, "ga")


@row(FIUBENCH, "forget", "main", "grad_diff", only=WITHOUT_OPTIONS.format("grad_diff"))
def fiubench_gd(theirs, fakes, options):
    """FIUBench's gd."""
    return fiubench(theirs, fakes, "gd")


@row(FIUBENCH, "forget", "main", "kl")
def fiubench_kl(theirs, fakes, options):
    """FIUBench's kl."""
    return fiubench(theirs, fakes, "kl")


def with_start(batch):
    """A batch as llm_unlearn's loader gives it: start_locs is the last prompt token's place."""
    first = (batch["labels"] >= 0).long().argmax(1)
    none = (batch["labels"] < 0).all(1)
    last = batch["labels"].shape[1]
    return {**batch, "start_locs": torch.where(none, last, first - 1)}


def answers_and_kl(theirs, fakes, options, operation, kl):
    """The sum in their main(): answers of forget, random answers, and the retain term."""
    tokenizer = Tokenizer(fakes)
    theirs.DataCollatorForLanguageModeling = tokenizer.collator
    forget = with_start(fakes.inputs["forget"])
    n_random = options["n_random"]
    names = [f"random{k}" for k in range(1, n_random + 1)]
    answers = theirs.get_answer_loss(operation, forget, fakes.student, "cpu")
    random = theirs.get_rand_ans_loss(forget, tokenizer, names, fakes.student, n_random, "cpu")
    retain = kl(fakes.teacher, fakes.student, fakes.inputs["retain"], "cpu")
    weights = (options["w_forget"], options["w_random"], options["w_retain"])
    return weights[0] * answers + weights[1] * random + weights[2] * retain


@row(
    LLM,
    "utils",
    "get_rand_ans_loss",
    "llmu",
    change=pad_id_1,
    padded=True,
    note="and the two others",
)
def llm_unlearn_llmu(theirs, fakes, options):
    """llm_unlearn's get_answer_loss, get_rand_ans_loss and compute_kl, as in unlearn_harm.py."""
    return answers_and_kl(theirs, fakes, options, "ga", theirs.compute_kl)


@row(
    SKU,
    "utils",
    "get_rand_ans_loss",
    "sku",
    change=pad_id_1,
    padded=True,
    note="and the two others",
)
def sku_sku(theirs, fakes, options):
    """SKU's get_answer_loss, get_rand_ans_loss and compute_reverse_kl, as its main() adds them."""
    return answers_and_kl(theirs, fakes, options, "gd", theirs.compute_reverse_kl)
