"""What the batches hold under each semantics, which tokens have a label, and that training works.

Run: python -m pytest tests/methods/test_batch_contents.py
"""

import json
from pathlib import Path

import pytest
import torch

from clear_ref import Record, load
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.data.prompts import Phrases, read_phrases
from clear_ref.data.records import Row, training_record
from clear_ref.loop import train as training
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import MiniUnlearn, Recipe
from clear_ref.loop.rows import split_rows
from clear_ref.loop.stage import trainable
from clear_ref.loop.step import step_loss
from clear_ref.loop.teacher import Teacher
from clear_ref.losses import Outputs
from clear_ref.methods import METHODS, SEMANTICS, BatchContents, make_options, method_loss, variant
from clear_ref.methods.batch_contents import QuestionDraw, RandomAnswer
from clear_ref.methods.table import methods_under
from clear_ref.mini.directories import BASE, WORLD

OWN = read_phrases(WORLD)
AUTHORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "authors.json").read_text(encoding="utf-8")
)["data"]


@pytest.fixture(scope="module")
def rows():
    """Three pictures and three texts to forget, six and six to retain."""
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


def records(rows, batches, views, n_epochs=8):
    plan = UnlearnPlan(*rows, batches, OWN, 0, views)
    return [
        (plan.forget[index], plan.records(epoch, index))
        for epoch in range(n_epochs)
        for index in range(len(plan))
    ]


def truth(row):
    return row.values.get("caption") or row.values["answer"]


@pytest.mark.parametrize(
    "semantics, picture, text",
    [
        ("paper", "refusal", "refusal"),
        ("original", "refusal", "refusal"),
        ("released", "truth", "truth"),
        ("released@2024-12-10", "line", "line"),
        ("released@2024-10-23", "truth", "line"),
    ],
)
@pytest.mark.parametrize("method", ["idk", "dpo"])
def test_the_idk_batch_under_each_semantics(method, semantics, picture, text, rows):
    """What the idk batch holds, for pictures and for texts.

    line: a refusal with its line end; the last line of the file has none.
    """
    lines = {refusal + "\n" for refusal in OWN.refusals[:-1]} | {OWN.refusals[-1]}
    seen = {"refusal": set(OWN.refusals), "line": lines}
    for row, views in records(rows, ("forget", "idk"), variant(method, semantics).contents):
        expected = picture if row.image else text
        assert (
            views["idk"].answer in seen.get(expected, {truth(row)})
            and views["idk"].image == row.image
        )


def test_released_views_of_a_picture_draw_a_question_each_and_ours_share_one(rows):
    for views, differ in (
        (BatchContents(), False),
        (BatchContents(questions=QuestionDraw.OWN), True),
    ):
        pairs = [
            (one["forget"].question, one["idk"].question)
            for row, one in records(rows, ("forget", "idk"), views)
            if row.image
        ]
        assert any(a != b for a, b in pairs) == differ
    texts = [
        one
        for row, one in records(rows, ("forget", "idk"), BatchContents(questions=QuestionDraw.OWN))
        if not row.image
    ]
    assert all(one["forget"].question == one["idk"].question for one in texts)


def test_released_random_records_are_any_forget_rows_and_pictures_keep_their_caption(rows):
    names = ("random1", "random2", "random3")
    captions = {row.values["caption"]: row.image for row in rows[0] if row.image}
    answers = {row.values["answer"] for row in rows[0] if not row.image}
    own = 0
    for row, views in records(rows, ("forget", *names), variant("sku", "released").contents):
        drawn = [views[name] for name in names]
        assert len({record.answer for record in drawn}) == 3
        for record in drawn:
            own += record.answer == truth(row)
            if record.image is not None:
                assert (
                    captions[record.answer] == record.image
                    and record.question in OWN.caption_questions
                )
            else:
                assert record.answer in answers and record.question == views["forget"].question
    assert own > 0


def test_random_answers_of_the_others_and_of_the_retain_set(rows):
    names = ("random1", "random2")
    for method, source in (("sku", rows[0]), ("llmu", rows[1])):
        answers = {truth(row) for row in source}
        for row, views in records(
            rows, ("forget", *names), variant(method, "original").contents, 2
        ):
            for name in names:
                assert (
                    views[name].answer in answers - {truth(row)}
                    and views[name].question == views["forget"].question
                )
                assert views[name].image == row.image
    with pytest.raises(
        UserError, match="the retain set has 12 records, the method asks for 13 random answers"
    ):
        UnlearnPlan(
            *rows,
            tuple(f"random{k}" for k in range(1, 14)),
            OWN,
            0,
            BatchContents(random=RandomAnswer.RETAIN_RECORD),
        )
    UnlearnPlan(
        *rows,
        tuple(f"random{k}" for k in range(1, 7)),
        OWN,
        0,
        BatchContents(random=RandomAnswer.ANY_FORGET_RECORD),
    )


