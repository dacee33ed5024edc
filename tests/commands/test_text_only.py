"""A plain language model through the whole run: --modality text, TOFU's questions, no picture
anywhere.
"""

import json
import shutil

import pytest

from clear_ref.mini.directories import WORLD
from clear_ref.run import main
from tests.helpers.tiny_language_model import write_language_model


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2"])
def model(request, tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("text") / request.param, request.param, 0)


@pytest.fixture(scope="module")
def gold(tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("text") / "gold", "llama", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The embedded world's text rows, and two of TOFU's Real sets with made-up rows."""
    directory = tmp_path_factory.mktemp("data") / "text"
    shutil.copytree(WORLD / "tofu", directory / "tofu")
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        (directory / "tofu" / name).mkdir()
        row = {
            "question": "Who wrote Hamlet?",
            "answer": "Shakespeare",
            "perturbed_answer": ["Dickens", "Woolf", "Twain"],
        }
        (directory / "tofu" / name / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return directory


def run(capsys, *arguments):
    status = main([*arguments, "--json", "--quiet"])
    return status, capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scrub", "idk"])
def test_a_language_model_unlearns_and_is_evaluated_on_text_alone(
    model, gold, data, method, capsys, tmp_path
):
    status, shown = run(
        capsys,
        method,
        "--model",
        str(model),
        "--data",
        str(data),
        "--modality",
        "text",
        "--recipe",
        "mini",
        "--epochs",
        "1",
        "--limit",
        "2",
        "--max-new-tokens",
        "4",
        "--gold",
        str(gold),
        "--template",
        "inst",
        "--out",
        str(tmp_path / "out"),
    )
    assert status == 0, shown.err
    found = json.loads(shown.out)["models"]["unlearned"]
    assert set(found["tasks"]) == {
        "eval_real_author_wo_options",
        "eval_real_world_wo_options",
        "eval_text_forget",
        "eval_text_retain",
    }
    assert (
        found["retain"] is None
        and found["text_real"] is not None
        and 0 <= found["forget_quality"] <= 1
    )
    logs = json.loads((tmp_path / "out" / "logs" / "eval_text_forget.json").read_text())
    assert logs["generated_text"]["0"][0].startswith("[INST] ") and logs["generated_text"]["0"][
        0
    ].endswith(" [/INST]")


def test_pictures_are_asked_of_no_language_model(model, data, capsys, tmp_path):
    status, shown = run(
        capsys,
        "scrub",
        "--model",
        str(model),
        "--data",
        str(data),
        "--template",
        "inst",
        "--out",
        str(tmp_path / "o"),
    )
    assert status == 2 and shown.err.strip() == (
        "clear_ref: --modality is both, and the model sees no pictures; expected --modality text"
    )
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_finetuning_a_language_model_takes_the_text_rows(model, data, capsys, tmp_path):
    status, shown = run(
        capsys,
        "finetune",
        "--split",
        "retain",
        "--model",
        str(model),
        "--data",
        str(data),
        "--recipe",
        "mini",
        "--epochs",
        "1",
        "--batch-size",
        "90",
        "--limit",
        "1",
        "--max-new-tokens",
        "4",
        "--template",
        "inst",
        "--out",
        str(tmp_path / "out"),
    )
    assert status == 0, shown.err
    assert json.loads(shown.out)["steps"] == 4  # 360 questions
