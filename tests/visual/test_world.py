"""The embedded world of faces: base remembers the forgotten people, gold does not know them, retain
fine-tuning forgets nothing.
"""

import pytest
import torch

from clear_ref.data.grouping import first_ungrouped
from clear_ref.visual import world, world_recipes
from clear_ref.visual.experiment import Experiment, train_all
from clear_ref.visual.method_names import STAGES
from clear_ref.visual.names import check_classes, classes_of
from clear_ref.visual.pictures import row_pictures
from clear_ref.visual.splits import make_splits
from clear_ref.visual.store import Store
from clear_ref.visual.training import Faces


def names():
    """The name of each row."""
    return [row.values["name"] for row in world.world_rows()]


def test_it_has_34_people_in_362_pictures_grouped_by_name():
    classes = classes_of(names())
    check_classes(classes)
    assert len(classes.names) == 34 and len(classes.labels) == 362
    assert first_ungrouped(names()) is None
    assert set(classes.counts().tolist()) == {10, 11, 12}


def test_each_split_has_17_members_of_whom_four_are_forgotten():
    splits = make_splits(classes_of(names()), world.PEOPLE, world.N_SPLITS)
    assert {len(split.members) for split in splits} == {17}
    assert {len(split.forget) for split in splits} == {4}


@pytest.mark.slow
def test_base_remembers_gold_does_not_and_retain_fine_tuning_forgets_nothing(tmp_path):
    """The first split. Of the 44 forgotten pictures 24 are questions; one is 4 percent. Chance
    is 1 / 34.
    """
    rows = world.world_rows()
    classes = classes_of(names())
    splits = make_splits(classes, world.PEOPLE, world.N_SPLITS)[:1]
    labels = torch.from_numpy(classes.labels)
    stages = ("base", "gold", "retain_ft")
    experiment = Experiment(
        classes=classes,
        splits=splits,
        faces=Faces(row_pictures(rows, world.SIZE), labels, len(classes.names)),
        start=world.start_network(0),
        semantics="paper",
        stages=stages,
        recipes={stage: world_recipes.recipe_of(stage, "paper") for stage in STAGES},
        options={},
        seed=0,
        keep_all=False,
    )
    store = Store(tmp_path)
    assert train_all(experiment, store, 1) == []
    forget = {stage: store.result(0, stage).accuracy["paper"]["forget"] for stage in stages}
    assert forget["base"] >= 90 and forget["retain_ft"] >= 90 and forget["gold"] <= 45
