"""Kept results of the teacher are bit for bit those of the live teacher, and serve nothing else.

A training whose teacher's hidden states are kept ends with the same bytes, for every variant with a
teacher; a change of anything that a result depends on computes it again.
Run: python -m pytest tests/loop/test_kept.py
"""

import pytest
import torch
from PIL import Image

from clear_ref import load
from clear_ref.common.errors import Notice, RunFailed
from clear_ref.common.processes import map_in_processes
from clear_ref.data.batches import padded
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import Record
from clear_ref.data.torch_draws import torch_generator
from clear_ref.loop import kept as kept_module
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.kept import HIDDEN, LOGITS, Kept, Name, digest, remove_files
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import split_rows
from clear_ref.loop.stage import trainable
from clear_ref.loop.teacher import Teacher
from clear_ref.loop.unlearn import Unlearning
from clear_ref.methods import METHODS, make_options, variant
from clear_ref.mini.directories import WORLD
from clear_ref.model import lora
from tests.helpers.tiny_model import write_tiny

OPTIONS = {"rmu": {"layer": 1, "c": 2.0}, "sku": {"n_random": 2}}
WITH_OPTIONS = [
    ("grad_diff", "released", {"retain": "kl"}),
    ("npo", "original", {"retain": "kl"}),
    ("dpo", "paper", {"reference": "base", "retain_weight": "1"}),
]


@pytest.fixture(scope="module")
def rows():
    """Four forget records, pictures and text, and six to retain."""
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:2] + forget[20:22], retain[:3] + retain[200:203]


def named(text):
    """The name of a result of that text, in memory and in files."""
    return Name(HIDDEN, text, lambda: text)


def variants_with_a_teacher():
    """(method, semantics, options); those of other dates compute what one of these does."""
    found = []
    for method, module in METHODS.items():
        for semantics in sorted(set(module.VARIANTS) & {"paper", "original", "released"}):
            options = make_options(method, OPTIONS.get(method, {}), semantics)
            needs = variant(method, semantics).needs_of(options).values()
            if any(need.teacher for need in needs):
                found.append((method, semantics, OPTIONS.get(method, {})))
    return found


def trained(directory, rows, case, kept, **recipe):
    """The trained tensors of a training: two steps of two records."""
    method, semantics, given = case
    options = make_options(method, given, semantics)
    chosen = variant(method, semantics)
    vlm = load(directory)
    values = {"epochs": 1, "lora_rank": 2, "lr": 1e-3, "batch_size": 2, "records_at_once": 2}
    recipe = Recipe(accumulate=1, **(values | recipe))
    prepare(vlm, recipe, 0, chosen.targets and chosen.targets(options))
    run = Unlearning(method, semantics, options, recipe, rows, read_phrases(WORLD), 0, kept=kept)
    unlearning.unlearn(vlm, run)
    return {name: tensor.detach().clone() for name, tensor in trainable(vlm).items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", variants_with_a_teacher() + WITH_OPTIONS, ids=lambda case: " ".join(case[:2])
)
def test_a_training_with_kept_results_ends_with_the_same_bytes(case, tiny_directory, rows):
    """Batches of two are padded. The second training finds every result of the first one."""
    live = trained(tiny_directory, rows, case, None)
    kept = Kept(shared=True)
    assert_equal(trained(tiny_directory, rows, case, kept), live)
    computed, found = kept.computed.copy(), kept.found.copy()
    assert computed[HIDDEN]
    assert_equal(trained(tiny_directory, rows, case, kept), live)
    assert kept.computed[HIDDEN] == computed[HIDDEN]
    assert kept.found[HIDDEN] == 2 * found[HIDDEN] + computed[HIDDEN]
    assert kept.computed[LOGITS] == computed[LOGITS]
    assert kept.found[LOGITS] == 2 * found[LOGITS] + computed[LOGITS]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, watched",
    [
        (("npo", "paper", {}), ("forget",)),
        (("scrub", "paper", {}), ("forget", "retain")),
        (("rmu", "paper", OPTIONS["rmu"]), ("retain",)),
        (("dpo", "paper", {"reference": "base"}), ("forget", "idk")),
    ],
    ids=lambda part: " ".join(part[:2]),
)
def test_each_record_is_computed_once_in_a_run(case, watched, tiny_directory, rows):
    """Records alone: computed are the different records (question, answer, picture) of the plan."""
    method, semantics, given = case
    kept = Kept()
    one = {"epochs": 3, "records_at_once": 1}
    live = trained(tiny_directory, rows, case, None, **one)
    assert_equal(trained(tiny_directory, rows, case, kept, **one), live)
    run = Unlearning(method, semantics, None, Recipe(), rows, read_phrases(WORLD), 0)
    plan = run.plan(tuple(variant(method, semantics).needs_of(make_options(method, given))))
    visits = [
        plan.records(epoch, index)[name]
        for name in watched
        for epoch in range(3)
        for index in range(4)
    ]
    assert len(set(visits)) < len(visits)
    n_records = len(set(visits))
    assert kept.computed[HIDDEN] == n_records
    assert kept.found[HIDDEN] == len(visits) - n_records