def test_the_released_mask_supervises_most_of_the_picture_and_the_question(tiny, rows):
    """The picture's 9 tokens count as 1 in the prompt: 8 more tokens have a label.

    They are at the end of the prompt. The labels of a text do not change.
    """
    picture, text = rows[0][0], rows[0][3]
    given = [
        Record("Who is this?", "Hina Ameen.", picture.image),
        Record(text.values["question"], text.values["answer"]),
    ]
    right, wrong = tiny.encode(given), tiny.encode(given, "released")
    assert torch.equal(right.input_ids, wrong.input_ids) and torch.equal(
        right.labels[1], wrong.labels[1]
    )
    start = [int((batch.labels[0] != -100).nonzero()[0]) for batch in (right, wrong)]
    assert start[0] - start[1] == 8 and torch.equal(
        wrong.labels[0, start[1] :], wrong.input_ids[0, start[1] :]
    )
    unexpanded = tiny.tokenizer.prompt(tiny.template, "Who is this?", 1)
    first = int(wrong.attention_mask[0].argmax())
    assert start[1] - first == len(
        unexpanded
    )  # as many masked as the rendered question has tokens, BOS included
    prompt = tiny.encode([Record("Who is this?", None, picture.image)], "released")
    assert (prompt.labels == -100).all()
    with pytest.raises(UserError, match="label mask is 'none'; expected one of answer, released"):
        tiny.encode(given, "none")


def test_the_label_mask_of_a_run():
    assert [
        unlearning.label_mask(family, variant("idk", name))
        for family, name in (
            ("llava", "paper"),
            ("llava", "released"),
            ("qwen2_vl", "released"),
            ("qwen2_vl", "original"),
            ("qwen2_5_vl", "released"),
        )
    ] == ["answer", "answer", "released", "answer", "released"]
    assert unlearning.label_mask("llava", variant("idk"), "released") == "released"
    with pytest.raises(UserError, match="--mask is 'all'; expected auto, answer or released"):
        unlearning.label_mask("llava", variant("idk"), "all")


def test_the_released_mask_is_what_the_authors_collator_gave():
    """Their collator ran once on four records of mini: width, real tokens, ids, span of labels."""
    found, forget = AUTHORS["mask"], split_rows(WORLD, "both", 10)[0]
    records = [training_record(forget[one["row"]], one["question"]) for one in found["records"]]
    batch = load(BASE).encode(records, "released")
    assert (
        batch.input_ids.shape[1] == found["width"]
        and batch.attention_mask.sum(1).tolist() == found["real"]
    )
    assert (batch.input_ids * batch.attention_mask).sum(1).tolist() == found["ids_sum"]
    spans = [(row != -100).nonzero().flatten().tolist() for row in batch.labels]
    assert [[span[0], span[-1]] for span in spans] == found["supervised"] and all(
        span == list(range(span[0], span[-1] + 1)) for span in spans
    )


def stand_in(number, picture):
    values = {"image": None, "caption": None, "question": None, "answer": None}
    values |= (
        {"image": f"picture{number}", "caption": f"caption{number}"}
        if picture
        else {"question": f"question{number}", "answer": f"answer{number}"}
    )
    return Row(number, "", values, values["image"])


@pytest.mark.parametrize("semantics", AUTHORS["idk"]["answers"])
def test_the_idk_batch_is_what_the_authors_data_set_gave(semantics):
    """Their data set on two stand-in rows: every answer that came up, line ends included."""
    few = Phrases(("Q1?", "Q2?"), "", ("no one", "no two", "no three"))
    plan = UnlearnPlan(
        [stand_in(0, True), stand_in(1, False)],
        [stand_in(9, True)],
        ("idk",),
        few,
        0,
        variant("idk", semantics).contents,
    )
    for index, kind in enumerate(("picture", "text")):
        answers = {plan.records(epoch, index)["idk"].answer for epoch in range(60)}
        assert sorted(answers) == AUTHORS["idk"]["answers"][semantics][kind]


def test_the_random_records_are_what_the_authors_data_set_gave():
    """Their data set on two pictures and two texts: every combination that came up."""
    few, seen = Phrases(("Q1?", "Q2?"), "", ("no",)), set()
    forget = [stand_in(0, True), stand_in(1, True), stand_in(2, False), stand_in(3, False)]
    names = tuple(f"random{k}" for k in range(1, AUTHORS["random"]["K"] + 1))
    plan = UnlearnPlan(
        forget, [stand_in(9, True)], ("forget", *names), few, 0, variant("sku", "released").contents
    )
    for epoch in range(60):
        for index in range(4):
            one = plan.records(epoch, index)
            assert len({one[name].answer for name in names}) == 3
            for record in (one[name] for name in names):
                asked = (
                    "forget question"
                    if record.image is None and record.question == one["forget"].question
                    else "caption question"
                )
                seen.add(
                    (record.answer == truth(forget[index]), record.image, record.answer, asked)
                )
    assert seen == {tuple(each) for each in AUTHORS["random"]["seen"]}


