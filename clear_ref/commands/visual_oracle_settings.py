"""Settings of `visual-oracle`, and what its conform and diff ask for."""

from dataclasses import dataclass

from clear_ref.common.settings import setting

ACTIONS = ("certify", "vectors", "conform", "diff")
VISUAL_VECTORS = "visual_vectors"  # directory that `visual-oracle vectors` writes
CONTRACT = """conform: f(method, given, options) -> loss, or (loss, {leaf: d loss / d leaf})
  given    {"batches": {name: {array name: array}}, "weight" and "base_weight" [K, D], the class
           weights of the network and of the base, "parameters": [arrays], "done": share of the
           epochs that are over}
           batches: retain, forget, or pool (both, told apart by forget); each has embeddings and
           targets [B, D], labels, random and forget [B]
  options  every option of the semantics asked for, and "semantics", their name
  leaf     the name of a batch (its embeddings), weight, parameter0, parameter1, ...
Arrays are tensors by default, numpy arrays with f.framework = "numpy" or --framework numpy. A loss
with a grad_fn is differentiated; without a gradient only the loss is judged.

diff: a safetensors file of one step of your training: loss; BATCH/embeddings and BATCH/targets
  [B, D] (targets: the base's embeddings, or what the method has in their place), BATCH/labels,
  BATCH/random and, of pool, BATCH/forget [B]; weight and base_weight [K, D]; parameter/NAME; done;
  gradient/BATCH (of the embeddings) and gradient/weight if they are to be compared. What the method
  does not read may be missing. The loss is compared with every semantics and known mistake."""


@dataclass(frozen=True)
class VisualOracleSettings:
    """Options of `visual-oracle`."""

    out: str = setting("", f"vectors: directory to write; without it {VISUAL_VECTORS}")
    loss: str = setting(
        "", "conform: the function, as module:function; the working directory is searched too"
    )
    methods: str = setting(
        "",
        "conform: methods to test, with commas; without it all eight. diff: the method of the dump",
    )
    semantics: str = setting(
        "paper",
        "conform: semantics to test, with commas: paper, released, original. diff: the one that "
        "the loss should be",
    )
    dump: str = setting("", "diff: the safetensors file of one step")
    dtype: str = setting(
        "float64", "conform: dtype of the arrays given", choices=("float64", "float32")
    )
    framework: str = setting(
        "", "conform: torch or numpy; without it the function's attribute `framework`, or torch"
    )
