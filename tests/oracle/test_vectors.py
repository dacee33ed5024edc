"""Golden vectors: the package gives every right number, every known mistake gives a wrong one, and the bytes are always the same.

The right numbers come from clear_ref/oracle/reference.py, float64 numpy with closed-form gradients that shares no line with
losses/ or methods/. Here they are held against the package's autograd, finite differences, and arithmetic by hand.

Run: python -m pytest tests/test_vectors.py
"""

import json
import os
import re
import subprocess
import sys
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.data.draws import uniform_vector
from clear_ref.losses import Outputs, token_terms
from clear_ref.methods import METHODS, method_loss
from clear_ref.oracle.mistakes.known import MISTAKES, loss_with_mistake
from clear_ref.oracle.mistakes.markdown import mistakes_table
from clear_ref.oracle.reference import cases, exact, formulas, shapes
from clear_ref.oracle.reference.arithmetic import Sheet
from clear_ref.oracle.reference.inputs import inputs as make_inputs
from clear_ref.oracle.reference.rows import IGNORE
from clear_ref.oracle.vectors import golden, vector_files
from clear_ref.oracle.vectors.vector_set import digest

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "vectors" / "golden"
SHIPPED = vector_files.read(GOLDEN)
RIGHT = [entry for entry in SHIPPED.entries if entry["result"] != "invalid"]
WRONG = [entry for entry in SHIPPED.entries if entry["result"] == "invalid"]
MEANINGS = [
    (method, semantics) for method, module in METHODS.items() for semantics in module.VARIANTS
]
READ = ("logits", "labels", "teacher_logits", "attention_mask", "hidden", "teacher_hidden")
FLOAT64 = 1e-12  # of the terms' sizes: float64 rounding, 2e-16, of some thousand additions
FLOAT32 = (
    2.0**-21
)  # eight roundings; and each log-probability is rounded at the size of the largest logit (see conform)


def package(entry, dtype=torch.float64, batches=None):
    """The package's Loss and gradients on a case."""
    outputs, leaves = {}, {}
    for name, batch in (batches or SHIPPED.batches(entry)).items():
        tensors = {key: torch.from_numpy(batch[key]) for key in READ if key in batch}
        tensors = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in tensors.items()
        }
        student = "hidden" if "hidden" in batch else "logits"
        leaves[name] = tensors[student] = tensors[student].clone().requires_grad_()
        outputs[name] = Outputs(**{key: tensors.get(key) for key in READ})
    loss = method_loss(entry["method"], outputs, entry["semantics"], **entry["options"])
    found = torch.autograd.grad(loss.value, list(leaves.values()), allow_unused=True)
    return loss, {
        name: torch.zeros_like(leaf) if one is None else one
        for (name, leaf), one in zip(leaves.items(), found)
    }


def largest(entry):
    """The largest number among a case's logits or hidden states."""
    return max(
        np.abs(array).max()
        for batch in SHIPPED.batches(entry).values()
        for key, array in batch.items()
        if key.endswith(("logits", "hidden"))
    )


@pytest.mark.parametrize("method, semantics", MEANINGS)
def test_the_package_gives_every_right_loss_term_and_gradient_in_float64(method, semantics):
    entries = [
        entry for entry in RIGHT if (entry["method"], entry["semantics"]) == (method, semantics)
    ]
    assert entries
    for entry in entries:
        loss, gradients = package(entry)
        large = (
            largest(entry) * entry["weight"] if "large_logits" in entry["flags"] else 0
        )  # log-ratios are rounded at 10^4
        room = FLOAT64 * (entry["scale"] + large)
        assert abs(loss.value.item() - entry["loss"]) <= room, entry["id"]
        terms = {name: term.item() for name, term in loss.terms.items()}
        assert terms == pytest.approx(entry["terms"], rel=0, abs=room), entry["id"]
        expected = SHIPPED.gradients(entry)
        size = max(np.abs(gradient).max() for gradient in expected.values())
        for name, gradient in gradients.items():
            assert np.abs(gradient.numpy() - expected[name]).max() <= FLOAT64 * size, (
                entry["id"],
                name,
            )


