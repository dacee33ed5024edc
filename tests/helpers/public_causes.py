"""The causes that who_passes.py finds, each written out in NumPy for one case.

A function here takes {batch: {array name: array}} and the options of a case, and returns the loss.
It shares no line with the reference and the known mistakes.
"""

from pathlib import Path

import numpy as np

from clear_ref.oracle.vectors import case_inputs, vector_files
from clear_ref.oracle.vectors.conform_result import ConformResult
from clear_ref.oracle.vectors.hypotheses import WITHOUT_RETAIN

from .public_code import Row

GOLDEN = Path(__file__).parents[1] / "vectors" / "golden"


def log_p(z):
    """The log-softmax of the last axis."""
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softplus(x):
    """log(1 + e^x)."""
    return np.logaddexp(0, x)


def nlls(batch, tensor="logits"):
    """For each sequence, the nll of its answer tokens."""
    found = []
    for z, labels in zip(batch[tensor], batch["labels"], strict=True):
        places = [t for t in range(len(labels) - 1) if labels[t + 1] >= 0]
        found.append(np.array([-log_p(z[t])[labels[t + 1]] for t in places]))
    return found


def token_mean(batch, tensor="logits"):
    """The mean nll of a batch's answer tokens."""
    return np.concatenate(nlls(batch, tensor)).mean()


def sums(batch, tensor="logits"):
    """The nll of each whole answer."""
    return np.array([one.sum() for one in nlls(batch, tensor)])


def kl_rows(batch):
    """[B, T]: KL(teacher || student)."""
    student, teacher = log_p(batch["logits"]), log_p(batch["teacher_logits"])
    return (np.exp(teacher) * (teacher - student)).sum(-1)


def answer_rows(batch):
    """[B, T]: True where the next position has a label."""
    rows = np.zeros(batch["labels"].shape, bool)
    rows[:, :-1] = batch["labels"][:, 1:] >= 0
    return rows


def dpo_two_over_beta(batches, options):
    """2/beta mean softplus(-beta (idk's log-ratio - forget's log-ratio))."""
    ratio = {
        name: sums(batches[name], "teacher_logits") - sums(batches[name])
        for name in ("idk", "forget")
    }
    beta = options["beta"]
    return 2 / beta * softplus(-beta * (ratio["idk"] - ratio["forget"])).mean()


def npo_no_reference(batches, options):
    """2/beta mean over sequences of softplus(-beta mean nll of the answer)."""
    means = np.array([one.mean() for one in nlls(batches["forget"])])
    return 2 / options["beta"] * softplus(-options["beta"] * means).mean()


def npo_no_reference_batch_mean(batches, options):
    """2/beta softplus(-beta mean nll of all answer tokens of the batch)."""
    return 2 / options["beta"] * softplus(-options["beta"] * token_mean(batches["forget"]))


def npo_no_reference_unshifted(batches, options):
    """mean_b softplus(-beta mean nll), each label scored by the logits at its own place."""
    forget = batches["forget"]
    means = []
    for z, labels in zip(forget["logits"], forget["labels"], strict=True):
        places = np.flatnonzero(labels >= 0)
        means.append(log_p(z)[places, labels[places]].mean())
    return softplus(options["beta"] * np.array(means)).mean()


def undial_softened_teacher(batches, options):
    """The sum of every row's KL(softmax(z_teacher / 3) || student) / B of forget."""
    forget = batches["forget"]
    target = log_p(forget["teacher_logits"] / 3)
    kl = np.exp(target) * (target - log_p(forget["logits"]))
    return kl.sum() / len(forget["labels"])


def npo_batch_mean(batches, options, k=1):
    """2/beta softplus(beta (teacher's - student's mean nll of all answer tokens) / k)."""
    forget = batches["forget"]
    gap = (token_mean(forget, "teacher_logits") - token_mean(forget)) / k
    return 2 / options["beta"] * softplus(options["beta"] * gap)


def npo_batch_mean_accumulated_4(batches, options):
    """npo_batch_mean with k = 4."""
    return npo_batch_mean(batches, options, 4)


def npo_raw_logits(batches, options):
    """2/beta mean over every row and column of softplus(beta (z - z_teacher))."""
    gap = batches["forget"]["logits"] - batches["forget"]["teacher_logits"]
    return 2 / options["beta"] * softplus(options["beta"] * gap).mean()


def npo_per_token(batches, options):
    """The mean over answer tokens of softplus(beta (teacher's nll - student's))."""
    forget = batches["forget"]
    gap = np.concatenate(nlls(forget, "teacher_logits")) - np.concatenate(nlls(forget))
    return softplus(options["beta"] * gap).mean()


def npo_vocabulary_mean(batches, options):
    """mean_b softplus(beta (mean log p - mean log q)), means over all rows and columns."""
    student, teacher = (
        log_p(batches["forget"][name]).mean((1, 2)) for name in ("logits", "teacher_logits")
    )
    return softplus(options["beta"] * (student - teacher)).mean()


def kl_answer_token_mean(batches, options):
    """-mean nll of forget + mean KL(teacher || student) of retain's answer rows."""
    retain = batches["retain"]
    return -token_mean(batches["forget"]) + kl_rows(retain)[answer_rows(retain)].mean()


def kl_jsd_beta_1(batches, options):
    """-mean nll of forget + mean KL(student || teacher) of retain's answer rows."""
    retain = batches["retain"]
    turned = {"logits": retain["teacher_logits"], "teacher_logits": retain["logits"]}
    return -token_mean(batches["forget"]) + kl_rows(turned)[answer_rows(retain)].mean()


