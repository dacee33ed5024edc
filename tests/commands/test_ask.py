"""ask prints one answer with the probabilities of its first tokens, before and after an adapter.

The probabilities are compared with a softmax over a plain forward pass, token by token.
"""

import json

import pytest
import torch

import clear_ref
from clear_ref import Record
from clear_ref.commands import ask
from clear_ref.mini.directories import WORLD
from tests.helpers.commands import call
from tests.helpers.model_state import write_text_model

PICTURE = WORLD / "images/hina_ameen_plain.jpg"
QUESTION = "What is the name of the person in this image?"


def forward_probabilities(vlm, prefix_ids, batch):
    """The softmax after the prefix, in float64, by the model's plain forward pass."""
    logits = vlm.forward(prefix_ids, torch.ones_like(prefix_ids), batch.pixel_values)
    return logits[0, -1].double().softmax(-1)


@pytest.mark.slow
def test_the_answer_and_its_probabilities_are_those_of_a_forward_pass(capsys):
    status, out, _ = call(capsys, "ask", "mini", PICTURE, QUESTION, "--json", "--tokens", 3)
    [answer] = json.loads(out)["answers"].values()
    assert status == 0 and answer["text"] == "Hina Ameen" and answer["ended"]
    vlm = clear_ref.load("mini")
    batch = vlm.encode([Record(QUESTION, image=PICTURE)])
    ids = batch.input_ids
    for token in answer["tokens"]:
        probabilities = forward_probabilities(vlm, ids, batch)
        best = probabilities.topk(3)
        # float32 logits of two routes differ by rounding, relative to a sum of 160 products
        assert token["probability"] == pytest.approx(float(best.values[0]), rel=1e-4)
        expected = [vlm.tokenizer.piece(each) for each in best.indices.tolist()]
        assert [text for text, _ in token["candidates"]] == expected
        ids = torch.cat((ids, best.indices[None, :1]), 1)


@pytest.mark.slow
def test_with_an_adapter_both_answers_stand_side_by_side(capsys, tmp_path):
    vlm = clear_ref.load("mini")
    vlm.add_lora(rank=2, alpha=20)
    with torch.no_grad():
        for name, parameter in vlm.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1.0)
    vlm.save_adapter(tmp_path / "adapter")
    [changed] = vlm.generate(vlm.encode([Record(QUESTION, image=PICTURE)]), 8)
    options = ["--adapter", tmp_path / "adapter", "--max-new-tokens", 8, "--json"]
    status, out, _ = call(capsys, "ask", "mini", PICTURE, QUESTION, *options)
    found = json.loads(out)
    assert status == 0 and list(found["answers"]) == ["before", "after"]
    assert found["answers"]["after"]["text"] == changed != "Hina Ameen"
    printed = ask.text(found)
    assert "before    Hina Ameen\n" in printed and f"after     {changed}" in printed
    assert '" Hina"   0.992  " Hina" 0.992' in printed


def test_a_question_without_a_picture_is_asked_with_a_dash(capsys, tmp_path):
    model = write_text_model(tmp_path / "model")
    status, out, _ = call(
        capsys, "ask", model, "-", "Who is she?", "--tokens", 1, "--max-new-tokens", 2, "--json"
    )
    [answer] = json.loads(out)["answers"].values()
    assert status == 0 and len(answer["tokens"]) == 1 and not answer["ended"]
    status, _, errors = call(capsys, "ask", model, PICTURE, "Who is she?")
    assert status == 2 and "is a language model, which sees none; expected -" in errors


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            ["mini", "nowhere.png", "Who?"],
            "PICTURE is nowhere.png: no such file; expected a",
        ),
        (["mini", ".", "Who?"], "PICTURE is .: is a directory; expected a picture file, or -"),
        (["mini", "-", " "], "QUESTION is ' '; expected a text that is not empty"),
        (["mini", "-", "Who?", "--tokens", "-1"], "--tokens is -1; expected 0 or more"),
        (["mini", "-", "Who?", "--candidates", "0"], "--candidates is 0; expected 1 or more"),
        (["mini", "-", "Who?", "--adapter", "nowhere"], "--adapter nowhere: no such directory"),
        (["nowhere", "-", "Who?"], "model nowhere: no such directory"),
        (["mini", "-"], "the following arguments are required: QUESTION"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, expected):
    status, out, errors = call(capsys, "ask", *arguments)
    assert (status, out) == (2, "") and expected in errors and errors.count("\n") == 1


@pytest.mark.slow
def test_tasks_without_a_column_say_what_is_missing_and_print_the_tasks_numbers(capsys, tmp_path):
    arguments = ["evaluate", "mini", "--limit", 1, "--out", tmp_path / "out", "--quiet"]
    status, out, errors = call(capsys, *arguments, "--tasks", "eval_forget_facerec")
    assert status == 0 and errors.count("\n") == 1
    assert "the table has no column, for forget is made of eval_log_forget and eval_forg" in errors
    assert "eval_forget_facerec  model" in out and "truth ratio" in out