@pytest.mark.slow
def test_one_run_alone_does_not_keep_what_is_padded_together(tiny_directory, rows):
    """Other records are in a batch at each visit, so nothing would be found again."""
    kept = Kept()
    trained(tiny_directory, rows, ("npo", "paper", {}), kept)
    trained(tiny_directory, rows, ("npo", "released", {}), kept, records_at_once=1)
    assert not kept.computed and not kept.found


@pytest.mark.slow
def test_full_fine_tuning_keeps_results_of_the_copy(tiny_directory, rows):
    kept = Kept()
    case = ("scrub", "paper", {})
    one = {"lora_rank": 0, "records_at_once": 1, "lr": 1e-4, "epochs": 2}
    live = trained(tiny_directory, rows, case, None, **one)
    assert_equal(trained(tiny_directory, rows, case, kept, **one), live)
    assert kept.found[HIDDEN]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    source = next(row.image for row in split_rows(WORLD, "both", 10)[0] if row.image)
    Image.open(source).save(path)
    return path


def adapted(directory, dtype="float32", template=""):
    """A model whose adapters are not zero, with a state of reference."""
    vlm = load(directory, dtype, template=template)
    prepare(vlm, Recipe(lora_rank=2), 0)
    with torch.no_grad():
        for name, adapter in lora.adapters(vlm.model).items():
            adapter.lora_B.normal_(0, 0.1, generator=torch_generator(3, name))
    lora.freeze_reference(vlm.model)
    return vlm


def record(picture, question="Who is it?", answer="It is she."):
    return Record(question, answer, picture)


def other_weights(vlm, picture, kept):
    with torch.no_grad():
        vlm.model.decoder.layers[0].mlp.up_proj.weight[0, 0] += 1
    return vlm, [vlm.encode([record(picture)])], {}


def other_picture(vlm, picture, kept):
    image = Image.open(picture).convert("RGB")
    image.putpixel((3, 3), (1, 2, 3))
    image.save(picture)
    return vlm, [vlm.encode([record(picture)])], {}


def more_padding(vlm, picture, kept):
    batch = vlm.encode([record(picture)])
    return vlm, [padded(batch, batch.input_ids.shape[1] + 3, vlm.tokenizer.pad)], {}


def two_records(vlm, picture, kept):
    return vlm, [vlm.encode([record(picture), record(picture, "Who?")])], {}


def common_prompt(vlm, picture, kept):
    batches = [vlm.encode([record(picture)]), vlm.encode([record(picture, answer="I forgot.")])]
    start = int((batches[0].labels[0] >= 0).nonzero()[0]) - 1
    return vlm, batches, {"start": start}


