"""Adapters for public trainers with compute_loss, one for each method: see who_passes.py.

Each is what a user writes: make the trainer, call its compute_loss with the fake student.
"""

import torch

from .public_code import Project, row

ABSENT = (
    "datasets",
    "deepspeed",
    "evaluate",
    "hydra",
    "matplotlib",
    "natsort",
    "omegaconf",
    "pandas",
    "qwen_vl_utils",
    "rouge_score",
    "sklearn",
    "wandb",
)
LACKING = (
    "transformers.AdamW",
    "transformers.is_torch_tpu_available",
    "transformers.utils.is_torch_tpu_available",
)


def project(name: str, source: str, commit: str, *paths: str) -> Project:
    """A project on GitHub, with every absent package of all of them."""
    return Project(name, source, commit, paths or ("",), ABSENT, LACKING)


OPEN = project("open-unlearning", "locuslab/open-unlearning", "d3d7cf9", "src")
NPO = project(
    "negative-preference-optimization",
    "licong-lin/negative-preference-optimization",
    "1207bbe",
    "TOFU",
)
SIMPLE = ("Unlearn-Simple", "OPTML-Group/Unlearn-Simple", "f1a355d")
SIMPLE_TOFU = project(*SIMPLE, "TOFU")
SIMPLE_WMDP = project(*SIMPLE, "WMDP/src")
SIMPLE_MUSE = project(*SIMPLE, "MUSE/baselines")
MUSE = project("muse_bench", "swj0419/muse_bench", "54719c5", "baselines")

# The cases without retain=kl.
NO_KL = "*[!l],*/equal"
KINDS_OF_RETAIN = {"ce": "NLL", "kl": "KL", "none": "NLL"}


def open_trainer(kind, fakes, retain="ce", **attributes):
    """A trainer of open-unlearning; retain `none` has weight 0."""
    return fakes.trainer(
        kind,
        ref_model=fakes.teacher,
        retain_loss_type=KINDS_OF_RETAIN.get(retain, retain),
        **{"gamma": 1.0, "alpha": 0.0 if retain == "none" else 1.0, **attributes},
    )


@row(OPEN, "trainer.unlearn.grad_ascent", "GradAscent.compute_loss", "grad_ascent")
def open_grad_ascent(theirs, fakes, options):
    """open-unlearning's GradAscent."""
    return open_trainer(theirs.GradAscent, fakes).compute_loss(fakes.student, fakes.inputs)


@row(OPEN, "trainer.unlearn.grad_diff", "GradDiff.compute_loss", "grad_diff")
def open_grad_diff(theirs, fakes, options):
    """open-unlearning's GradDiff."""
    trainer = open_trainer(theirs.GradDiff, fakes, options["retain"])
    return trainer.compute_loss(fakes.student, fakes.inputs)


@row(OPEN, "trainer.unlearn.grad_diff", "GradDiff.compute_loss", "kl")
def open_kl(theirs, fakes, options):
    """open-unlearning's GradDiff with retain_loss_type KL."""
    return open_trainer(theirs.GradDiff, fakes, "kl").compute_loss(fakes.student, fakes.inputs)


@row(OPEN, "trainer.unlearn.npo", "NPO.compute_loss", "npo")
def open_npo(theirs, fakes, options):
    """open-unlearning's NPO."""
    trainer = open_trainer(theirs.NPO, fakes, options["retain"], beta=options["beta"])
    return trainer.compute_loss(fakes.student, fakes.inputs)


@row(OPEN, "trainer.unlearn.dpo", "DPO.compute_loss", "dpo")
def open_dpo(theirs, fakes, options):
    """open-unlearning's DPO, without its retain term."""
    inputs = {
        "forget": {"original": fakes.inputs["forget"], "alternate": fakes.inputs["idk"]},
        "retain": fakes.inputs["retain"],
    }
    trainer = open_trainer(theirs.DPO, fakes, "none", beta=options["beta"])
    return trainer.compute_loss(fakes.student, inputs)


@row(OPEN, "trainer.unlearn.simnpo", "SimNPO.compute_loss", "simnpo")
def open_simnpo(theirs, fakes, options):
    """open-unlearning's SimNPO."""
    names = {name: options[name] for name in ("beta", "delta", "gamma", "alpha")}
    trainer = open_trainer(theirs.SimNPO, fakes, options["retain"], **names)
    return trainer.compute_loss(fakes.student, fakes.inputs)


def with_100_entries_more(batches):
    """The batches with 100 more entries in the vocabulary, of probability 0.

    The label -100 is then the first of them. In a vocabulary below 100 it is an IndexError.
    """
    changed = {}
    for name, batch in batches.items():
        changed[name] = dict(batch)
        for key in ("logits", "teacher_logits"):
            changed[name][key] = torch.nn.functional.pad(batch[key], (0, 100), value=-1e9)
    return changed