@pytest.mark.parametrize("shape", shapes.FULL[len(shapes.COMPACT) :])
def test_the_package_agrees_on_the_larger_shapes_that_only_the_command_writes(shape):
    asked = [case for case in cases.cases(full=True) if case.shape == shape]
    assert len(asked) == len(MEANINGS)
    for case in asked:
        answer = formulas.reference_loss(case.method, case.semantics, case.options, case.batches)
        if not np.isfinite(answer.loss):
            continue
        entry = {"method": case.method, "semantics": case.semantics, "options": case.options}
        loss, gradients = package(entry, batches=case.batches)
        large = answer.weight * 1e4 if "large_logits" in case.flags else 0  # as above
        assert abs(loss.value.item() - answer.loss) <= FLOAT64 * (answer.scale + large), case.id
        size = max(np.abs(gradient).max() for gradient in answer.gradients.values())
        assert all(
            np.abs(gradients[name].numpy() - expected).max() <= FLOAT64 * (size + large)
            for name, expected in answer.gradients.items()
        ), case.id


@pytest.mark.parametrize("method", METHODS)
def test_the_package_gives_every_right_loss_and_gradient_in_fp32(method):
    for entry in (entry for entry in RIGHT if entry["method"] == method):
        loss, gradients = package(entry, torch.float32)
        room = largest(entry) * entry["weight"]
        assert abs(loss.value.item() - entry["loss"]) <= FLOAT32 * (entry["scale"] + room), entry[
            "id"
        ]
        expected = SHIPPED.gradients(entry)
        room = FLOAT32 * (max(np.abs(gradient).max() for gradient in expected.values()) + room)
        assert all(
            np.abs(gradients[name].double().numpy() - expected[name]).max() <= room
            for name in gradients
        ), entry["id"]


def test_fp32_is_held_to_1e_6_where_logits_are_ordinary():
    """So that the room above is no hiding place: |logits| < 3 and the paper's meanings."""
    ordinary = [
        entry
        for entry in RIGHT
        if entry["shape"] in ("plain", "left", "near") and entry["method"] != "rmu"
    ]
    for entry in (entry for entry in ordinary if entry["semantics"] == "paper"):
        loss, _ = package(entry, torch.float32)
        assert abs(loss.value.item() - entry["loss"]) <= 1e-6 * entry["scale"], entry["id"]


@pytest.mark.parametrize("shape", shapes.COMPACT)
def test_the_package_gives_every_token_term(shape):
    for batch in ("forget", "retain", "idk", "random1"):
        start = f"{shape}/{batch}/"
        held = {
            key[len(start) :]: array
            for key, array in SHIPPED.arrays["inputs"].items()
            if key.startswith(start)
        }
        labels = np.full_like(held["labels"], IGNORE)
        labels[:, :-1] = held["labels"][:, 1:]
        flat = [torch.from_numpy(held[name]).flatten(0, 1) for name in ("logits", "teacher_logits")]
        found = token_terms(flat[0], torch.from_numpy(labels).flatten(), flat[1])
        for column in golden.TERM_COLUMNS:
            expected = held[f"terms/{column}"].ravel()
            room = FLOAT64 * (1 + np.abs(held["logits"]).max())
            assert np.abs(getattr(found, column).numpy() - expected).max() <= room, (
                shape,
                batch,
                column,
            )


