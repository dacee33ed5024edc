"""Adapters for packages of PyPI: see who_passes.py."""

import torch

from .public_code import Project, row
from .public_trainers import NO_KL

ERASUS = Project("erasus", "", "0.2.0", absent=("tqdm",))
FORGETIUM = Project("forgetium", "", "0.2.1", absent=("datasets", "rouge_score", "sklearn"))
LIGER = Project("liger-kernel", "", "0.8.5", absent=("triton",))


def unlearner(kind, fakes, **attributes):
    """An unlearner of forgetium, whose prepare() copies the model."""
    made = fakes.trainer(kind, **attributes)
    made.prepare()
    return made.compute_loss(fakes.inputs["forget"], fakes.inputs["retain"])[0]


@row(FORGETIUM, "forgetium.methods.gradient_ascent", "GradientAscentUnlearner", "grad_ascent")
def forgetium_ga(theirs, fakes, options):
    """forgetium's gradient ascent."""
    return unlearner(theirs.GradientAscentUnlearner, fakes)


@row(
    FORGETIUM,
    "forgetium.methods.gradient_difference",
    "GradientDifferenceUnlearner",
    "grad_diff",
    semantics="paper",
    only="grad_diff/paper/plain,grad_diff/paper/[!p]*,*lambda_retain*",
)
def forgetium_graddiff(theirs, fakes, options):
    """forgetium's gradient difference."""
    weight = options["lambda_retain"]
    return unlearner(theirs.GradientDifferenceUnlearner, fakes, retain_weight=weight)


@row(FORGETIUM, "forgetium.methods.kl_minimization", "KLMinimizationUnlearner", "kl")
def forgetium_kl(theirs, fakes, options):
    """forgetium's KL minimisation."""
    return unlearner(theirs.KLMinimizationUnlearner, fakes, kl_weight=1.0)


@row(FORGETIUM, "forgetium.methods.npo", "NPOUnlearner", "npo", only=NO_KL)
def forgetium_npo(theirs, fakes, options):
    """forgetium's NPO."""
    weight = float(options["retain"] == "ce")
    names = {"beta": options["beta"], "retain_weight": weight}
    return unlearner(theirs.NPOUnlearner, fakes, **names)


@row(
    FORGETIUM,
    "forgetium.methods.preference_optimization",
    "PreferenceOptimizationUnlearner",
    "idk",
    semantics="paper",
)
def forgetium_idk(theirs, fakes, options):
    """forgetium's preference optimisation, without prepare(), which makes a collator."""
    made = fakes.trainer(theirs.PreferenceOptimizationUnlearner, retain_weight=1.0)
    return made.compute_loss(fakes.inputs["idk"], fakes.inputs["retain"])[0]


def strategy(made, fakes, forget, retain=None):
    """(loss, gradients) of an erasus strategy, which calls backward itself."""
    losses = made.unlearn(fakes.student, forget, retain, epochs=1)[1:]
    return sum(losses[0]) + sum(losses[1]), fakes.gradients()


def pair(fakes, name):
    """(input_ids, labels), as erasus's loaders give them."""
    return fakes.inputs[name]["input_ids"], fakes.inputs[name]["labels"]


@row(
    ERASUS,
    "erasus.strategies.gradient_methods.gradient_ascent",
    "GradientAscentStrategy.unlearn",
    "grad_ascent",
)
def erasus_ga(theirs, fakes, options):
    """erasus's gradient ascent; it counts the loss before its sign."""
    loss, gradients = strategy(theirs.GradientAscentStrategy(), fakes, [pair(fakes, "forget")])
    return -loss, gradients


@row(
    ERASUS,
    "erasus.strategies.llm_specific.npo",
    "NPOStrategy.unlearn",
    "npo",
    note="for labels [B, T]",
)
def erasus_npo(theirs, fakes, options):
    """erasus's NPO for labels of tokens."""
    made = theirs.NPOStrategy(beta=options["beta"])
    return strategy(made, fakes, [pair(fakes, "forget")])