@row(
    OPEN,
    "trainer.unlearn.undial",
    "UNDIAL.compute_loss",
    "undial",
    change=with_100_entries_more,
    note="with 100 more vocabulary entries, of probability 0",
)
def open_undial(theirs, fakes, options):
    """open-unlearning's UNDIAL."""
    names = {name: options[name] for name in ("beta", "gamma", "alpha")}
    trainer = open_trainer(theirs.UNDIAL, fakes, options["retain"], **names)
    return trainer.compute_loss(fakes.student, fakes.inputs)


@row(OPEN, "trainer.unlearn.wga", "WGA.compute_loss", "wga")
def open_wga(theirs, fakes, options):
    """open-unlearning's WGA."""
    names = {name: options[name] for name in ("beta", "gamma", "alpha")}
    trainer = open_trainer(theirs.WGA, fakes, options["retain"], **names)
    return trainer.compute_loss(fakes.student, fakes.inputs)


@row(OPEN, "trainer.unlearn.satimp", "SatImp.compute_loss", "satimp")
def open_satimp(theirs, fakes, options):
    """open-unlearning's SatImp."""
    names = {name: options[name] for name in ("beta1", "beta2", "gamma", "alpha")}
    trainer = open_trainer(theirs.SatImp, fakes, options["retain"], **names)
    return trainer.compute_loss(fakes.student, fakes.inputs)


@row(OPEN, "trainer.unlearn.ceu", "CEU.compute_loss", "ceu")
def open_ceu(theirs, fakes, options):
    """open-unlearning's CE-U."""
    trainer = fakes.trainer(theirs.CEU, ignore_first_n_answer_tokens=options["skip"])
    return trainer.compute_loss(fakes.student, fakes.inputs)


@row(OPEN, "trainer.unlearn.rmu", "RMU.compute_loss", "rmu")
def open_rmu(theirs, fakes, options):
    """open-unlearning's RMU."""
    trainer = open_trainer(theirs.RMU, fakes, "EMBED_DIFF", alpha=options["alpha"])
    trainer.control_vec = options["c"] * fakes.batches["forget"]["control"][None]
    trainer.model_module = fakes.student.model.layers[7]
    trainer.ref_module = fakes.teacher.model.layers[7]
    return trainer.compute_loss(fakes.student, fakes.inputs)


TOFU_LOSSES = {
    "grad_ascent": ("forget", "retain"),
    "grad_diff": ("forget", "retain"),
    "KL": ("forget", "retain"),
    "idk": ("idk", "retain"),
    "dpo": ("idk", "forget", "retain"),
    "npo": ("forget", "retain"),
    "npo_grad_diff": ("forget", "retain"),
    "npo_KL": ("forget", "retain"),
    "simnpo_grad_diff": ("forget", "retain"),
}


def tofu(theirs, fakes, loss_type, beta=0.1, **weights):
    """The loss of a TOFU trainer, which takes (input_ids, labels, attention_mask)."""
    inputs = []
    for name in TOFU_LOSSES[loss_type]:
        batch = fakes.inputs[name]
        inputs.append((batch["input_ids"], batch["labels"], batch["attention_mask"]))
    trainer = fakes.trainer(
        theirs.CustomTrainerForgetting,
        loss_type=loss_type,
        oracle_model=fakes.teacher,
        ref_policy="fine_tuned",
        beta=beta,
        **{"gamma": 0.0, "npo_coeff": 1.0, "grad_diff_coeff": 1.0, "KL_coeff": 1.0, **weights},
    )
    return trainer.compute_loss(fakes.student, inputs)


NPO_TYPES = {"none": "npo", "ce": "npo_grad_diff", "kl": "npo_KL"}
GRAD_DIFF_TYPES = {"ce": "grad_diff", "kl": "KL"}


def tofu_rows(its_project):
    """The adapters of a repository with TOFU's trainer: {name: conform's f}."""
    place = (its_project, "dataloader", "CustomTrainerForgetting.compute_loss")

    @row(*place, "grad_ascent")
    def grad_ascent(theirs, fakes, options):
        return tofu(theirs, fakes, "grad_ascent")

    @row(*place, "grad_diff")
    def grad_diff(theirs, fakes, options):
        return tofu(theirs, fakes, GRAD_DIFF_TYPES[options["retain"]])

    @row(*place, "kl")
    def kl(theirs, fakes, options):
        return tofu(theirs, fakes, "KL")

    @row(*place, "idk", padded=True, all_batches=False)
    def idk(theirs, fakes, options):
        return tofu(theirs, fakes, "idk")

    @row(*place, "dpo")
    def dpo(theirs, fakes, options):
        return tofu(theirs, fakes, "dpo", options["beta"])

    @row(*place, "npo")
    def npo(theirs, fakes, options):
        return tofu(theirs, fakes, NPO_TYPES[options["retain"]], options["beta"])

    return {
        "grad_ascent": grad_ascent,
        "grad_diff": grad_diff,
        "kl": kl,
        "idk": idk,
        "dpo": dpo,
        "npo": npo,
    }