OPTIONS = {"rmu": {"layer": 1, "c": 2.0}, "sku": {"n_random": 2}}


def options_of(method, semantics):
    return make_options(method, OPTIONS.get(method, {}), semantics)


def train(
    directory, method, semantics, rows, out=None, mask="auto", resume=False, options=None, **recipe
):
    chosen, options = variant(method, semantics), options or options_of(method, semantics)
    recipe = MiniUnlearn(**{"epochs": 1, "lora_rank": 2, **recipe})
    vlm = load(directory)
    prepare(vlm, recipe, 0, chosen.targets and chosen.targets(options))
    start = {name: p.detach().clone() for name, p in trainable(vlm).items()}
    run = unlearning.Unlearning(method, semantics, options, recipe, rows, OWN, 0, mask, out, resume)
    steps = unlearning.unlearn(vlm, run)
    return vlm, start, steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, semantics",
    [(method, each) for each in SEMANTICS for method in METHODS if method in methods_under(each)],
)
def test_every_method_trains_under_every_semantics(
    method, semantics, tiny_directory, rows, tmp_path
):
    """The weights change and the trace has one line per step.

    Only NPO before 2025-03-30, and the text-only one, cannot be trained: NaN in its second step.
    SKU does not exist in the text-only code.
    """
    if method == "npo" and "@" in semantics:
        with pytest.raises(RunFailed, match="npo, step [23]: loss is nan"):
            train(
                tiny_directory, method, semantics, rows, tmp_path, epochs=3, batch_size=3, lr=1e-2
            )
        return
    vlm, start, steps = train(
        tiny_directory, method, semantics, rows, tmp_path, batch_size=3, mask="released"
    )
    assert any(not torch.equal(start[name], p) for name, p in trainable(vlm).items())
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == steps >= 2


def gradients(vlm, method, semantics, rows, recipe, indices, epoch=0):
    chosen, options = variant(method, semantics), options_of(method, semantics)
    plan = UnlearnPlan(*rows, tuple(chosen.needs_of(options)), OWN, 0, chosen.contents)
    stage = unlearning.stage_of(method, chosen, options, "released")
    value, terms, _ = step_loss(vlm, plan, stage, Teacher(vlm), recipe, epoch, indices)
    found = {name: p.grad.clone() for name, p in trainable(vlm).items() if p.grad is not None}
    vlm.model.zero_grad()
    return value, terms, found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kl", "llmu", "rmu", "npo", "grad_diff"])
def test_a_released_step_is_the_mean_over_its_padded_batches_of_method_loss(method, tiny, rows):
    """batch_size 2 x accumulate 2: the raw outputs of each pair go to method_loss.

    Each pair is encoded together; records_at_once has no effect.
    """
    prepare(tiny, Recipe(lora_rank=2), 0)
    with torch.no_grad():
        for parameter in trainable(tiny).values():
            parameter.add_(0.05)
    indices = [4, 0, 2, 5]
    value, terms, found = gradients(
        tiny,
        method,
        "released",
        rows,
        Recipe(batch_size=2, accumulate=2, records_at_once=3),
        indices,
    )
    chosen, options = variant(method, "released"), options_of(method, "released")
    plan = UnlearnPlan(*rows, tuple(chosen.needs_of(options)), OWN, 0, chosen.contents)
    layer = getattr(options, "layer", None)
    total = 0
    for pair in (indices[:2], indices[2:]):
        given = {}
        for name in chosen.needs_of(options):
            batch = tiny.encode([plan.records(0, index)[name] for index in pair], "released")
            student = tiny.hidden(batch, layer)
            with torch.no_grad(), tiny.adapters_off():
                frozen = tiny.hidden(batch, layer)
            if layer is None:
                given[name] = Outputs(
                    tiny.head(student), batch.labels, tiny.head(frozen), batch.attention_mask
                )
            else:
                given[name] = Outputs(
                    None, batch.labels, None, batch.attention_mask, student, frozen
                )
        total = total + method_loss(method, given, "released", **OPTIONS.get(method, {})).value / 2
    total.backward()
    assert (
        value
        == pytest.approx(total.item(), rel=1e-12)
        == pytest.approx(sum(terms.values()), rel=1e-12)
    )
    for name, parameter in trainable(tiny).items():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, rtol=1e-9, atol=1e-12), name


