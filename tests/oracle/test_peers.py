"""Other projects' meanings give the numbers of the projects' own functions on a stored case.

Each number was printed once by the public function, on the arrays of the case; none of that code is
here. llm_unlearn and SKU divide in float32, so theirs hold to 1e-7.

Run: python -m pytest tests/oracle/test_peers.py
"""

import numpy as np
import pytest

from clear_ref.common.errors import UserError
from clear_ref.methods import LOSSES, SEMANTICS
from clear_ref.oracle.mistakes.projects import ENTRIES, PROJECTS, find, nearest
from clear_ref.oracle.reference import cases, formulas
from clear_ref.oracle.reference.inputs import inputs
from clear_ref.oracle.vectors import conform
from tests.helpers.golden_vectors import ROOT
from tests.implementations import peers

RMU_OPTIONS = "rmu/paper/plain/c=2.0,alpha=3.0,layer=1,seed=5"
RECORDED = [
    ("dpo_two_over_beta", "dpo/original/plain", 18.824997143672, "compute_dpo_loss of d3d7cf9"),
    ("npo_no_reference", "npo/paper/plain/beta=0.1", 10.9891602442161, "SimNPO of d3d7cf9"),
    (
        "npo_no_reference_margin",
        "npo/paper/plain/beta=0.1",
        11.417893293852,
        "SimNPO of d3d7cf9, delta 0.5",
    ),
    ("rmu_open_unlearning", RMU_OPTIONS, 15.7674572981299, "compute_activation_loss of d3d7cf9"),
    ("rmu_answer_positions", RMU_OPTIONS, 11.6682954852623, "compute_activation_loss of fedc3c4"),
    ("kl_answer_token_mean", "kl/paper/plain", -1.29250371951127, "forgetium 0.2.1; liger beta 0"),
    ("kl_jsd_beta_1", "kl/paper/plain", -1.25327615606286, "liger-kernel 0.8.5, beta 1"),
    ("kl_jsd_half", "kl/paper/plain", -2.68862233235672, "liger-kernel 0.8.5, beta 0.5"),
    ("kl_raw_logits", "kl/paper/plain", 246.653375844736, "muse_bench, ga_klr"),
    ("npo_raw_logits", "npo/paper/plain/beta=0.1", 14.0180609675241, "muse_bench, npo"),
    ("npo_vocabulary_mean", "npo/paper/plain/beta=0.1", 0.69606389790114, "erasus 0.2.0"),
    ("npo_per_token", "npo/paper/plain/beta=0.1", 0.7748983448249, "dpo_style_loss of erasus"),
    ("npo_no_reference_unshifted", "npo/paper/plain/beta=0.1", 0.571768278350597, "erasus 0.2.0"),
    ("npo_no_reference_unshifted", "simnpo/original/plain", 0.000121601885447593, "erasus 0.2.0"),
    ("undial_softened_teacher", "undial/original/plain", 7.83406391491742, "erasus 0.2.0"),
    ("scrub_without_forget", "scrub/paper/plain", 10.2842995138142, "erasus 0.2.0, forget 0.0"),
    ("llmu_llm_unlearn", "llmu/original/plain/n_random=2", 2.8685518128041, "647f309"),
    ("llmu_llm_unlearn", "llmu/original/single/n_random=2", 4.30883905537563, "647f309"),
    ("divisor_m_plus_1", "llmu/original/plain/n_random=2", 2.9474482973402, "647f309"),
    ("divisor_m_plus_1", "llmu/original/single/n_random=2", 4.73561717651689, "647f309"),
    ("sku_sku", "sku/original/plain/n_random=2", 0.332622802902531, "a17663f"),
    ("sku_sku", "sku/original/single/n_random=2", 1.75974860576286, "a17663f"),
    ("npo_batch_mean", "npo/paper/plain/beta=0.1", 15.4029333622852, "lines of 0e3098e"),
    ("npo_batch_mean_accumulated_4", "npo/paper/plain/beta=0.1", 14.2376176718944, "0e3098e"),
    ("kl_plus_retain_nll", "kl/paper/plain", 11.1642917362134, "lines of 0e3098e and fa77c66"),
]
CASES = {case.id: case for case in cases.cases()}


def batches_of(case):
    """Every batch of the case's shape, with the control vectors of rmu."""
    every = {name: dict(batch) for name, batch in inputs(case.shape).items()}
    for name, batch in case.batches.items():
        every[name].update(batch)
    if case.method == "rmu":
        every = {name: every[name] for name in ("forget", "retain")}
        for batch in every.values():
            del batch["logits"], batch["teacher_logits"]
    return every