@row(
    ERASUS,
    "erasus.strategies.llm_specific.npo",
    "NPOStrategy.dpo_style_loss",
    "npo",
    note="on answer rows",
)
def erasus_npo_rows(theirs, fakes, options):
    """erasus's dpo_style_loss, for labels [n], on the answer rows."""
    batch = fakes.inputs["forget"]
    labels = batch["labels"][:, 1:].flatten()
    rows = labels >= 0
    student, teacher = (
        model(**batch).logits[:, :-1].flatten(0, 1)[rows].log_softmax(-1)
        for model in (fakes.student, fakes.teacher)
    )
    made = theirs.NPOStrategy(beta=options["beta"])
    return made.dpo_style_loss(student, teacher, labels[rows])


@row(ERASUS, "erasus.strategies.llm_specific.simnpo", "SimNPOStrategy.unlearn", "simnpo")
def erasus_simnpo(theirs, fakes, options):
    """erasus's SimNPO; it reads no retain batch."""
    made = theirs.SimNPOStrategy(beta=options["beta"])
    return strategy(made, fakes, [pair(fakes, "forget")])


@row(
    ERASUS,
    "erasus.strategies.llm_specific.undial",
    "UNDIALStrategy.unlearn",
    "undial",
    note="without retain data",
)
def erasus_undial(theirs, fakes, options):
    """erasus's UNDIAL at its default temperature, 3; it copies the model for the teacher."""
    return strategy(theirs.UNDIALStrategy(), fakes, [pair(fakes, "forget")])


@row(ERASUS, "erasus.strategies.gradient_methods.scrub", "SCRUBStrategy.unlearn", "scrub")
def erasus_scrub(theirs, fakes, options):
    """erasus's SCRUB; it reads no forget batch."""
    return strategy(theirs.SCRUBStrategy(), fakes, [], [pair(fakes, "retain")])


@row(LIGER, "liger_kernel.chunked_loss.dpo_loss", "LigerFusedLinearDPOLoss", "dpo", padded=True)
def liger_dpo(theirs, fakes, options):
    """liger's fused DPO, with the logits as hidden states and the unit matrix as head."""
    pairs = [fakes.inputs["idk"], fakes.inputs["forget"]]
    labels = torch.cat([batch["labels"][:, 1:] for batch in pairs])
    student, teacher = (
        torch.cat([model(**batch).logits[:, :-1] for batch in pairs])
        for model in (fakes.student, fakes.teacher)
    )
    head = torch.eye(student.shape[2], dtype=student.dtype)
    made = theirs.LigerFusedLinearDPOLoss(beta=options["beta"], compiled=False)
    return made(head, student, labels, None, teacher, head)[0]


def liger_jsd(theirs, fakes, beta):
    """-nll of forget + liger's fused JSD of retain, on rows."""
    batch = fakes.inputs["retain"]
    labels = batch["labels"][:, 1:].flatten()
    student, teacher = (
        model(**batch).logits[:, :-1].flatten(0, 1) for model in (fakes.student, fakes.teacher)
    )
    head = torch.eye(student.shape[1], dtype=student.dtype)
    made = theirs.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, compiled=False
    )
    jsd = made(student, head, teacher, head, labels)
    return -fakes.student(**fakes.inputs["forget"]).loss + jsd


@row(LIGER, "liger_kernel.chunked_loss.jsd_loss", "LigerFusedLinearJSDLoss", "kl", note="at beta 0")
def liger_jsd_beta_0(theirs, fakes, options):
    """liger's JSD at beta 0: KL(teacher || student)."""
    return liger_jsd(theirs, fakes, 0.0)


@row(
    LIGER,
    "liger_kernel.chunked_loss.jsd_loss",
    "LigerFusedLinearJSDLoss",
    "kl",
    semantics="paper",
    note="at beta 1",
)
def liger_jsd_beta_1(theirs, fakes, options):
    """liger's JSD at beta 1: KL(student || teacher)."""
    return liger_jsd(theirs, fakes, 1.0)