@pytest.mark.parametrize("method, semantics", MEANINGS)
def test_stored_gradients_are_the_derivatives_of_the_reference(method, semantics):
    """Along two random directions, by the five-point rule: its error is h^4 f(5) / 30 ~ 1e-11 at h = 1e-3, and rounding / h ~
    1e-13, both of numbers of size `scale`."""
    shapes = (
        ("near",) if (method, semantics) == ("npo", "released@2024-12-10") else ("single", "plain")
    )
    entries = [
        e
        for e in RIGHT
        if (e["method"], e["semantics"]) == (method, semantics) and e["shape"] in shapes
    ]
    assert entries
    for entry in entries:
        batches, gradients = SHIPPED.batches(entry), SHIPPED.gradients(entry)
        for way in range(2):
            directions = {
                name: 2
                * uniform_vector(way, f"{entry['id']}/{name}", gradient.size).reshape(
                    gradient.shape
                )
                - 1
                for name, gradient in gradients.items()
            }

            def value(h):
                moved = {
                    name: {
                        key: array + h * directions[name] if key in ("logits", "hidden") else array
                        for key, array in batch.items()
                    }
                    for name, batch in batches.items()
                }
                return formulas.reference_loss(method, semantics, entry["options"], moved).loss

            h = 1e-3
            difference = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
            analytic = sum(
                (gradient * directions[name]).sum() for name, gradient in gradients.items()
            )
            assert abs(difference - analytic) <= 1e-9 * max(entry["scale"], 1.0), entry["id"]


def test_the_reference_is_right_where_a_pencil_says_so():
    """Vocabulary {0, 1}; p of the answer tokens 1/2, 1/4 | 1/16, the teacher's 1/4, 1/4 | 1/8. nll 1, 2 | 4 times log 2: token
    mean 7/3 log 2; log-ratio of whole answers +log 2 | -log 2, so NPO with beta 1 is log 3 + log 3/2 = log 9/2. KL(1/4 || 1/2) is
    3/4 log 3 - log 2, KL(1/8 || 1/16) is log 2 / 8 + 7/8 log 14/15."""
    labels = np.array([[IGNORE, 0, 0], [IGNORE, 0, IGNORE]])

    def logits(*rows):
        return np.array([[[log(p), log(1 - p)] for p in row] for row in rows])

    forget = {
        "labels": labels,
        "attention_mask": np.ones_like(labels),
        "logits": logits([1 / 2, 1 / 4, 0.9], [1 / 16, 0.3, 0.2]),
        "teacher_logits": logits([1 / 4, 1 / 4, 0.6], [1 / 8, 0.7, 0.5]),
    }
    assert formulas.reference_loss("grad_ascent", "paper", {}, {"forget": forget}).loss == pytest.approx(
        -7 / 3 * log(2), abs=1e-15
    )
    assert formulas.reference_loss("npo", "paper", {"beta": 1.0}, {"forget": forget}).loss == pytest.approx(
        log(9 / 2), abs=1e-15
    )
    kl = Sheet({"forget": forget}).sequence_mean("forget", "kl_teacher_student").value
    assert kl == pytest.approx(
        ((3 / 4 * log(3) - log(2)) / 2 + log(2) / 8 + 7 / 8 * log(14 / 15)) / 2, abs=1e-15
    )


def test_exp_log_and_sums_are_rounded_correctly():
    """e and log 2 to the last bit as tables have them, the limits, a sum that plain addition gets wrong; numpy within 1e-15."""
    assert exact.exp(1.0) == float.fromhex("0x1.5bf0a8b145769p+1") and exact.log(
        2.0
    ) == float.fromhex("0x1.62e42fefa39efp-1")
    assert (
        exact.exp(-1000.0) == 0
        and exact.log(0.0) == -np.inf
        and np.isnan(exact.log(-1.0))
        and np.isnan(exact.exp(np.nan))
    )
    assert (
        exact.log1p(1e-300) == 1e-300 and exact.log1p(1e-15) == 9.999999999999995e-16
    )  # 1e-15 - 5e-31
    assert exact.add([1e16, 1.0, -1e16]) == 1.0
    x = 40 * (uniform_vector(0, "exact", 1000) - 0.5)
    assert (
        np.abs(exact.exp(x) / np.exp(x) - 1).max() < 1e-15
        and np.abs(exact.log(exact.exp(x)) - x).max() < 1e-14
    )


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_every_known_mistake_is_rejected_in_every_method_it_is_possible_in(mistake):
    """By more than 1e-4 of the loss's or the gradient's size: a hundred times what fp32 is allowed."""
    for method in mistake.methods:
        found = [
            entry
            for entry in WRONG
            if entry["mistake"] == mistake.name and entry["method"] == method
        ]
        assert found, (mistake.name, method)
        for entry in found:
            right = next(one for one in RIGHT if one["id"] == entry["of"])
            if not entry["gradients"]:
                assert abs(entry["loss"] - right["loss"]) > 1e-4 * right["scale"], entry["id"]
                continue
            given, expected = SHIPPED.gradients(entry), SHIPPED.gradients(right)
            away = max(np.abs(given[name] - expected[name]).max() for name in expected)
            assert away > 1e-4 * max(np.abs(gradient).max() for gradient in expected.values()), (
                entry["id"]
            )