def other_dtype(vlm, picture, kept):
    vlm = adapted(vlm.directory, "float64")
    return vlm, [vlm.encode([record(picture)])], {}


def other_template(vlm, picture, kept):
    vlm = adapted(vlm.directory, template="llava")
    return vlm, [vlm.encode([record(picture)])], {}


def other_config(vlm, picture, kept):
    """The same weights with other heads."""
    directory = picture.parent / "model"
    write_tiny(directory, {"rope_theta": 777.0})
    vlm = adapted(directory)
    return vlm, [vlm.encode([record(picture)])], {}


def other_identity(vlm, picture, kept):
    kept.identity = "another machine"
    return vlm, [vlm.encode([record(picture)])], {}


CHANGES = {
    "question": lambda vlm, picture, kept: (vlm, [vlm.encode([record(picture, "Who?")])], {}),
    "answer": lambda vlm, picture, kept: (vlm, [vlm.encode([record(picture, answer="No.")])], {}),
    "no picture": lambda vlm, picture, kept: (vlm, [vlm.encode([record(None)])], {}),
    "first row": lambda vlm, picture, kept: (vlm, [vlm.encode([record(picture)])], {"start": 5}),
    "layer": lambda vlm, picture, kept: (vlm, [vlm.encode([record(picture)])], {"layer": 1}),
    "picture": other_picture,
    "weights": other_weights,
    "padding": more_padding,
    "batch": two_records,
    "common prompt": common_prompt,
    "dtype": other_dtype,
    "template": other_template,
    "config": other_config,
    "identity": other_identity,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_part_of_the_name_computes_again(change, tiny_directory, picture, tmp_path):
    kept = Kept(folder=tmp_path / "kept", shared=True)
    vlm = adapted(tiny_directory)
    teacher = Teacher(vlm, kept=kept)
    for _ in range(2):
        teacher.hidden_of_all([vlm.encode([record(picture)])])
    assert (kept.computed[HIDDEN], kept.found[HIDDEN]) == (1, 1)
    changed, batches, more = CHANGES[change](vlm, picture, kept)
    if changed is not vlm:
        teacher = Teacher(changed, kept=kept)
    found = teacher.hidden_of_all(batches, **more)
    assert (kept.computed[HIDDEN], kept.found[HIDDEN]) == (1 + len(batches), 1)
    for one, live in zip(found, Teacher(changed).hidden_of_all(batches, **more), strict=True):
        assert torch.equal(one, live)


def test_a_prompt_that_is_computed_once_for_several_batches_is_another_computation(
    tiny_directory, picture
):
    """The same batch, layer and first row: alone, in a group, and in a group with another answer,
    which is computed alone then.
    """
    kept, vlm = Kept(), adapted(tiny_directory)
    teacher = Teacher(vlm, kept=kept)
    batches = [vlm.encode([record(picture, answer=answer)]) for answer in ("Yes.", "No.", "So.")]
    start = int((batches[0].labels[0] >= 0).nonzero()[0]) - 1
    for group, computed in ((batches[:1], 1), (batches[:2], 3), (batches[::2], 4)):
        found = teacher.hidden_of_all(group, start=start)
        live = Teacher(vlm).hidden_of_all(group, start=start)
        assert all(map(torch.equal, found, live)) and kept.computed[HIDDEN] == computed


def test_the_threads_and_the_state_of_the_adapters_are_part_of_the_name(tiny_directory, picture):
    """By the digest of the weights, which several runs share."""
    kept = Kept(shared=True)
    vlm = adapted(tiny_directory)
    batch = vlm.encode([record(picture)])
    for mode in ("off", "reference"):
        found = Teacher(vlm, mode, kept).hidden_of_all([batch])[0]
        assert torch.equal(found, Teacher(vlm, mode).hidden_of_all([batch])[0])
    with torch.no_grad():
        for adapter in lora.adapters(vlm.model).values():
            adapter.lora_B.mul_(2)
    lora.freeze_reference(vlm.model)
    Teacher(vlm, "reference", kept).hidden_of_all([batch])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        Teacher(vlm, "off", kept).hidden_of_all([batch])
    finally:
        torch.set_num_threads(threads)
    assert (kept.computed[HIDDEN], kept.found[HIDDEN]) == (4, 0)


def test_a_file_serves_other_processes_with_the_same_bits(tmp_path):
    """Two processes keep two results each in one folder; a third store reads all four."""
    values = {
        digest(number): torch.randn(3, 5, generator=torch_generator(number, "v"))
        for number in range(4)
    }

    def put(item):
        Kept(folder=tmp_path, shared=True).put(named(item[0]), item[1])
        return 0

    map_in_processes(put, list(values.items()), 2)
    other = Kept(folder=tmp_path)
    for name, value in values.items():
        assert torch.equal(other.get(named(name), value.device), value)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors"] * 4


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1] + b"\1", lambda raw: raw[:20], lambda raw: b""]
)
def test_a_damaged_file_is_named_and_computed_again(damage, tmp_path):
    """The last bytes are those of the value; the second file is cut."""
    value = torch.ones(3, 5)
    Kept(folder=tmp_path, memory_bytes=0).put(named("a"), value)
    path = tmp_path / "a.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    kept = Kept(folder=tmp_path)
    with pytest.warns(Notice, match="a.safetensors: is not the file that was written there"):
        assert kept.get(named("a"), value.device) is None
    assert not path.exists() and kept.computed[HIDDEN] == 1


