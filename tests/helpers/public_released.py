"""Adapters for the code that the authors of CLEAR released: see who_passes.py."""

import torch

from .public_code import row
from .public_trainers import project

RELEASED = project("multimodal_unlearning", "somvy/multimodal_unlearning", "bb14c96")
RELEASED_NLP = project("multimodal_unlearning", "somvy/multimodal_unlearning", "bb14c96", "", "nlp")


def released(theirs, fakes, loss_type, beta=1.0, **attributes):
    """The loss of the trainer that the authors of CLEAR released; their default beta is 1."""
    attributes.setdefault("loss_args", {})
    trainer = fakes.trainer(
        theirs.MMTrainerForgetting,
        teacher_model=fakes.teacher,
        loss_type=loss_type,
        loss_beta=beta,
        l1_lambda=0,
        l0_lambda=0,
        **attributes,
    )
    return trainer.compute_loss(fakes.student, fakes.inputs)


def released_rows():
    """The adapters of the authors' trainer for the methods that need nothing but beta."""
    found = {}

    def add(name):
        @row(RELEASED, "mm.trainer", "MMTrainerForgetting.compute_loss", name, semantics="released")
        def adapter(theirs, fakes, options):
            return released(theirs, fakes, name, options.get("beta", 1.0))

        found[f"released_{name}"] = adapter

    for name in ("retain_ft", "grad_ascent", "kl", "idk", "dpo", "npo", "scrub", "llmu"):
        add(name)
    return found


globals().update(released_rows())


@row(RELEASED, "mm.trainer", "MMTrainerForgetting.compute_loss", "grad_diff", semantics="released")
def released_grad_diff(theirs, fakes, options):
    """The authors' grad_diff."""
    name = f"grad_diff_forget_{options['forget']}_retain_{options['retain']}"
    return released(theirs, fakes, name, options["beta"])


@row(RELEASED, "mm.trainer", "MMTrainerForgetting.compute_loss", "rmu", semantics="released")
def released_rmu(theirs, fakes, options):
    """The authors' RMU, with the control vectors of the case."""
    control = options["c"] * fakes.batches["forget"]["control"][:, None]
    return released(theirs, fakes, "rmu", options["beta"], control_vec=control)


@row(
    RELEASED,
    "mm.trainer",
    "MMTrainerForgetting.compute_loss",
    "sku",
    semantics="released",
    padded=True,
)
def released_sku(theirs, fakes, options):
    """The authors' SKU, whose random batches are one tensor [B, K, T]."""
    random = [fakes.inputs.pop(f"random{k}") for k in range(1, options["n_random"] + 1)]
    fakes.inputs["random"] = {
        key: torch.stack([batch[key] for batch in random], 1) for key in random[0]
    }
    names = {"bad": "w_forget", "random": "w_random", "normal": "w_retain"}
    weights = {f"{theirs_name}_weight": options[ours] for theirs_name, ours in names.items()}
    return released(theirs, fakes, "sku", loss_args=weights)


def released_nlp_rows():
    """The adapters of the authors' text-only trainer; its batches come as their loader gives them.

    For dpo and LLMU that is (idk, forget, retain), which compute_loss takes for (forget, retain,
    idk). dpo needs as many retain sequences as idk sequences.
    """
    found = {}

    def add(name, loss_type, names, **how):
        place = (RELEASED_NLP, "nlp.dataloader", "CustomTrainerForgetting.compute_loss", name)

        @row(*place, semantics="released@nlp", **how)
        def adapter(theirs, fakes, options):
            batches = [tuple(fakes.inputs[name].values()) for name in names]
            trainer = fakes.trainer(
                theirs.CustomTrainerForgetting,
                loss_type=loss_type,
                oracle_model=fakes.teacher,
                loss_beta=options.get("beta", 1.0),
                l1_lambda=0,
                l0_lambda=0,
            )
            inputs = [(ids, labels, mask) for ids, mask, labels in batches]
            return trainer.compute_loss(fakes.student, inputs)

        found[f"released_nlp_{name}"] = adapter

    add("idk", "idk", ("idk", "retain"), padded=True, all_batches=False)
    add("dpo", "dpo", ("idk", "forget", "retain"), only="*/[scuen]*,*/large")
    add("npo", "npo", ("forget", "retain"))
    add("llmu", "LLMU", ("idk", "forget", "retain"))
    return found


globals().update(released_nlp_rows())
