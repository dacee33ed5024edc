"""estimate visual counts what a training does: its steps, the pictures that pass forward and
backward, operations, and bytes that are kept, of every stage under every semantics. Counted here by
hooks of torch while a tiny network is trained and scored.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from clear_ref.visual import costs
from clear_ref.visual.experiment import train_all
from clear_ref.visual.head import new_head
from clear_ref.visual.method_names import SEMANTICS
from clear_ref.visual.methods.table import methods_under
from clear_ref.visual.names import Classes
from clear_ref.visual.network import ResNet18, new_network
from clear_ref.visual.pictures import Pictures
from clear_ref.visual.recipes import recipe_of
from clear_ref.visual.splits import Split
from clear_ref.visual.store import Store
from clear_ref.visual.training import Faces

PEOPLE, EACH, SIZE, WIDTH, BATCH = 8, 6, 33, 1, 5
SPLIT = Split(0, 0, members=(0, 2, 3, 4), forget=(0,), holdout=(1,), retain=(2, 3, 4))
CASES = [
    (semantics, stage)
    for semantics in SEMANTICS
    for stage in ("base", "gold", *methods_under(semantics))
]


def tiny(semantics):
    """The Experiment of estimate, and the same with pixels and weights: 24 members, 6 forgotten.

    The original scrub has passes of its own in the first three of its four epochs. Batches of 5
    leave pictures over in each set but the pool.
    """
    stages = ("base", "gold", *methods_under(semantics))
    epochs = 4 if semantics == "original" else 2
    small = {"epochs": epochs, "batch_size": BATCH, "lr": 1e-4, "forget_times": 2}
    recipes = {stage: replace(recipe_of(stage, semantics), **small) for stage in stages}
    classes = Classes(tuple("ABCDEFGH"), np.repeat(np.arange(PEOPLE), EACH))
    counted = costs.without_pixels(classes, [SPLIT], semantics, recipes, SIZE, WIDTH)
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (PEOPLE * EACH, 3, SIZE, SIZE)).astype(np.uint8)
    captions = [f"picture {number}" for number in range(len(pixels))]
    labels = torch.from_numpy(classes.labels)
    faces = Faces(Pictures(torch.from_numpy(pixels)), labels, PEOPLE, captions)
    return counted, replace(counted, faces=faces, start=new_network(WIDTH, 0))


class Counting:
    """What passes through ResNet18s and what autograd keeps, while the block runs."""

    def __init__(self):
        self.forward = self.alone = self.backward = self.steps = 0
        self.inside = None  # the network that is being passed
        self.kept = {}  # {storage: (bytes, the network that kept it, a tensor that holds it)}
        self.most = (0, 0)  # bytes of the network and of the loss, of the step with most

    def enter(self, module, _):
        if isinstance(module, ResNet18):
            self.inside = module

    def leave(self, module, given, output):
        if not isinstance(module, ResNet18):
            return
        self.inside = None
        if torch.is_grad_enabled():
            self.forward += len(given[0])
            output.register_hook(self.came_back)
        else:
            self.alone += len(given[0])

    def came_back(self, gradient):
        self.backward += len(gradient)

    def keep(self, tensor):
        storage = tensor.untyped_storage()
        self.kept.setdefault(storage._cdata, (storage.nbytes(), self.inside, tensor))
        return tensor

    def step_is_over(self, optimizer, *_):
        self.steps += 1
        networks = {network for _, network, _ in self.kept.values() if network is not None}
        weights = [each for group in optimizer.param_groups for each in group["params"]]
        weights += [each for network in networks for each in network.state_dict().values()]
        own = {each.untyped_storage()._cdata for each in weights}
        n_bytes = {True: 0, False: 0}
        for key, (n, network, _) in self.kept.items():
            n_bytes[network is not None] += n * (key not in own)
        self.most = max(self.most, (n_bytes[True], n_bytes[False]))
        self.kept.clear()

    def __enter__(self):
        self.hooks = [
            register_module_forward_pre_hook(self.enter),
            register_module_forward_hook(self.leave),
            register_optimizer_step_post_hook(self.step_is_over),
        ]
        self.saved = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)
        self.saved.__enter__()
        return self

    def __exit__(self, *reason):
        self.saved.__exit__(*reason)
        for hook in self.hooks:
            hook.remove()


def run(experiment, stage, directory):
    """Train and score a stage, as `visual` does; a method from a base of initial values."""
    store = Store(directory)
    if stage not in ("base", "gold"):
        store.write_network(0, "base", experiment.start, new_head(PEOPLE, 8 * WIDTH, 0))
    assert train_all(replace(experiment, stages=(stage,)), store, 1) == []


@pytest.mark.parametrize("semantics, stage", CASES)
def test_steps_pictures_and_kept_bytes_are_those_of_the_training(semantics, stage, tmp_path):
    """The kept bytes of the largest step are exactly those of its pictures, without two numbers for
    each channel of BN in training mode and each batch; the loss keeps a few rows of embeddings and
    people for each picture beside them.
    """
    counted, real = tiny(semantics)
    work = costs.work_of(counted, stage)
    with Counting() as found:
        run(real, stage, tmp_path)
    assert (found.steps, found.forward, found.alone) == (work.steps, work.trained, work.passed)
    assert found.backward == work.trained
    of_network, of_loss = found.most
    if real.recipes[stage].bn == "train":
        channels = WIDTH * (1 + 4 * (1 + 2 + 4 + 8) + (2 + 4 + 8))
        of_network -= 2 * 4 * channels * -(-work.largest // BATCH)
    assert of_network == work.largest * costs.picture_costs(SIZE, WIDTH).kept
    assert of_loss < 30 * 4 * (work.largest + PEOPLE) * (PEOPLE + 8 * WIDTH)


@pytest.mark.parametrize(
    "semantics, stage", [("paper", "base"), ("released", "rmu"), ("original", "scrub")]
)
def test_operations_are_those_of_convolutions_in_torchs_counter(semantics, stage, tmp_path):
    """A stage without targets, one with targets of the retain set alone, one with two passes."""
    counted, real = tiny(semantics)
    with FlopCounterMode(display=False) as counter:
        run(real, stage, tmp_path)
    operations = counter.get_flop_counts()["Global"]
    n = sum(each for name, each in operations.items() if "convolution" in str(name))
    assert costs.costs_of(counted, stage)["pflop"] == pytest.approx(n / 1e15, rel=1e-12)


class Live(TorchDispatchMode):
    """The most bytes of tensors that an operation has made and that live at once."""

    def __init__(self):
        super().__init__()
        self.living, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for each in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                self.living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        alive = {key: each for key, each in self.living.items() if not each[0].expired()}
        self.living = alive
        self.most = max(self.most, sum(n_bytes for _, n_bytes in alive.values()))
        return output


@pytest.mark.parametrize("width, size", [(2, 33), (8, 96)])
def test_a_pass_without_gradient_takes_what_lives_at_once(width, size):
    network = new_network(width, 0).eval()
    with torch.no_grad(), Live() as live:
        network(torch.zeros(3, 3, size, size))
    assert live.most == 3 * costs.picture_costs(size, width).passing


def test_memory_is_the_networks_the_pictures_and_the_largest_step_or_the_scoring():
    """By hand at 224 pixels: five networks of 11,176,512 numbers and a head of 200 x 512, 3,768
    pictures of 150,528 bytes, and 512 pictures of scrub; the scoring of sparsity has 256 pictures
    at once, of which each takes 0.6 + 2 x 3.2 MB, and a step 32 pictures of 22.2 MB.
    """
    fixed = 5 * 4 * (11_176_512 + 200 * 512) + 3768 * 150_528
    for stage, more in (
        ("scrub", 512 * costs.picture_costs().kept),
        ("sparsity", 256 * 4 * (3 * 224 * 224 + 2 * 112 * 112 * 64)),
    ):
        found = costs.costs_of(costs.real_size("paper"), stage)["memory_gb"]
        assert found == pytest.approx((fixed + more) / 1e9, rel=1e-12)


@pytest.mark.parametrize(
    "semantics, stage, steps, pictures",
    [
        # 1,507 retain pictures are 5 full batches of 256; 3,770 repeated forget pictures are 14,
        # and 29 of 128; a pool of 5,277 has 20.
        ("paper", "base", 160, 20 * 1884),
        ("paper", "scrub", 5 * 5, 5 * 5 * 512),
        ("paper", "dpo", 4 * 14, 4 * 14 * 256),
        ("paper", "rmu", 3 * 5, 3 * 5 * 512),
        ("released", "dpo", 4 * 5, 4 * 5 * 512),
        ("released", "rmu", 3 * 20, 3 * 20 * 256),
        ("released", "twins", 5 * 29, 5 * 29 * 128),
        ("original", "scrub", 3 * 14 + 5 * 5, (3 * 14 + 5 * 5) * 256),
    ],
)
def test_at_real_size_the_steps_are_those_by_hand(semantics, stage, steps, pictures):
    work = costs.work_of(costs.real_size(semantics), stage)
    assert (work.steps, work.trained) == (steps, pictures)