def test_every_mistake_of_the_specification_is_there():
    named = {mistake.name for mistake in MISTAKES}
    assert {entry["mistake"] for entry in WRONG} == named and len(named) == len(MISTAKES)
    issue = (
        "padding prompt image shift bos kl_swapped kl_is_cross sum_for batchmean mean_inside logits_for vocabulary "
        "reference_not reference_is idk_is last_debug broadcast entropy_sign mean_of bf16 uniform ignore"
    ).split()
    assert all(any(name.startswith(start) for name in named) for start in issue)


def test_a_mistake_that_reads_what_is_not_there_says_nothing():
    case = next(case for case in cases.cases() if case.id == "kl/paper/plain")
    bare = {
        name: {key: array for key, array in batch.items() if key not in ("input_ids", "kinds")}
        for name, batch in case.batches.items()
    }
    given = {
        mistake.name: loss_with_mistake(mistake, "kl", "paper", case.options, bare) for mistake in MISTAKES
    }
    assert (
        given["prompt_counted"] is None
        and given["last_debug_line_wins"] is None
        and given["kl_swapped"] is not None
    )


def test_every_meaning_option_and_flag_is_asked_about():
    asked = {(entry["method"], entry["semantics"]) for entry in RIGHT}
    assert asked == set(MEANINGS)
    for method, semantics in MEANINGS:
        entries = [
            entry for entry in RIGHT if (entry["method"], entry["semantics"]) == (method, semantics)
        ]
        for option in entries[0]["options"]:
            assert len({json.dumps(entry["options"][option]) for entry in entries}) > 1, (
                method,
                semantics,
                option,
            )
    used = {flag for entry in RIGHT for flag in entry["flags"]}
    assert used | {flag for shape in shapes.FULL for flag in shapes.ALL_SHAPES[shape].flags} == set(
        shapes.FLAGS
    )


def test_flags_tell_the_truth():
    for shape in shapes.COMPACT:
        inputs, flags = make_inputs(shape), shapes.ALL_SHAPES[shape].flags
        nll = np.concatenate(
            [
                golden.token_terms(name, batch)["nll"][:, :-1][batch["labels"][:, 1:] != IGNORE]
                for name, batch in inputs.items()
            ]
        )
        masks = [batch["attention_mask"] for batch in inputs.values()]
        assert ("nll_above_20" not in flags) or nll.max() > 20
        assert ("near_one_probability" not in flags) or nll.min() < 1e-6
        assert ("near_zero_probability" not in flags) or nll.max() > -log(1e-6)
        assert ("left_padding" in flags) == any((mask[:, 0] == 0).any() for mask in masks)
        assert ("right_padding" not in flags) or any((mask[:, -1] == 0).any() for mask in masks)
        assert ("image_rows" not in flags) or any(
            (batch["kinds"] == 1).any() for batch in inputs.values()
        )
        ignored = any((batch["labels"] == IGNORE).all(1).any() for batch in inputs.values())
        assert ("ignored_sequence" in flags) == ignored
        assert ("odd_vocabulary" not in flags) or inputs["forget"]["logits"].shape[2] % 2
        same = all((batch["logits"] == batch["teacher_logits"]).all() for batch in inputs.values())
        assert ("teacher_equals_student" in flags) == same
        assert ("large_logits" in flags) == (np.abs(inputs["forget"]["logits"]).max() > 5000)


