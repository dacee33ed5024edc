"""Training of the face network: a step is SGD's by hand, each stage trains what its file says,
equal seeds give equal bytes, and a failed or impossible training says so in one line.
"""

import dataclasses
import re

import pytest
import torch

from clear_ref.common.errors import RunFailed, ShapeError, UserError
from clear_ref.visual.head import am_softmax, new_head
from clear_ref.visual.methods import table
from clear_ref.visual.network import new_network
from clear_ref.visual.recipes import UNLEARN, VisualRecipe, recipe_of
from clear_ref.visual.training import Faces, Plan, steps_of, train
from tests.helpers.tiny_faces import FORGET, RETAIN, tiny_faces

ROWS = {"forget": FORGET, "retain": RETAIN}
SMALL = VisualRecipe(epochs=2, batch_size=4, lr=0.05, schedule="constant", drop_last="on")
METHODS = [
    pytest.param(method, semantics, id=f"{method}-{semantics}")
    for method, module in table.METHODS.items()
    for semantics in module.VARIANTS
]


def small(method):
    """A method's recipe with few small steps."""
    return dataclasses.replace(recipe_of(method), epochs=1, batch_size=4, lr=0.005, forget_times=2)


def trained(stage, semantics="paper", recipe=None, rows=None, faces=None, log=None, **changes):
    """(start, start's head, trained network, its head) of a tiny training."""
    faces = faces or tiny_faces()
    network, head = new_network(1, seed=1), new_head(3, 8, seed=2)
    chosen = recipe or small(stage)
    plan = Plan("split 5", stage, semantics, chosen, **changes)
    if rows is None:
        rows = ROWS if stage in table.METHODS else {"train": [*FORGET, *RETAIN]}
    return network, head, *train(plan, network, head, faces, rows, log)


