"""score: a number without a value has a reason that is true and says what helps.

Run: python -m pytest tests/evaluation/test_missing_numbers.py
"""

import json

import pytest

from clear_ref import run
from clear_ref.evaluation import definitions
from tests.helpers.open_mmunlearning import evaluated_log

WHOLE = evaluated_log(1)
NEITHER = "eval_text_forget of the log holds neither paraphrases nor wrong answers, as "


def part_of(seed, kept):
    """The tasks of a log whose names hold one of these words."""
    return {
        name: own for name, own in evaluated_log(seed).items() if any(word in name for word in kept)
    }


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def scored(capsys, path, gold=None, metrics="all"):
    """(what score --json prints, the text that score prints, without line ends)."""
    given = ["score", path, *(["--gold", gold] if gold else []), "--metrics", metrics]
    assert run.main([*map(str, given), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run.main([str(one) for one in given]) == 0
    return found, " ".join(capsys.readouterr().out.split())


def values_of(name, result):
    """{metric or "TASK PART": value or None} of all that a set of definitions defines."""
    numbers = {
        *definitions.AGGREGATES[name],
        *definitions.QUALITIES[name],
        *definitions.COMBINED.get(name, ()),
    }
    found = {number: result[number] for number in numbers}
    for task, parts in result["tasks"].items():
        found |= {f"{task} {part}": value for part, value in parts.items() if part != "n"}
    return found


@pytest.mark.parametrize("metrics", [*definitions.SETS, "all"])
@pytest.mark.parametrize("gold", [None, ["eval"], ["text"]])
@pytest.mark.parametrize("kept", [["eval"], ["text"], ["text_forget", "_log"], ["text_r", "real"]])
def test_every_number_has_either_a_value_or_a_reason(tmp_path, capsys, metrics, kept, gold):
    path = write(tmp_path / "log.json", part_of(1, kept))
    gold_path = write(tmp_path / "gold.json", part_of(2, gold)) if gold else None
    found, said = scored(capsys, path, gold_path, metrics)
    reasons = found["missing"]
    without = set()
    for name, result in found["metrics"].items():
        values = values_of(name, result)
        given = {row["metric"] for row in found["numbers"] if name in row["metrics"]}
        assert {each for each, value in values.items() if value is not None} == given
        without |= values.keys() - given
    assert without == set(reasons) and all(reasons.values())
    assert all(f"not computed; {reason}" in said for reason in reasons.values())


def test_the_task_of_real_authors_says_which_model_and_data_have_it(tmp_path, capsys):
    """No embedded model is asked it, so `evaluate` again would not help."""
    found, said = scored(capsys, write(tmp_path / "log.json", evaluated_log(1)), metrics="paper")
    words = "eval_real_author_wo_options is asked of a language model, of data with tofu/real_auth"
    assert words in found["missing"]["text_real"] and words in said


@pytest.mark.parametrize("column", ["rougeL_recall", "rougeL_f1"])
def test_logs_without_generated_texts_are_a_reason(tmp_path, capsys, column):
    """With the ROUGE of every record in a column, which the released code writes."""
    tasks = part_of(1, ["_log", "facerec"])
    for own in tasks.values():
        del own["generated_text"]
        own |= {"rougeL_recall": dict.fromkeys(own["avg_gt_loss"], 0.5)}
        own |= {column: dict.fromkeys(own["avg_gt_loss"], 0.5)}
    found, _ = scored(capsys, write(tmp_path / "log.json", tasks))
    reason = "eval_log of the log holds no generated texts; expected the log of an evaluation that "
    assert found["missing"]["retain_vqa_bleu"].startswith(reason)
    assert ("eval_log rouge_f" in found["missing"]) == (column != "rougeL_f1")


def test_tasks_of_text_without_paraphrases_are_why_numbers_are_missing(tmp_path, capsys):
    """With gold or without: a gold log is no advice where it would not help."""
    path = write(tmp_path / "text.json", part_of(1, ["text"]))
    gold = write(tmp_path / "gold.json", evaluated_log(2))
    compared = ("forget_quality", "log10_forget_quality", "minus_log10_p")
    for given in (None, gold):
        found, said = scored(capsys, path, given)
        for name in (*compared, "text_log_forget_quality", "text_forget"):
            reason = found["missing"][name]
            assert reason.startswith(NEITHER), name
            assert ("expected eval_log_forget too, or " in reason) == (name in compared)
        assert "--gold" not in said
        assert f"{', '.join(compared)}: not computed; {NEITHER}" in said
    found, _ = scored(capsys, write(tmp_path / "log.json", WHOLE), gold)
    assert found["missing"]["text_log_forget_quality"].startswith(NEITHER)
    assert found["missing"]["text_retain"].startswith(NEITHER.replace("forget", "retain"))
    assert "forget_quality" not in found["missing"]


def test_gold_without_paraphrases_is_why_a_number_is_missing(tmp_path, capsys):
    """The log itself has them: it is the authors', with captions as questions about text."""
    columns = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "generated_text")
    own = {column: WHOLE["eval_log_forget.json"][column] for column in columns}
    own["generated_text"] = {
        index: [*texts[:2], WHOLE["eval_text_forget.json"]["generated_text"][index][2]]
        for index, texts in own["generated_text"].items()
    }
    log = {"format": "clear_ref.log/1", "task": "eval_text_forget", **own}
    gold = write(tmp_path / "gold.json", part_of(2, ["text"]))
    found, _ = scored(capsys, write(tmp_path / "log.json", log), gold, "paper")
    reason = found["missing"]["forget_quality"]
    assert reason.startswith(NEITHER.replace("the log", "the gold log"))


def test_a_log_of_text_tasks_as_its_own_gold_is_refused(tmp_path, capsys):
    path = write(tmp_path / "text.json", part_of(1, ["text"]))
    assert run.main(["score", str(path), "--gold", str(path)]) == 2
    assert "all losses of its 8 records are gold's too" in capsys.readouterr().err