def test_inputs_are_bfloat16_numbers_and_padding_on_the_left_changes_nothing_else():
    for key, array in SHIPPED.arrays["inputs"].items():
        if array.dtype == np.float64 and "/terms/" not in key:
            tensor = torch.from_numpy(array)
            assert torch.equal(tensor.to(torch.bfloat16).double(), tensor), key
    for method in METHODS:
        losses = {
            entry["shape"]: entry["loss"]
            for entry in RIGHT
            if entry["method"] == method
            and entry["semantics"] == "paper"
            and "option" not in entry["flags"]
        }
        assert losses["left"] == pytest.approx(losses["plain"], rel=1e-14)


def test_the_shipped_vectors_are_what_the_command_writes_byte_for_byte(tmp_path):
    """In a process of its own, with another number of threads, and as on a processor without this one's vector instructions."""
    command = [
        sys.executable,
        "-m",
        "clear_ref.run",
        "vectors",
        "--compact",
        "--out",
        str(tmp_path),
        "--json",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "2",
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX2 FMA3 AVX512F AVX512_SKX AVX512_ICL",
        },
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cases"] == len(SHIPPED.entries)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {
        path.name: path.read_bytes() for path in GOLDEN.iterdir() if path.name != "FORMAT.md"
    }
    assert sum(map(len, written.values())) < 1.5e6
    vector_files.write(golden.build(), tmp_path)
    assert written == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_each_case_carries_the_hash_of_its_arrays():
    right = {entry["id"]: entry for entry in RIGHT}
    for entry in SHIPPED.entries:
        batches = SHIPPED.batches(right[entry.get("of", entry["id"])])
        assert digest(batches, SHIPPED.gradients(entry)) == entry["sha256"], entry["id"]


def test_vectors_that_were_changed_cut_or_lost_are_refused(tmp_path):
    for path in GOLDEN.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "kl.safetensors").read_bytes()
    (tmp_path / "kl.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        UserError, match="kl.safetensors: its bytes are not those that kl.json names"
    ):
        vector_files.read(tmp_path)
    (tmp_path / "kl.safetensors").unlink()
    with pytest.raises(UserError, match="kl.safetensors: no such file"):
        vector_files.read(tmp_path)
    (tmp_path / "kl.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="kl.json: format is 2; expected 1"):
        vector_files.read(tmp_path)
    for path in GOLDEN.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "kl.json").read_text()
    for old, new, lacking in (
        ('"scale"', '"size"', "scale"),
        ('"shape": "plain"', '"shape": "round"', "array 'round/forget/input_ids'"),
        ('"forget": "kl/paper/plain/forget"', '"forget": "lost"', "array 'lost'"),
    ):
        (tmp_path / "kl.json").write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match=f"case 'kl/paper/plain' lacks {lacking}"):
            vector_files.read(tmp_path)
    with pytest.raises(UserError, match="inputs.json: no such file"):
        vector_files.read(tmp_path / "nowhere")


def test_only_the_command_line_imports_the_oracle():
    oracle = ROOT / "clear_ref" / "oracle"
    importing = [
        path.relative_to(ROOT / "clear_ref").parts[0]
        for path in (ROOT / "clear_ref").glob("**/*.py")
        if oracle not in path.parents
        and re.search(r"^\s*(from|import) .*\boracle\b", path.read_text(encoding="utf-8"), re.M)
    ]
    assert set(importing) <= {"commands", "run.py"}


def test_the_readme_states_the_mistakes_as_the_vectors_have_them():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    between = text.split("<!-- mistakes -->\n")[1].split("<!-- /mistakes -->")[0]
    assert between == mistakes_table(WRONG)


def test_the_reference_shares_no_line_with_what_it_judges():
    """Its modules import neither losses nor the method files."""
    for name in ("arithmetic", "exact", "formulas", "rows", "sums", "token_columns"):
        text = (ROOT / "clear_ref" / "oracle" / "reference" / f"{name}.py").read_text(encoding="utf-8")
        assert not re.search(r"^(from|import) .*(losses|methods|torch)", text, re.M), name