def equal(one, other):
    """Whether two modules have the same bytes, BN's counters included."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_two_steps_are_sgd_by_hand():
    """v = 0.9 v + (g + decay w); w = w - rate v, for network and head, BN and all, in float64. The
    order of the pictures, which is drawn, changes the last bits of sums alone.
    """
    faces = tiny_faces()
    recipe = VisualRecipe(epochs=2, batch_size=12, lr=0.05, weight_decay=0.01, schedule="cosine")
    network, head = new_network(1, seed=1).double(), new_head(3, 8, seed=2).double()
    plan = Plan("split 5", "base", "paper", recipe)
    found, found_head = train(plan, network, head, faces, {"train": range(12)})
    weight = head.weight
    network.train()
    momenta = {}
    for rate in (0.05, 0.025):  # cosine of two epochs
        pixels = faces.pictures.pixels(range(12)).double()
        loss = am_softmax(network(pixels), weight, faces.labels, True).sum() / 12
        parameters = [*network.parameters(), weight]
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for k, (value, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                momenta[k] = 0.9 * momenta.get(k, 0) + gradient + 0.01 * value
                value -= rate * momenta[k]
    for one, other in zip(found.parameters(), network.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)
    assert torch.allclose(found_head.weight, weight, rtol=1e-9, atol=1e-11)
    assert torch.allclose(found.layer4[1].bn2.running_var, network.layer4[1].bn2.running_var)


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics", METHODS)
def test_a_method_trains_what_its_variant_says_with_the_same_bytes_each_time(method, semantics):
    """The network always moves, the head if trains_head; BN's statistics only in training mode. The
    start is not changed. The trace has each step, and its terms add up. The number of threads, two
    and one, changes nothing and is left as it was.
    """
    lines = []
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        start, head, network, found_head = trained(method, semantics, log=lines.append)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        again = trained(method, semantics)
    finally:
        torch.set_num_threads(n_threads)
    assert equal(network, again[2]) and equal(found_head, again[3])
    assert equal(start, new_network(1, seed=1)) and start.training and not network.training
    assert not torch.equal(network.conv1.weight, start.conv1.weight)
    moved = not torch.equal(head.weight, found_head.weight)
    assert moved is table.variant(method, semantics).trains_head
    kept = torch.equal(network.bn1.running_mean, start.bn1.running_mean)
    assert kept is (recipe_of(method).bn == "eval")
    plan = Plan("split 5", method, semantics, small(method))
    assert [line["step"] for line in lines] == list(range(1, steps_of(plan, ROWS) + 1))
    for line in lines:
        terms = [line[name] for name in set(line) - {"step", "epoch", "rate", "loss"}]
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-5, abs=1e-6)


def test_another_seed_gives_other_bytes():
    assert not equal(trained("retain_ft")[2], trained("retain_ft", seed=1)[2])


def test_base_learns_the_people():
    """From a loss of guesses (12 of the margin + log 3, at equal cosines) to nearly 0."""
    recipe = VisualRecipe(epochs=25, batch_size=12, lr=0.1, schedule="constant")
    lines = []
    plan = Plan("split 0", "base", "paper", recipe)
    train(plan, new_network(2, 1), None, tiny_faces(), {"train": range(12)}, lines.append)
    assert lines[0]["loss"] > 8 and lines[-1]["loss"] < 0.5


def test_a_new_head_is_drawn_if_none_is_given():
    plan = Plan("split 0", "base", "paper", SMALL)
    faces, rows = tiny_faces(), {"train": RETAIN}
    _, head = train(plan, new_network(1, seed=1), None, faces, rows)
    assert head.weight.shape == (3, 8)
    other = dataclasses.replace(plan, seed=1)
    assert not torch.equal(
        head.weight, train(other, new_network(1, 1), None, faces, rows)[1].weight
    )


def test_gold_never_sees_a_forget_picture():
    """Other forget pictures, the same bytes."""
    faces = tiny_faces()
    values = faces.pictures.values.clone()
    values[FORGET] = 255 - values[FORGET]
    changed = Faces(type(faces.pictures)(values), faces.labels, 3, faces.captions)
    for stage, rows in (("gold", {"train": RETAIN}), ("retain_ft", ROWS)):
        one = trained(stage, recipe=SMALL, rows=rows, faces=faces)
        assert equal(one[2], trained(stage, recipe=SMALL, rows=rows, faces=changed)[2])


def test_the_original_scrub_has_max_passes_in_its_first_epochs():
    lines = []
    recipe = dataclasses.replace(small("scrub"), epochs=3, forget_times=1)
    options = table.make_options("scrub", {"msteps": 2}, "original")
    trained("scrub", "original", recipe, log=lines.append, options=options)
    # A max pass has one batch of the 4 forget pictures, a min pass two of the 8 retain pictures.
    kinds = ["max" if "forget_kl" in line else "min" for line in lines]
    assert kinds == ["max", "min", "min", "max", "min", "min", "min", "min"]


def test_the_l1_of_the_original_sparsity_falls_by_epoch():
    lines = []
    recipe = dataclasses.replace(small("sparsity"), epochs=4, lr=1e-9, weight_decay=0.0)
    trained("sparsity", "original", recipe, log=lines.append)
    weights = [line["l1"] / lines[0]["l1"] for line in lines]
    assert weights == pytest.approx([1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25], rel=1e-4)


def test_a_loss_that_is_not_finite_names_split_stage_step_and_term():
    recipe = dataclasses.replace(SMALL, lr=1e30)
    message = r"^split 5, retain_ft \(released\), step 2 of 4: term retain_am is nan; expected"
    with pytest.raises(RunFailed, match=message):
        trained("retain_ft", "released", recipe)
    with pytest.raises(RunFailed, match=r"^split 5, base \(paper\), step 2 of 6: term am is "):
        trained("base", recipe=recipe)


def test_a_last_step_that_breaks_a_weight_is_seen():
    recipe = dataclasses.replace(SMALL, epochs=1, batch_size=8, lr=1e38)
    with pytest.raises(RunFailed, match=r"split 5, retain_ft \(paper\): \S+ is not finite after"):
        trained("retain_ft", recipe=recipe)


def test_a_set_that_fills_no_batch_is_refused():
    recipe = dataclasses.replace(SMALL, batch_size=9)
    message = "a pass over the retain set has 8 pictures.* expected a batch_size up to 8, found 9"
    with pytest.raises(UserError, match="^split 5, scrub .paper.: " + message):
        trained("scrub", recipe=recipe)
    kept = dataclasses.replace(recipe, drop_last="off")
    assert steps_of(Plan("", "retain_ft", "paper", kept), ROWS) == 2


@pytest.mark.parametrize(
    "stage, semantics, change, message",
    [
        ("base", "paper", {"batch_size": 11}, "the train set (12 pictures, batch_size 11) has one"),
        ("gold", "paper", {"batch_size": 1}, "the train set (12 pictures, batch_size 1) has one"),
        ("sparsity", "original", {"batch_size": 7}, "the retain set (8 pictures, batch_size 7)"),
        ("scrub", "original", {"batch_size": 3}, "the forget set (4 pictures, batch_size 3) has"),
        ("rmu", "released", {"batch_size": 5, "forget_times": 2}, "the pool set (16 pictures, bat"),
        ("scrubbio", "paper", {"batch_size": 3, "forget_times": 1}, "the forget set (4 pictures"),
        ("twins", "released", {"batch_size": 3, "forget_times": 1}, "the forget set (4 pictures"),
    ],
)
def test_a_batch_of_one_small_picture_is_refused_where_bn_is_trained(
    stage, semantics, change, message
):
    """On pictures of 32 pixels the last stage has one position. Larger ones, BN in eval mode and
    whole batches alone are trained.
    """
    recipe = dataclasses.replace(SMALL, epochs=1, drop_last="off", **change)
    small_faces = tiny_faces(size=32)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        trained(stage, semantics, recipe, faces=small_faces)
    assert str(error.value).startswith(f"split 5, {stage} ({semantics}): a batch of the ")
    assert "drop_last on, bn eval, or larger pictures" in str(error.value)
    trained(stage, semantics, recipe)
    trained(stage, semantics, dataclasses.replace(recipe, bn="eval"), faces=small_faces)
    if recipe.batch_size > 1:
        whole = dataclasses.replace(recipe, drop_last="on")
        trained(stage, semantics, whole, faces=small_faces)


def test_a_batch_of_one_picture_that_no_step_reads_is_no_fault():
    """Two passes end with the shorter one: of 8 and 9 pictures, the ninth is in no step."""
    recipe = dataclasses.replace(SMALL, epochs=1, drop_last="off", forget_times=2)
    faces = tiny_faces(4, size=32)
    rows = {"forget": FORGET, "retain": [*RETAIN, 12]}
    trained("rmu", recipe=recipe, faces=faces, rows=rows)
    with pytest.raises(UserError, match="a batch of the retain set .9 pictures, batch_size 4"):
        trained("retain_ft", recipe=recipe, faces=faces, rows=rows)


def test_pairs_by_position_need_batches_as_large_as_each_other():
    """The released dpo alone: of 12 and 8 pictures the second step has 5 and 3."""
    recipe = dataclasses.replace(SMALL, batch_size=5, drop_last="off", forget_times=3)
    message = "step 2 of an epoch has 3 of the retain set and 5 of the forget set (batch_size 5, "
    with pytest.raises(UserError, match=re.escape("split 5, dpo (released): " + message)):
        trained("dpo", "released", recipe)
    trained("dpo", "released", dataclasses.replace(recipe, drop_last="on"))
    trained("dpo", "released", dataclasses.replace(recipe, forget_times=2))
    trained("scrub", "released", recipe)


@pytest.mark.parametrize(
    "stage, rows, message",
    [
        ("base", {"train": []}, "the train set has no picture"),
        ("gold", {"train": FORGET}, "all pictures of the train set are of class 0; expected two"),
        ("twins", {"forget": [], "retain": RETAIN}, "the forget set has no picture"),
        ("twins", {"forget": [0, 1], "retain": [2, 3, 4]}, "class 0 is in the forget and in the"),
        ("twins", {"train": RETAIN}, "rows are ['train']; expected ['forget', 'retain']"),
        ("gold", ROWS, "rows are ['forget', 'retain']; expected ['train']"),
        ("kl", ROWS, "stage is 'kl'; expected one of pretrain, base, gold, retain_ft"),
    ],
)
def test_rows_that_a_stage_cannot_use_are_refused(stage, rows, message):
    with pytest.raises(UserError, match=re.escape(message)):
        trained(stage, recipe=SMALL, rows=rows)


def test_faces_whose_parts_disagree_are_refused():
    faces = tiny_faces()
    with pytest.raises(ShapeError, match="there are 2 captions and 12 pictures"):
        Faces(faces.pictures, faces.labels, 3, ["a", "b"])
    with pytest.raises(UserError, match=r"expected a class in \[0, 2\)"):
        Faces(faces.pictures, faces.labels, 2)


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"lr": -1.0}, {"bn": "off"}, {"schedule": "step"}]
)
def test_a_wrong_recipe_is_refused(change):
    [name] = change
    with pytest.raises(UserError, match=f"{name} is .*; expected"):
        dataclasses.replace(UNLEARN, **change)
