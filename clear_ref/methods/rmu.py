"""RMU: drive the forget records' hidden states to one random direction, keep the retain records' where they were.

paper      L = mean_s mean_t ||h_forget - c u||^2 + alpha mean_s mean_t ||h_retain - h_teacher||^2           [App. B.10]
           h [D] one decoder layer's output, ||.||^2 the sum of squares over D; u = v / ||v||, v ~ U[0,1)^D, fixed
released   L = beta mean_{b,j,D} (mean_T h_forget[b] - v_j)^2 + mean_{rows,D} (h_retain - h_teacher)^2  [mm/trainer.py:302-326]
           v_1 .. v_B = 300 v' / ||v'||, v' ~ U[0,1) of B x D numbers, the norm that of all; fixed; B that of the first batch
released@2024-12-10  L = beta mean_{rows,D} (h_forget - c u)^2 + mean_{rows,D} (h_retain - h_teacher)^2, c = 300,
           a new u for each batch                                                           [mm/trainer.py:301-336 at dcc7070]
original   L = mean_{rows,D} (h_forget - c u)^2 + alpha mean_{rows,D} (h_retain - h_teacher)^2,  c = 20, alpha = 100;
           trained are the down projections of layers l-2 .. l alone                                  [WMDP, rmu/unlearn.py]

needs      hidden states of forget; of retain also the teacher's (the model before unlearning); no logits
positions  paper: every real token, prompt and image included (row set attention): mean over the tokens of each sequence, then
           over sequences; squares are summed over D. mean_{rows,D}: all B x T rows, padding included, and D, divided by B T D.
           mean_{b,j,D}: all pairs of a sequence b and a vector j, and D; mean_T over all its T rows, padding included
resolved   R1 layer 7, 0-based: the output of decoder layer 7 of 0, 1, ...; smaller models need another.
           R2 c is not given: 300, the released value. R3 alpha is named in the text and absent from the formula: 1, on retain.
           R4 one u for the whole run, a function of the seed alone.
deviations D1 the tokens' mean activation is compared, not each token's.
           D2 B control vectors, each of norm about 300 / sqrt(B), and broadcasting [B,D] against [B,1,D] compares every
              sample with every vector; only B = 1 is clean. The first batch fixes B.
           D3 the mean runs over padding too. D4 squares are averaged over D. D5 the weight, beta, is on forget.
           D6 it cannot start on stock LLaVA or on Qwen2-VL: it reads config.hidden_size and language_model.model, which they
              lack; before 2025-03-30 its hook crashes as well. Here it runs. D7 mean of batches: idk.py's D4.
at teacher the retain term and its gradient are 0. released: each mean activation is drawn to the mean of the v_j
evidence   by hand, finite differences; released, released@2024-12-10: authors' code; original: open-unlearning's code
"""

from dataclasses import replace

from clear_ref.losses.formulas import accumulation_dtype
from clear_ref.losses.hidden_states import control_vector, control_vectors, squared_differences
from clear_ref.losses.hidden_states import mean_squared_change as moved
from clear_ref.losses.reductions import mean_over_sequences, sequence_mean, token_mean

from .loss import Loss
from .rmu_options import Options, Original, Released, ReleasedHead
from .variant import Need, Variant


def paper(batches, options) -> Loss:
    forget, retain = batches["forget"], batches["retain"]
    target = options.c * control_vector(options.seed, forget.hidden_states().shape[2])
    return Loss.of(
        forget_distance=sequence_mean(
            forget, squared_differences(forget, target, "attention").sum(1), "attention"
        ),
        retain_distance=options.alpha
        * sequence_mean(
            retain,
            squared_differences(retain, retain.teacher_hidden_states(), "attention").sum(1),
            "attention",
        ),
    )


def original(batches, options) -> Loss:
    forget, retain = batches["forget"], batches["retain"]
    target = options.c * control_vector(options.seed, forget.hidden_states().shape[2])
    return Loss.of(
        forget_distance=token_mean(
            forget, squared_differences(forget, target, "all").mean(1), "all"
        ),
        retain_distance=options.alpha * moved(retain),
    )


def released(batches, options) -> Loss:
    forget = batches["forget"]
    hidden = forget.hidden_states()
    h = hidden.to(accumulation_dtype(hidden)).mean(1)
    n = options.n_vectors or len(h)
    v = (options.c * control_vectors(options.seed, n, h.shape[1])).to(h)
    pairs = (h[:, None] - v[None]).square().mean((1, 2))
    return Loss.of(
        forget_distance=options.beta * mean_over_sequences(pairs, forget),
        retain_distance=moved(batches["retain"]),
    )


def released_before(batches, options) -> Loss:
    """The released code before 2025-03-30: another direction for each batch, every token."""
    forget = batches["forget"]
    purpose = "/".join(["rmu control vector", *map(str, forget.key)])
    target = (
        options.c * control_vectors(options.seed, 1, forget.hidden_states().shape[2], purpose)[0]
    )
    return Loss.of(
        forget_distance=options.beta
        * token_mean(forget, squared_differences(forget, target, "all").mean(1), "all"),
        retain_distance=moved(batches["retain"]),
    )


def needs(row_set):
    return {
        "forget": Need(rows=(row_set,), hidden=True),
        "retain": Need(rows=(row_set,), teacher=True, hidden=True),
    }


def down_projections(options):
    """What the original trains: of layers l-2 .. l."""
    return [
        f"layers.{layer}.mlp.down_proj"
        for layer in range(max(0, options.layer - 2), options.layer + 1)
    ]


VARIANTS = {
    "paper": Variant(paper, needs("attention"), Options),
    "released": Variant.released(
        released,
        needs("all"),
        ReleasedHead,
        prepare_options=lambda options, n: replace(options, n_vectors=options.n_vectors or n),
    ),
    "released@2024-12-10": Variant.released(released_before, needs("all"), Released),
    "original": Variant(original, needs("all"), Original, by_batch=True, targets=down_projections),
}