def test_the_bounds_hold_and_a_full_disk_is_said_once(tmp_path, monkeypatch):
    """A value has 40 bytes: one fits into memory, two into files, and the fourth nowhere."""
    kept = Kept(folder=tmp_path, memory_bytes=79, file_bytes=119)
    values = [torch.full((10,), float(number)) for number in range(4)]
    for number, value in enumerate(values):
        kept.put(named(str(number)), value)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["1", "2"]
    assert kept.get(named("3"), values[3].device) is None
    assert torch.equal(kept.get(named("1"), values[1].device), values[1])

    def full(*arguments, **named):
        raise RunFailed("the disk is full")

    monkeypatch.setattr(kept_module, "write_tensors", full)
    kept = Kept(folder=tmp_path, memory_bytes=0)
    with pytest.warns(Notice, match="kept in memory alone from here on: the disk is full") as said:
        kept.put(named("5"), values[0])
        kept.put(named("6"), values[0])
    assert len(said) == 1


def test_a_disk_with_little_room_is_left_to_the_run(tmp_path, monkeypatch):
    """4 GiB stay free: a value of 40 bytes is written with 40 bytes more, not with 39."""
    usage = kept_module.shutil.disk_usage(tmp_path)
    value = torch.ones(10)
    for spare in (40, 39):
        free = usage._replace(free=(4 << 30) + spare)
        monkeypatch.setattr(kept_module.shutil, "disk_usage", lambda directory, free=free: free)
        kept = Kept(folder=tmp_path / "kept", memory_bytes=0)
        if spare == 40:
            kept.put(named("enough"), value)
        else:
            with pytest.warns(Notice, match="4.3 GB of the disk are free; expected 4.3 GB"):
                kept.put(named("too little"), value)
    assert [path.stem for path in (tmp_path / "kept").iterdir()] == ["enough"]


def test_only_kept_results_are_removed(tmp_path):
    """A folder of that name may hold a model of the user."""
    Kept(folder=tmp_path / "teacher", memory_bytes=0).put(named(digest(1)), torch.ones(3))
    (tmp_path / "teacher" / "model.safetensors").write_bytes(b"mine")
    remove_files(tmp_path / "teacher")
    assert [path.name for path in (tmp_path / "teacher").iterdir()] == ["model.safetensors"]
    (tmp_path / "teacher" / "model.safetensors").unlink()
    remove_files(tmp_path / "teacher")
    remove_files(tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()