@pytest.mark.slow
@pytest.mark.parametrize("name", peers.CASES)
def test_conform_names_each_from_torch_code_as_people_write_it(name):
    """On a few shapes; the floor acts where a probability is near 0."""
    method, semantics = peers.CASES[name]
    settings = conform.ConformSettings(
        impl=f"tests.implementations.peers:as_{name}",
        vectors=str(ROOT / "tests" / "vectors" / "golden"),
        methods=method,
        semantics=semantics,
        only=f"{method}/{semantics}/*",
        shapes="plain,left,single,large" if name == "probability_floor" else "plain,left,near",
    )
    result = conform.run(settings)
    named = [
        [one["cause"], *one["same_numbers"]]
        for one in result["cases"]
        if one["cause"] and "/plain/" not in one["id"]
    ]
    assert named and all(any(n.startswith(name) for n in names) for names in named), named


@pytest.mark.parametrize("name, id, number, source", RECORDED)
def test_a_meaning_gives_the_number_of_the_projects_own_function(name, id, number, source):
    case = CASES[id]
    result = ENTRIES[name].compute(case.method, case.semantics, case.options, batches_of(case))
    is_float32 = "647f309" in source or "a17663f" in source
    assert result.loss == pytest.approx(number, rel=1e-7 if is_float32 else 1e-13)


def test_a_start_after_the_padding_leaves_no_forget_answer():
    """get_answer_loss of llm_unlearn and SKU gave 0.0 for a start of len(ids) - 1."""
    case = CASES["grad_ascent/paper/plain"]
    result = ENTRIES["answer_start_after_padding"].compute(
        "grad_ascent", "paper", case.options, batches_of(case)
    )
    assert result.loss == 0 and not result.gradients["forget"].any()


def test_a_constant_prompt_length_supervises_the_last_prompt_token():
    """preprocess_v1 of FIUBench masks 1 + (n - 2) of n prompt tokens, so one is supervised."""
    case = CASES["grad_ascent/paper/plain"]
    batch = batches_of(case)["forget"]
    labels = batch["labels"].copy()
    for b, t in enumerate((batch["labels"] != -100).argmax(1)):
        labels[b, t - 1] = batch["input_ids"][b, t - 1]
    wanted = formulas.reference_loss(
        "grad_ascent", "paper", case.options, {"forget": {**batch, "labels": labels}}
    )
    result = ENTRIES["prompt_length_constant"].compute(
        "grad_ascent", "paper", case.options, {"forget": batch}
    )
    assert result.loss == wanted.loss
    assert np.array_equal(result.gradients["forget"], wanted.gradients["forget"])


def test_a_probability_floor_bounds_the_loss_where_a_probability_is_zero():
    """-sum q log(p + 1e-12) is at most -log 1e-12 = 27.6, whatever the logits."""
    case = CASES["kl/original/large"]
    arrays = {"kl": case.batches}
    right = formulas.reference_loss("kl", "original", case.options, arrays["kl"])
    floored = ENTRIES["probability_floor"].compute("kl", "original", case.options, arrays["kl"])
    assert right.terms["retain_kl"] > 1000 and floored.terms["retain_kl"] <= 27.64


def test_the_contributions_and_weights_of_each_entry_add_up_to_its_loss():
    """On the first case of each method that it has, in float64: to 1e-12 of the loss's size."""
    n_checked = 0
    for entry in ENTRIES.values():
        for method in entry.methods:
            case = next(c for c in CASES.values() if c.method == method and c.shape == "plain")
            if case.semantics not in getattr(entry, "semantics", SEMANTICS):
                continue
            try:
                result = entry.compute(method, case.semantics, case.options, batches_of(case))
            except KeyError:
                continue  # it reads options of other semantics
            parts = result.parts()
            total = sum(array.sum() for array in parts.contributions.values())
            assert total == pytest.approx(result.loss, rel=1e-12, abs=1e-12), (entry.name, method)
            n_checked += 1
    assert n_checked > 120


def test_every_project_is_found_by_its_name_and_every_name_is_semantics_or_an_entry():
    for name, project in PROJECTS.items():
        for method, meaning in project.methods.items():
            assert method in LOSSES and (meaning in SEMANTICS or meaning in ENTRIES)
            found = find(method, name.upper())
            assert found == meaning if isinstance(found, str) else found.name == meaning
    with pytest.raises(UserError, match=r"erasus has no dpo .* it has grad_ascent, npo, scrub"):
        find("dpo", "erasus")
    with pytest.raises(UserError, match="no known mistake.*the nearest name is npo_batch_mean;"):
        find("npo", "npo_batchmean")
    with pytest.raises(UserError, match="kl_swapped does not exist in rmu; it does in grad_diff"):
        find("rmu", "kl_swapped")
    assert nearest("npo", "?????") == ""