globals().update({f"npo_repository_{name}": f for name, f in tofu_rows(NPO).items()})
globals().update({f"unlearn_simple_{name}": f for name, f in tofu_rows(SIMPLE_TOFU).items()})


@row(SIMPLE_TOFU, "dataloader", "CustomTrainerForgetting.compute_loss", "simnpo", only=NO_KL)
def unlearn_simple_simnpo(theirs, fakes, options):
    """Unlearn-Simple's SimNPO; npo_coeff and grad_diff_coeff weigh its terms."""
    names = {"gamma": options["delta"], "npo_coeff": options["gamma"]}
    return tofu(
        theirs,
        fakes,
        "simnpo_grad_diff",
        options["beta"],
        grad_diff_coeff=options["alpha"],
        **names,
    )


def wmdp(kind, fakes, **attributes):
    """The loss of a trainer of Unlearn-Simple/WMDP, which takes (ids, mask, labels)."""
    inputs = {}
    for name, batch in fakes.inputs.items():
        inputs[name] = (batch["input_ids"], batch["attention_mask"], batch["labels"])
    trainer = fakes.trainer(kind, infer_model=fakes.teacher, **attributes)
    return trainer.compute_loss(fakes.student, inputs)


@row(SIMPLE_WMDP, "unlearn.FT", "FT.compute_loss", "retain_ft")
def wmdp_ft(theirs, fakes, options):
    """Unlearn-Simple/WMDP's FT."""
    return wmdp(theirs.FT, fakes)


@row(SIMPLE_WMDP, "unlearn.GA", "GA.compute_loss", "grad_ascent")
def wmdp_ga(theirs, fakes, options):
    """Unlearn-Simple/WMDP's GA."""
    return wmdp(theirs.GA, fakes)


@row(SIMPLE_WMDP, "unlearn.GA", "GA_FT.compute_loss", "grad_diff", semantics="paper", only="*[!y]")
def wmdp_ga_ft(theirs, fakes, options):
    """Unlearn-Simple/WMDP's GA_FT."""
    return wmdp(theirs.GA_FT, fakes, gamma=options["lambda_retain"])


@row(SIMPLE_WMDP, "unlearn.GA", "NPO_FT.compute_loss", "npo", only=NO_KL)
def wmdp_npo_ft(theirs, fakes, options):
    """Unlearn-Simple/WMDP's NPO_FT; gamma weights its retain term."""
    return wmdp(theirs.NPO_FT, fakes, beta=options["beta"], gamma=float(options["retain"] == "ce"))


@row(SIMPLE_WMDP, "unlearn.GA", "SimNPO_FT.compute_loss", "npo", only=NO_KL)
def wmdp_simnpo_ft(theirs, fakes, options):
    """Unlearn-Simple/WMDP's SimNPO_FT."""
    return wmdp(
        theirs.SimNPO_FT, fakes, beta=options["beta"], gamma=float(options["retain"] == "ce")
    )


def muse(theirs, fakes, loss_type, beta=0.1):
    """The loss of MUSE's IterativeUnlearner."""
    trainer = fakes.trainer(
        theirs.IterativeUnlearner,
        loss_type=loss_type,
        ref_model=fakes.teacher,
        beta=beta,
        coeff=1.0,
        npo_coeff=1.0,
        gamma=0.0,
    )
    return trainer.compute_loss(fakes.student, (fakes.inputs["forget"], fakes.inputs["retain"]))


MUSE_NPO_TYPES = {"none": "npo", "ce": "npo_gdr", "kl": "npo_klr"}
MUSE_DIFF_TYPES = {"ce": "ga_gdr", "kl": "ga_klr"}


def muse_rows(its_project):
    """The adapters of a repository with MUSE's trainer: {name: conform's f}."""
    place = (its_project, "baselines.iterative", "IterativeUnlearner.compute_loss")

    @row(*place, "grad_ascent")
    def grad_ascent(theirs, fakes, options):
        return muse(theirs, fakes, "ga")

    @row(*place, "grad_diff", only=NO_KL)
    def grad_diff(theirs, fakes, options):
        return muse(theirs, fakes, MUSE_DIFF_TYPES[options["retain"]])

    @row(*place, "kl")
    def kl(theirs, fakes, options):
        return muse(theirs, fakes, "ga_klr")

    @row(*place, "npo")
    def npo(theirs, fakes, options):
        return muse(theirs, fakes, MUSE_NPO_TYPES[options["retain"]], options["beta"])

    return {"grad_ascent": grad_ascent, "grad_diff": grad_diff, "kl": kl, "npo": npo}


globals().update({f"muse_bench_{name}": f for name, f in muse_rows(MUSE).items()})
globals().update({f"unlearn_simple_muse_{name}": f for name, f in muse_rows(SIMPLE_MUSE).items()})