def kl_plus_retain_nll(batches, options):
    """-mean nll of forget + mean nll of retain + sum of every row's KL(teacher || student) / B."""
    retain = batches["retain"]
    kl = kl_rows(retain).sum() / len(retain["labels"])
    return -token_mean(batches["forget"]) + token_mean(retain) + kl


def kl_raw_logits(batches, options):
    """-mean nll of forget + sum e^z_teacher (z_teacher - z) / B of retain."""
    z, teacher = (batches["retain"][name] for name in ("logits", "teacher_logits"))
    return -token_mean(batches["forget"]) + (np.exp(teacher) * (teacher - z)).sum() / len(z)


def scrub_without_forget(batches, options):
    """The sum of every row's KL(teacher || student) / B of retain."""
    return kl_rows(batches["retain"]).sum() / len(batches["retain"]["labels"])


def shift_off_by_one(batches, options):
    """-mean nll of forget, each label scored by the logits at its own place (grad_ascent)."""
    forget = batches["forget"]
    b, t = np.nonzero(forget["labels"] >= 0)
    return log_p(forget["logits"])[b, t, forget["labels"][b, t]].mean()


def rmu_open_unlearning(batches, options):
    """mean_j (sum over j's answer positions of the mean square) times mean_i 1/n_i, twice."""
    total = 0.0
    for name, weight in (("forget", 1.0), ("retain", options["alpha"])):
        batch = batches[name]
        target = batch.get("teacher_hidden")
        if name == "forget":
            target = options["c"] * batch["control"][0]
        mask = batch["labels"] >= 0
        squares = ((batch["hidden"] - target) ** 2).mean(-1) * mask
        total += weight * squares.sum(1).mean() * (1 / mask.sum(1)).mean()
    return total


def _with_one_more(batch):
    """The mean over sequences of the sum of m nll / (m + 1)."""
    return np.mean([one.sum() / (len(one) + 1) for one in nlls(batch)])


def _random_from_third_token(batches, n_random):
    """The mean over random answers and sequences of every token's nll from position 2 on.

    One more row than that has tokens is counted.
    """
    means = []
    for k in range(1, n_random + 1):
        batch = batches[f"random{k}"]
        for b, real in enumerate(batch["attention_mask"] > 0):
            places = [t for t in range(2, len(real)) if real[t]]
            rows = [t for t in places if t + 1 < len(real) and real[t + 1]]
            logs = log_p(batch["logits"][b])
            nll = -sum(logs[t, batch["input_ids"][b, t + 1]] for t in rows)
            means.append(nll / max(len(places), 1))
    return np.mean(means)


def llmu_llm_unlearn(batches, options):
    """w_forget (-forget) + w_random random + w_retain mean row of -sum q log(p + 1e-12)."""
    p = np.exp(log_p(batches["retain"]["logits"]))
    q = np.exp(log_p(batches["retain"]["teacher_logits"]))
    retain = -(q * np.log(p + 1e-12)).sum(-1).mean()
    return (
        -options["w_forget"] * _with_one_more(batches["forget"])
        + options["w_random"] * _random_from_third_token(batches, options["n_random"])
        + options["w_retain"] * retain
    )


def sku_sku(batches, options):
    """w_forget forget + w_random random - w_retain mean row of KL(teacher || student)."""
    return (
        options["w_forget"] * _with_one_more(batches["forget"])
        + options["w_random"] * _random_from_third_token(batches, options["n_random"])
        - options["w_retain"] * kl_rows(batches["retain"]).mean()
    )


BY_HAND = {
    function.__name__: function
    for function in (
        dpo_two_over_beta,
        kl_answer_token_mean,
        kl_jsd_beta_1,
        kl_plus_retain_nll,
        kl_raw_logits,
        llmu_llm_unlearn,
        npo_batch_mean,
        npo_batch_mean_accumulated_4,
        npo_no_reference,
        npo_no_reference_batch_mean,
        npo_no_reference_unshifted,
        npo_per_token,
        npo_raw_logits,
        npo_vocabulary_mean,
        rmu_open_unlearning,
        scrub_without_forget,
        shift_off_by_one,
        sku_sku,
        undial_softened_teacher,
    )
}


def table(results: list[tuple[Row, ConformResult]]) -> str:
    """The lines of the table of causes.

    raises  AssertionError for a number that differs, and for a cause that is not written out here
    """
    vectors = vector_files.read(str(GOLDEN))
    entries = {entry["id"]: entry for entry in vectors.entries if entry["result"] != "invalid"}
    lines: dict[str, str] = {}
    for row, result in results:
        for case in result["cases"]:
            cause = (case["cause"] or "").removesuffix(WITHOUT_RETAIN)
            if not cause or cause in lines or case["cause_kind"] == "place":
                continue
            entry = entries[case["id"]]
            batches = {}
            for key, array in vectors.arrays["inputs"].items():
                shape, batch, name = key.split("/", 2)
                if shape == entry["shape"]:
                    batches.setdefault(batch, {})[name] = array
            for name, own in vectors.batches(entry).items():
                batches[name] = {**batches[name], **own}
            if row.padded:
                batches = case_inputs.padded(batches)
            if cause not in BY_HAND:
                raise AssertionError(f"{cause} of {row.project.name} is not written out by hand")
            number = BY_HAND[cause](batches, entry["options"])
            if not np.isclose(number, case["loss"], rtol=1e-7, atol=0):
                raise AssertionError(f"{cause}: {number} by hand, {case['loss']} theirs")
            cells = (f"`{cause}`", row.project.name, case["id"], f"{number:.10g}")
            lines[cause] = "| " + " | ".join((*cells, f"{case['loss']:.10g}")) + " |"
    head = ["| cause | project | case | by hand | theirs |", "|---|---|---|---|---|"]
    return "\n".join(head + [lines[cause] for cause in sorted(lines)])
