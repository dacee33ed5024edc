"""Targets, and the released quirks that change them: embeddings by the base, drawn vectors, the
lookup by caption text; each quirk changes what is trained.
"""

import dataclasses
import math

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.visual.head import new_head
from clear_ref.visual.methods.variant import Target
from clear_ref.visual.network import new_network
from clear_ref.visual.recipes import recipe_of
from clear_ref.visual.targets import embed, forget_values, target_table
from clear_ref.visual.training import Faces, Plan, train, trainer_of
from tests.helpers.tiny_faces import FORGET, RETAIN, tiny_faces

ROWS = {"forget": FORGET, "retain": RETAIN}


def plan_of(method, semantics="released", **changes):
    """A plan with small batches."""
    small = {"epochs": 1, "batch_size": 4, "lr": 0.005, "forget_times": 2}
    recipe = dataclasses.replace(recipe_of(method), **(small | changes))
    return Plan("split 0", method, semantics, recipe)


def with_captions(faces, captions):
    """The same faces with some captions changed: {picture: caption}."""
    texts = [captions.get(k, text) for k, text in enumerate(faces.captions)]
    return Faces(faces.pictures, faces.labels, faces.n_classes, texts)


def result(method, faces, semantics="released", **changes):
    """The trained conv1 of a tiny training."""
    network, head = new_network(1, seed=1), new_head(3, 8, seed=2)
    plan = plan_of(method, semantics, **changes)
    return train(plan, network, head, faces, ROWS)[0].conv1.weight


def test_embeddings_are_those_of_eval_mode_in_the_order_asked_for():
    faces, network = tiny_faces(), new_network(2, seed=0).train()
    found = embed(network, faces.pictures, [7, 0, 3], at_once=2)
    assert network.training and not found.requires_grad
    network.eval()
    for place, picture in enumerate([7, 0, 3]):
        assert torch.allclose(found[place], network(faces.pictures.pixels([picture]))[0], atol=1e-5)
    mirrored = embed(network, faces.pictures, [7], mirrored=True)
    flipped = type(faces.pictures)(faces.pictures.values.flip(3))
    assert torch.allclose(mirrored, embed(network, flipped, [7]), atol=1e-6)
    assert not torch.allclose(mirrored[0], found[0], atol=1e-4)
    assert embed(network, faces.pictures, []).shape == (0, 16)


def test_drawn_targets_have_their_range_and_length():
    faces, base = tiny_faces(), new_network(2, seed=0)
    drawn = forget_values(Target.PER_PICTURE, base, faces.pictures, [0, 1, 2], 2.0, 0)
    assert drawn.shape == (3, 16) and float(drawn.abs().max()) <= 2 and float(drawn.min()) < 0
    assert not torch.equal(drawn[0], drawn[1])
    again = forget_values(Target.PER_PICTURE, base, faces.pictures, [2, 0], 2.0, 0)
    assert torch.equal(again[1], drawn[0])  # of the picture, not of its place
    one = forget_values(Target.DIRECTION, base, faces.pictures, [0, 1], 3.0, 0)
    assert torch.equal(one[0], one[1]) and float(one.min()) >= 0
    assert float(one[0].norm()) == pytest.approx(3, rel=1e-6)
    many = forget_values(Target.PER_PICTURE, new_network(8, 0), faces.pictures, FORGET, 2.0, 0)
    # 2 U(-1, 1) has the variance 4/3.
    assert float(many.std()) == pytest.approx(2 / math.sqrt(3), rel=0.1)


def test_the_lookup_by_caption_keeps_the_last_entry_and_retain_comes_last():
    of_forget, of_retain = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0]])
    captions = ["a man", "a man", "a smile", "a hat", "a smile"]
    own = target_table([0, 1, 2], [3, 4], of_forget, of_retain)
    values, forget = own.of([0, 1, 2, 3, 4])
    assert values.flatten().tolist() == [1, 2, 3, 10, 20]
    assert forget.tolist() == [True, True, True, False, False]
    shared = target_table([0, 1, 2], [3, 4], of_forget, of_retain, captions)
    values, forget = shared.of([0, 1, 2, 3, 4])
    assert values.flatten().tolist() == [2, 2, 20, 10, 20]
    assert forget.tolist() == [True, True, False, False, False]
    with pytest.raises(UserError, match="picture 2 is in the forget and in the retain set"):
        target_table([2], [2, 3], of_forget[:1], of_retain)


@pytest.mark.parametrize("method", ["rmu", "scrubbio", "twins"])
def test_targets_by_caption_text_change_what_is_trained(method):
    """A forget picture that has a retain picture's caption is trained towards that one's embedding.
    The paper's variant looks nothing up.
    """
    faces = tiny_faces()
    shared = with_captions(faces, {FORGET[0]: faces.captions[RETAIN[0]]})
    assert not torch.equal(result(method, faces), result(method, shared))
    of_paper = (result(method, each, "paper") for each in (faces, shared))
    assert torch.equal(*of_paper)


@pytest.mark.parametrize("method", ["retain_ft", "scrub", "llmu", "dpo", "sparsity"])
def test_other_methods_read_no_caption(method):
    faces = tiny_faces()
    one = result(method, faces)
    assert torch.equal(one, result(method, with_captions(faces, {0: faces.captions[5]})))
    assert torch.equal(one, result(method, tiny_faces(captions=False)))


def test_the_lookup_needs_captions():
    with pytest.raises(UserError, match="split 0, twins .released. looks targets up by caption"):
        result("twins", tiny_faces(captions=False))


def test_weights_as_they_are_change_what_is_trained():
    """The released reading of W, in base and in a method, against the paper's."""
    faces = tiny_faces()
    for stage in ("base", "retain_ft", "sparsity"):
        found = []
        for semantics in ("paper", "released"):
            plan = plan_of("retain_ft", semantics)
            plan = dataclasses.replace(plan, stage=stage)
            rows = {"train": RETAIN} if stage == "base" else ROWS
            start = new_network(1, seed=1), new_head(3, 8, seed=2)
            found.append(train(plan, *start, faces, rows)[0].conv1.weight)
        assert not torch.equal(*found), stage


def test_the_released_twins_never_reads_a_retain_picture_but_the_papers_does():
    faces = tiny_faces()
    values = faces.pictures.values.clone()
    values[RETAIN] = 255 - values[RETAIN]
    changed = Faces(type(faces.pictures)(values), faces.labels, 3, faces.captions)
    assert torch.equal(result("twins", faces), result("twins", changed))
    assert not torch.equal(result("twins", faces, "paper"), result("twins", changed, "paper"))


def test_the_share_of_the_forget_set_in_a_pool_changes_what_is_trained():
    faces = tiny_faces()
    assert not torch.equal(
        result("scrubbio", faces, forget_times=5), result("scrubbio", faces, forget_times=1)
    )


def test_random_people_are_of_the_retain_set_and_new_in_each_step():
    faces = tiny_faces(n_people=9)
    rows = {"forget": FORGET, "retain": list(range(4, 32))}  # the last person is in neither
    network, head = new_network(1, seed=1), new_head(9, 8, seed=2)
    trainer = trainer_of(plan_of("llmu"), network, head, faces, rows)
    assert trainer.others == [1, 2, 3, 4, 5, 6, 7]
    drawn = [trainer.batch("forget", FORGET, step).random.tolist() for step in range(30)]
    assert {each for step in drawn for each in step} == set(trainer.others)
    assert drawn[0] != drawn[1]
    assert trainer.batch("forget", FORGET, 0).random.tolist() == drawn[0]
    assert trainer.batch("retain", FORGET, 0).random is None
