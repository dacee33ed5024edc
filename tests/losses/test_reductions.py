"""Reductions: micro-batches add up; padding, order and chunks do not matter.

Broadcasting is refused, and each common mistake changes a value of tests/helpers/values_by_hand.py.

Run: python -m pytest tests/losses/test_reductions.py
"""

from dataclasses import fields, replace
from math import nan

import pytest
import torch

from clear_ref import losses
from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.losses import (
    IGNORE,
    BatchRows,
    Outputs,
    mean_over_sequences,
    reductions,
    rows,
    select_rows,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from clear_ref.methods import METHODS, Loss, make_options, method_loss, needs, variant
from tests.helpers.values_by_hand import CASES, case_loss, rmu_batches

LENGTHS = ((3, 4), (2, 1), (4, 2), (1, 3), (2, 5))  # (prompt, answer) tokens of five sequences
V, D = 5, 3
ROUNDING = 1e-12  # float64: terms below 1000 (rmu, c = 3: below 100), some hundred additions


def sequences(seed):
    """One Outputs [1, t] without padding for each of LENGTHS."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for prompt, answer in LENGTHS:
        labels = torch.full((1, prompt + answer), IGNORE)
        labels[0, prompt:] = torch.randint(0, V, (answer,), generator=g)
        logits, teacher = (
            2 * torch.randn(1, prompt + answer, V, generator=g, dtype=torch.float64)
            for _ in range(2)
        )
        hidden, h_teacher = (
            torch.randn(1, prompt + answer, D, generator=g, dtype=torch.float64) for _ in range(2)
        )
        found.append(Outputs(logits, labels, teacher, torch.ones_like(labels), hidden, h_teacher))
    return found


def collate(given, left=False, extra=0):
    """One padded Outputs; padding holds NaN in every tensor of floats, which no loss may read."""
    width = max(outputs.labels.shape[1] for outputs in given) + extra

    def pad(tensor, fill):
        room = torch.full((1, width - tensor.shape[1], *tensor.shape[2:]), fill, dtype=tensor.dtype)
        return torch.cat([room, tensor] if left else [tensor, room], 1)

    fills = {"labels": IGNORE, "attention_mask": 0}
    names = [field.name for field in fields(Outputs)]
    return Outputs(
        **{
            name: torch.cat(
                [pad(getattr(outputs, name), fills.get(name, nan)) for outputs in given]
            )
            for name in names
        }
    )


def setup(method):
    options = make_options(method, {"rmu": {"c": 3}, "dpo": {"retain_weight": 0.5}}.get(method, {}))
    given = {name: sequences(100 + i) for i, name in enumerate(needs(method, "paper", options))}
    return options, given


def evaluate(method, options, given, **totals):
    """Loss of collated batches."""
    batches = {name: outputs.batch_rows(**totals.get(name, {})) for name, outputs in given.items()}
    return variant(method).loss(batches, options)


def with_leaves(given):
    """The same batches, their student tensors replaced by leaves; returns batches and leaves."""
    leaves, moved = [], {}
    for name, outputs in given.items():
        moved[name] = replace(
            outputs,
            logits=outputs.logits.detach().clone().requires_grad_(),
            hidden=outputs.hidden.detach().clone().requires_grad_(),
        )
        leaves += [moved[name].logits, moved[name].hidden]
    return moved, leaves


def totals(outputs):
    return {"n_sequences": len(outputs.labels), "n_rows": outputs.batch_rows().n_rows}


@pytest.mark.parametrize("method", METHODS)
def test_the_micro_batches_of_a_step_add_up_to_the_one_big_batch(method):
    options, given = setup(method)
    big, leaves = with_leaves({name: collate(parts) for name, parts in given.items()})
    whole = evaluate(method, options, big)
    whole.value.backward()
    value, parts_of_terms = 0, {name: 0 for name in whole.terms}
    gradients = [torch.zeros_like(leaf) for leaf in leaves]
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        piece = {
            name: Outputs(
                **{
                    field.name: getattr(outputs, field.name)[start:stop]
                    for field in fields(Outputs)
                }
            )
            for name, outputs in big.items()
        }
        piece, piece_leaves = with_leaves(piece)
        loss = evaluate(
            method, options, piece, **{name: totals(outputs) for name, outputs in big.items()}
        )
        loss.value.backward()
        value += loss.value.item()
        for name, term in loss.terms.items():
            parts_of_terms[name] += term.item()
        for gradient, leaf in zip(gradients, piece_leaves, strict=True):
            if leaf.grad is not None:
                gradient[start:stop] = leaf.grad
    assert value == pytest.approx(whole.value.item(), abs=ROUNDING)
    assert parts_of_terms == pytest.approx(
        {name: term.item() for name, term in whole.terms.items()}, abs=ROUNDING
    )
    for gradient, leaf in zip(gradients, leaves, strict=True):
        assert leaf.grad is None or (gradient - leaf.grad).abs().max() < ROUNDING


@pytest.mark.parametrize("method", METHODS)
def test_padding_never_changes_the_loss_and_gets_no_gradient(method):
    """NaN in padding would reach the loss through any multiplication by a mask."""
    options, given = setup(method)
    values = []
    for left, extra in ((False, 0), (True, 0), (False, 3), (True, 3)):
        batches, leaves = with_leaves(
            {name: collate(parts, left, extra) for name, parts in given.items()}
        )
        loss = evaluate(method, options, batches)
        loss.value.backward()
        values.append(loss.value.item())
        for outputs in batches.values():
            for leaf in (outputs.logits, outputs.hidden):
                assert leaf.grad is None or (leaf.grad[outputs.attention_mask == 0] == 0).all()
    assert values == pytest.approx([values[0]] * 4, abs=ROUNDING)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_sequences_never_changes_the_loss(method):
    """Paired batches (dpo) are permuted together."""
    options, given = setup(method)
    order = (3, 0, 4, 2, 1)
    plain = evaluate(method, options, {name: collate(parts) for name, parts in given.items()})
    turned = evaluate(
        method, options, {name: collate([parts[i] for i in order]) for name, parts in given.items()}
    )
    assert turned.value.item() == pytest.approx(plain.value.item(), abs=ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHODS if method != "rmu"])
def test_checkpointed_chunks_equal_the_unchunked_rows(method):
    options, given = setup(method)
    results = []
    for chunk_rows in (1000, 4):
        batches, leaves = with_leaves({name: collate(parts) for name, parts in given.items()})
        loss = evaluate(
            method, options, batches, **{name: {"chunk_rows": chunk_rows} for name in batches}
        )
        loss.value.backward()
        results.append((loss.value, [leaf.grad for leaf in leaves if leaf.grad is not None]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(one, two) for one, two in zip(results[0][1], results[1][1], strict=True))


def test_no_more_than_chunk_rows_of_logits_are_ever_asked_for_and_the_teacher_needs_no_graph():
    outputs, asked = collate(sequences(0)), []

    def logits(sequence, position):
        asked.append((len(sequence), torch.is_grad_enabled()))
        return weight * outputs.logits[sequence, position]

    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    batch = BatchRows(
        labels=outputs.labels,
        attention_mask=outputs.attention_mask,
        student_logits=logits,
        teacher_logits=logits,
        chunk_rows=4,
    )
    value = token_mean(batch, "kl_teacher_student") + sequence_mean(batch, "nll")
    assert [n for n, _ in asked] == [
        4,
        4,
        4,
        4,
        4,
        4,
        3,
        3,
    ]  # 15 answer rows, of the teacher and of the student, once
    assert [graph for _, graph in asked] == [False, True] * 4
    value.backward()
    assert len(asked) == 16 and max(n for n, _ in asked) == 4


def test_reductions_divide_by_what_they_say():
    """Values 1, 2, 3 | 10 on a batch of two sequences, 3 and 1 answer rows; hand arithmetic."""
    labels = torch.tensor([[IGNORE, 0, 1, 0], [IGNORE, IGNORE, 1, IGNORE]])
    values = torch.tensor([1.0, 2.0, 3.0, 10.0])
    batch = BatchRows(labels=labels)
    assert token_mean(batch, values) == 16 / 4
    assert sequence_mean(batch, values) == (2 + 10) / 2
    assert sequence_sum(batch, values).tolist() == [6, 10]
    assert mean_over_sequences(torch.tensor([6.0, 10.0]), batch) == 8
    step = BatchRows(labels=labels, n_sequences=8, n_rows={"answer": 32})
    assert token_mean(step, values) == 16 / 32 and sequence_mean(step, values) == (2 + 10) / 8
    with pytest.raises(
        UserError, match="n_rows has .'answer'.; expected the step's total of 'all' rows"
    ):
        token_mean(step, torch.zeros(8), "all")


def test_no_answer_rows_give_zero_and_not_nan():
    logits = torch.randn(2, 3, V, requires_grad=True)
    batch = Outputs(logits, torch.full((2, 3), IGNORE), torch.randn(2, 3, V)).batch_rows()
    values = (
        token_mean(batch, "nll"),
        sequence_mean(batch, "kl_student_teacher"),
        sequence_sum(batch, "nll").sum(),
    )
    assert all(value == 0 for value in values)
    sum(values).backward()
    assert (logits.grad == 0).all()


def test_row_sets_hold_the_rows_and_labels_they_say():
    labels = torch.tensor([[IGNORE, IGNORE, 3, IGNORE, 4], [IGNORE, 2, 1, IGNORE, IGNORE]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = select_rows(labels, mask, "answer")
    assert list(
        zip(found.sequence.tolist(), found.position.tolist(), found.labels.tolist(), strict=True)
    ) == [
        (0, 1, 3),
        (0, 3, 4),
        (1, 0, 2),
        (1, 1, 1),
    ]
    found = select_rows(labels, mask, "attention")
    assert found.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert found.labels.tolist() == [IGNORE, 3, IGNORE, 4, IGNORE, 2, 1, IGNORE]
    found = select_rows(labels, mask, "all")
    assert found.sequence.tolist() == [0] * 5 + [1] * 5 and found.labels.tolist()[5:] == [
        2,
        1,
        IGNORE,
        IGNORE,
        IGNORE,
    ]
    with pytest.raises(UserError, match="row set is 'image'"):
        select_rows(labels, mask, "image")


@pytest.mark.parametrize(
    "labels, mask, where",
    [
        ([IGNORE, 1, 2], [1, 1, 0], r"labels\[0, 2\] is 2"),
        ([IGNORE, 1, 2], [0, 1, 1], r"labels\[0, 1\] is 1"),
    ],
)
def test_a_label_in_padding_or_predicted_from_padding_is_refused(labels, mask, where):
    with pytest.raises(LabelError, match=where):
        select_rows(torch.tensor([labels]), torch.tensor([mask]), "answer")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(logits=torch.zeros(1, 4, V)),
            r"logits has shape \[1, 4, 5\]; expected \[2, 4, 'V'\]",
        ),
        (dict(logits=torch.zeros(2, 3, V)), "logits has shape"),
        (dict(labels=torch.full((4,), IGNORE)), r"labels has shape \[4\]"),
        (dict(teacher_logits=torch.zeros(1, 4, V)), r"teacher_logits has shape \[1, 4, 5\]"),
        (dict(teacher_logits=torch.zeros(2, 4, 1)), r"teacher_logits has shape \[2, 4, 1\]"),
        (dict(attention_mask=torch.ones(4)), r"attention_mask has shape \[4\]"),
        (dict(hidden=torch.zeros(1, 4, D)), r"hidden has shape \[1, 4, 3\]"),
        (dict(hidden=torch.zeros(2, D)), r"hidden has shape \[2, 3\]"),
        (
            dict(hidden=torch.zeros(2, 4, D), teacher_hidden=torch.zeros(2, 4, 1)),
            r"teacher_hidden has shape \[2, 4, 1\]",
        ),
        (dict(logits=None), "logits and hidden are both None"),
    ],
)
def test_shapes_that_torch_would_broadcast_are_refused(change, message):
    good = dict(
        logits=torch.zeros(2, 4, V),
        labels=torch.full((2, 4), IGNORE),
        teacher_logits=torch.zeros(2, 4, V),
    )
    with pytest.raises(ShapeError, match=message):
        Outputs(**{**good, **change}).batch_rows()


def test_values_that_do_not_belong_to_their_rows_are_refused():
    batch = collate(sequences(0)).batch_rows()
    for function in (token_mean, sequence_mean, sequence_sum):
        for wrong in (torch.zeros(1), torch.zeros(5), torch.zeros(15, 1)):
            with pytest.raises(ShapeError, match=r"expected \[15\]"):
                function(batch, wrong)
    for wrong in (torch.zeros(()), torch.zeros(1), torch.zeros(5, 1)):
        with pytest.raises(ShapeError, match=r"expected \[5\], one per sequence"):
            mean_over_sequences(wrong, batch)
    with pytest.raises(ShapeError, match=r"loss term nll has shape \[5\]; expected a scalar"):
        Loss.of(nll=torch.zeros(5))
    with pytest.raises(ShapeError, match=r"student_logits has shape \[15, 5, 1\]"):
        BatchRows(
            labels=batch.labels,
            attention_mask=batch.attention_mask,
            student_logits=lambda sequence, position: torch.zeros(len(sequence), V, 1),
        ).terms("answer")


def test_dpo_refuses_a_different_number_of_refusals():
    parts = sequences(0)
    with pytest.raises(ShapeError, match="the idk batch has 1 sequences"):
        method_loss("dpo", {"forget": collate(parts), "idk": collate(parts[:1])})


# Mutants: each is one mistake of the kind that the released code or its readers made.


def shift_off_by_one(patch):
    plain = rows.select_rows

    def unshifted(labels, attention_mask, row_set):
        if row_set != "answer":
            return plain(labels, attention_mask, row_set)
        sequence, position = (labels != IGNORE).nonzero(as_tuple=True)
        return rows.Rows(sequence, position, labels[sequence, position])

    patch.setattr(rows, "select_rows", unshifted)


def padding_counted(patch):
    plain = rows.select_rows
    patch.setattr(
        rows,
        "select_rows",
        lambda labels, mask, row_set: plain(labels, torch.ones_like(mask), "all"),
    )


def kl_swapped(patch):
    plain = rows.token_terms

    def swapped(*arguments, **options):
        found = plain(*arguments, **options)
        return replace(
            found,
            kl_teacher_student=found.kl_student_teacher,
            kl_student_teacher=found.kl_teacher_student,
        )

    patch.setattr(rows, "token_terms", swapped)


def everywhere(patch, name, replacement):
    """Puts the replacement in place of a reduction in every method that imported it."""
    for method in METHODS.values():
        if hasattr(method, name):
            patch.setattr(method, name, replacement)


def sum_for_token_mean(patch):
    everywhere(
        patch,
        "token_mean",
        lambda batch, column, row_set="answer": sequence_sum(batch, column, row_set).sum(),
    )


def sum_for_sequence_mean(patch):
    everywhere(
        patch,
        "sequence_mean",
        lambda batch, column, row_set="answer": mean_over_sequences(
            sequence_sum(batch, column, row_set), batch
        ),
    )


def sequence_mean_for_token_mean(patch):
    everywhere(patch, "token_mean", reductions.sequence_mean)


def token_mean_for_sequence_mean(patch):
    everywhere(patch, "sequence_mean", reductions.token_mean)


def mean_inside_the_nonlinearity(patch):
    """The mean over sequences of the log-ratio before the softplus, not of the softplus."""
    everywhere(
        patch,
        "sequence_sum",
        lambda batch, column, row_set="answer": (
            sequence_sum(batch, column, row_set).mean().expand(len(batch.labels))
        ),
    )


def token_mean_inside_the_nonlinearity(patch):
    """The log-ratio per token, as length-normalised variants have it."""

    def per_token(batch, column, row_set="answer"):
        n_own = torch.bincount(batch.rows(row_set).sequence, minlength=len(batch.labels))
        return sequence_sum(batch, column, row_set) / n_own

    everywhere(patch, "sequence_sum", per_token)


NLL_MEANS = {"retain_ft", "grad_ascent", "grad_diff", "kl", "idk", "dpo", "scrub", "llmu", "sku"}
KL_METHODS = {"kl", "scrub", "llmu", "sku"}
MUTANTS = {  # mutant: the methods whose every by-hand case it must break
    shift_off_by_one: set(METHODS) - {"rmu"},
    padding_counted: set(METHODS)
    - {"npo"},  # its sums are not divided, and the nll of an ignored row is 0
    kl_swapped: KL_METHODS,
    sum_for_token_mean: NLL_MEANS,
    sum_for_sequence_mean: KL_METHODS | {"rmu"},
    sequence_mean_for_token_mean: NLL_MEANS,
    token_mean_for_sequence_mean: KL_METHODS | {"rmu"},
    mean_inside_the_nonlinearity: {"dpo", "npo"},
    token_mean_inside_the_nonlinearity: {"dpo", "npo"},
}


def by_hand_error(method, options, expected):
    if method != "rmu":
        return abs(case_loss(method, options).value.item() - sum(expected.values()))
    return abs(method_loss("rmu", rmu_batches(), c=5).value.item() - (40 / 3 + 3))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_every_mutant_breaks_every_by_hand_case_it_touches_and_no_other(monkeypatch, mutant):
    monkeypatch.setattr(
        losses, "control_vector", lambda seed, width: torch.tensor([0.6, 0.8], dtype=torch.float64)
    )
    for method, options, expected in [*CASES, ("rmu", {}, {})]:
        assert by_hand_error(method, options, expected) < 1e-12
        with monkeypatch.context() as patch:
            mutant(patch)
            error = by_hand_error(method, options, expected)
        assert error > 1e-3 if method in MUTANTS[mutant] else error < 1e-12, (
            method,
            options,
            error,
        )
