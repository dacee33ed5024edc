"""RMU: move the forget hidden states to one random direction, keep the retain hidden states.

paper      L = mean_s mean_t ||h_forget - c u||^2 + alpha mean_s mean_t ||h_retain - h_teacher||^2
           h [D] one decoder layer's output, ||.||^2 the sum of squares over D;
           u = v / ||v||, v ~ U[0,1)^D, fixed                                            [App. B.10]
released   L = beta mean_{b,j,D} (mean_T h_forget[b] - v_j)^2
             + mean_{rows,D} (h_retain - h_teacher)^2       [CLEAR mm/trainer.py:302-326 at bb14c96]
           v_1 .. v_B = 300 v' / ||v'||, v' ~ U[0,1)^(B D), one norm; fixed; B of the first batch
released@2024-12-10  L = beta mean_{rows,D} (h_forget - c u)^2
             + mean_{rows,D} (h_retain - h_teacher)^2, c = 300, a new u for each batch
                                                            [CLEAR mm/trainer.py:301-336 at dcc7070]
released@nlp  as released@2024-12-10                    [CLEAR nlp/dataloader.py:339-367 at bb14c96]
original   L = mean_{rows,D} (h_forget - c u)^2 + alpha mean_{rows,D} (h_retain - h_teacher)^2,
           c = 20, alpha = 100; trained are the down projections of layers l-2 .. l alone
                                                        [WMDP rmu/unlearn.py:55-91 at c170e87]

needs      hidden states of forget; of retain also the teacher's (loop/teacher.py:Teacher): the
           model before unlearning, adapters off or a frozen copy. No logits
positions  paper: every real token, prompt and image included (row set attention): mean over the
           tokens of each sequence, then over sequences; squares are summed over D. mean_{rows,D}:
           all B x T rows, padding included, and D, divided by B T D. mean_{b,j,D}: all pairs of a
           sequence b and a vector j, and D; mean_T over all its T rows, padding included.
           Label mask: answer (Qwen2-VL and 2.5 under released: released); no label is read
resolved   R1 layer 7, counted from 0; smaller models need another. R2 c: 300, as released.
           R3 alpha is in the text, not in the formula: 1, on retain. R4 one u, fixed by the seed.
deviations D1 the tokens' mean activation is compared, not that of each token.
           D2 B control vectors, each of norm about 300 / sqrt(B): [B,D] against [B,1,D] compares
              every sample with every vector, except for B = 1. The first batch fixes B.
           D3 the mean runs over padding too. D4 squares are averaged over D. D5 beta weighs forget.
           D6 the code cannot start on stock LLaVA or Qwen2-VL, which have no config.hidden_size and
              language_model.model; before 2025-03-30 its hook crashes too. Here it runs.
           D7 each batch of batch_size records has its own mean; a step takes the mean of these.
at teacher retain term and gradient are 0. released: each mean activation moves to the mean of v_j
evidence   by hand, finite differences; released: authors' code; original: WMDP's code. On equal
           lengths with every position labelled also open-unlearning's, else rmu_open_unlearning
"""

from dataclasses import dataclass, replace

from clear_ref import losses
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import mean_over_sequences, sequence_mean, token_mean

from .loss import Loss
from .option_checks import check_at_least, check_finite
from .variant import Batches, Need, Variant

TRAINER = "CLEAR mm/trainer.py:302-326 at bb14c96"


@dataclass(frozen=True)
class Steering:
    layer: int = setting(7, "decoder layer, 0-based, whose output is steered", "paper App. B.10")
    c: float = setting(300.0, "length of the target vector", TRAINER)
    seed: int = setting(0, "fixes the random directions")

    def __post_init__(self) -> None:
        check_finite(self, *[name for name in ("c", "alpha", "beta") if hasattr(self, name)])
        check_at_least(self, "layer", 0)


@dataclass(frozen=True)
class Options(Steering):
    alpha: float = setting(1.0, "weight of the retain term", "paper App. B.10, in the text alone")


@dataclass(frozen=True)
class Original(Steering):
    c: float = setting(20.0, "length of the target vector", "WMDP (--steering_coeffs)")
    alpha: float = setting(100.0, "weight of the retain term", "WMDP (--alpha)")


@dataclass(frozen=True)
class Released(Steering):
    beta: float = setting(1.0, "forget term's weight", "CLEAR config/mm/forget.yaml at bb14c96")


@dataclass(frozen=True)
class ReleasedHead(Released):
    n_vectors: int = setting(0, "control vectors; 0: one per record of the first batch", TRAINER)


def paper(batches: Batches, options: Options) -> Loss:
    forget = batches["forget"]
    retain = batches["retain"]
    target = options.c * losses.control_vector(options.seed, forget.hidden_states().shape[2])
    from_target = losses.squared_differences(forget, target, "attention").sum(1)
    of_teacher = retain.teacher_hidden_states()
    from_teacher = losses.squared_differences(retain, of_teacher, "attention").sum(1)
    return Loss.of(
        forget_distance=sequence_mean(forget, from_target, "attention"),
        retain_distance=options.alpha * sequence_mean(retain, from_teacher, "attention"),
    )


def original(batches: Batches, options: Original) -> Loss:
    forget = batches["forget"]
    target = options.c * losses.control_vector(options.seed, forget.hidden_states().shape[2])
    from_target = losses.squared_differences(forget, target, "all").mean(1)
    return Loss.of(
        forget_distance=token_mean(forget, from_target, "all"),
        retain_distance=options.alpha * losses.mean_squared_change(batches["retain"]),
    )


def released(batches: Batches, options: ReleasedHead) -> Loss:
    hidden = batches["forget"].hidden_states()
    means = hidden.to(losses.accumulation_dtype(hidden)).mean(1)
    vectors = losses.control_vectors(options.seed, options.n_vectors or len(means), means.shape[1])
    pairs = (means[:, None] - (options.c * vectors).to(means)[None]).square().mean((1, 2))
    return Loss.of(
        forget_distance=options.beta * mean_over_sequences(pairs, batches["forget"]),
        retain_distance=losses.mean_squared_change(batches["retain"]),
    )


def released_before(batches: Batches, options: Released) -> Loss:
    """Before 2025-03-30, and nlp/: another direction for each batch, every token."""
    forget = batches["forget"]
    purpose = "/".join(["rmu control vector", *map(str, forget.key)])
    direction = losses.control_vectors(options.seed, 1, forget.hidden_states().shape[2], purpose)[0]
    from_target = losses.squared_differences(forget, options.c * direction, "all").mean(1)
    return Loss.of(
        forget_distance=options.beta * token_mean(forget, from_target, "all"),
        retain_distance=losses.mean_squared_change(batches["retain"]),
    )


def _down_projections(options: Original) -> list[str]:
    first = max(0, options.layer - 2)
    return [f"layers.{layer}.mlp.down_proj" for layer in range(first, options.layer + 1)]


def needs(row_set: str) -> dict[str, Need]:
    hidden = Need(rows=(row_set,), hidden=True)
    return {"forget": hidden, "retain": replace(hidden, teacher=True)}


VARIANTS = {
    "paper": Variant(paper, needs("attention"), Options),
    "released": Variant.released(
        released,
        needs("all"),
        ReleasedHead,
        prepare_options=lambda options, n: replace(options, n_vectors=options.n_vectors or n),
    ),
    "released@2024-12-10": Variant.released(released_before, needs("all"), Released),
    **Variant.released_nlp(released_before, needs("all"), Released),
    "original": Variant(original, needs("all"), Original, by_batch=True, targets=_down_projections),
}