@pytest.mark.slow
def test_scrub_alternates_max_and_min_epochs_and_resumes_byte_for_byte(
    tiny_directory, rows, tmp_path, monkeypatch
):
    """msteps 2 of 3 epochs, 6 records, batch 3.

    2 max and 2 min steps in each of the first two epochs, 2 min steps in the last.
    """
    options = make_options("scrub", {"msteps": 2}, "original")
    arguments = dict(options=options, epochs=3, batch_size=3)
    straight, _, steps = train(
        tiny_directory, "scrub", "original", rows, tmp_path / "a", **arguments
    )
    lines = [json.loads(line) for line in (tmp_path / "a" / "trace.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["max", "max", "min", "min"] * 2 + [
        "min",
        "min",
    ] and steps == 10
    assert all(
        set(line["terms"])
        == ({"forget_kl"} if line["phase"] == "max" else {"retain_kl", "retain_nll"})
        for line in lines
    )
    assert [line["epoch"] for line in lines] == [0] * 4 + [1] * 4 + [2] * 2 and lines[0][
        "gradient_norm"
    ] < 1e-6
    seen, original = [0], training.step_loss

    def stopping(*given):
        seen[0] += 1
        if seen[0] > 6:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(training, "step_loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_directory, "scrub", "original", rows, tmp_path / "b", **arguments)
    monkeypatch.setattr(training, "step_loss", original)
    resumed, _, _ = train(
        tiny_directory, "scrub", "original", rows, tmp_path / "b", resume=True, **arguments
    )
    assert all(torch.equal(p, trainable(straight)[name]) for name, p in trainable(resumed).items())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [2, 0])
def test_original_rmu_trains_the_down_projections_of_its_layers_alone(rank, tiny_directory, rows):
    """Layer 1 of a decoder of 3: layers 0 and 1 are trained, and nothing else changes."""
    before = load(tiny_directory).weights()
    vlm, start, _ = train(tiny_directory, "rmu", "original", rows, lora_rank=rank)
    assert {
        name.split(".adapter")[0].removesuffix(".weight").split("model.")[-1] for name in start
    } == {"layers.0.mlp.down_proj", "layers.1.mlp.down_proj"}
    vlm.merge_lora()
    moved = {
        name for name, tensor in vlm.weights().items() if not torch.equal(tensor, before[name])
    }
    assert len(moved) == 2 and all("down_proj" in name for name in moved)


@pytest.mark.slow
def test_released_rmu_keeps_the_number_of_vectors_of_its_first_batch(
    tiny_directory, rows, monkeypatch
):
    """Six records in batches of 4: the batch of 2 is still compared with 4 vectors.

    The older revision draws new vectors for each batch.
    """
    from clear_ref import losses

    asked, original = [], losses.control_vectors

    def counted(seed, n, width, purpose="rmu control vector"):
        asked.append((n, purpose))
        return original(seed, n, width, purpose)

    monkeypatch.setattr(losses, "control_vectors", counted)
    train(tiny_directory, "rmu", "released", rows, batch_size=4)
    assert asked == [(4, "rmu control vector")] * 2
    asked.clear()
    train(tiny_directory, "rmu", "released@2024-10-23", rows, batch_size=2, epochs=2)
    assert len({purpose for _, purpose in asked}) == 6 and {n for n, _ in asked} == {1}


@pytest.mark.slow
def test_weight_regularisation_is_a_named_term_of_the_trace_and_moves_the_weights(
    tiny_directory, rows, tmp_path
):
    ends = []
    for number, recipe in enumerate(({}, {"l1": 0.1, "l0": 0.01}, {"l0": 0.01})):
        vlm, start, _ = train(
            tiny_directory, "grad_ascent", "released", rows, tmp_path / str(number), **recipe
        )
        ends.append(trainable(vlm))
        line = json.loads((tmp_path / str(number) / "trace.jsonl").read_text().splitlines()[0])
        assert set(line["terms"]) == {"forget_nll", *recipe}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-12)
        if "l1" in recipe:
            assert line["terms"]["l1"] == pytest.approx(
                0.1 * sum(float(p.abs().double().sum()) for p in start.values()), rel=1e-6
            )
            assert line["terms"]["l0"] == pytest.approx(
                0.01 * sum(int((p != 0).sum()) for p in start.values())
            )
    assert all(torch.equal(ends[0][name], ends[2][name]) for name in start)
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in start)
    vlm, start, _ = train(
        tiny_directory, "grad_ascent", "paper", rows, lora_rank=0, l1=0.1
    )  # the change of every weight
    with pytest.raises(UserError, match="--norm-from zero measures the weights themselves"):
        train(tiny_directory, "grad_ascent", "released", rows, l1=0.1, norm_from="zero")


def test_only_paper_and_original_sku_have_a_second_stage():
    assert {
        name: variant("sku", name).second_stage for name in ("paper", "released", "original")
    } == {
        "paper": "negate_delta",
        "released": None,
        "original": "negate_delta",
    }
