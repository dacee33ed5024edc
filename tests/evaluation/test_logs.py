"""Reading logs of four formats, and the command score: formats are detected by their keys, errors
are one line, numbers have definitions.

Run: python -m pytest tests/evaluation/test_logs.py. Two tests read real logs
(tests/real/README.md).
"""

import gzip
import json
import math
import random

import pytest

from clear_ref import run
from clear_ref.commands import settings
from clear_ref.common.errors import UserError
from clear_ref.evaluation import definitions, logs, metrics
from clear_ref.evaluation.membership import membership
from clear_ref.report import terminal_tables
from tests.helpers.real_data import real_data

RELEASED = (
    "eval_real_faces_wo_options",
    "eval_real_world_wo_options",
    "eval_log_forget",
    "eval_log",
    "eval_forget_facerec",
    "eval_retain_facerec",
)
TOFU = ("eval_real_author_wo_options", "eval_real_world_wo_options", "eval_log_forget", "eval_log")
OPEN = {
    "eval_text_forget": "forget",
    "eval_text_retain": "retain",
    "eval_real_author_wo_options": "ra",
    "eval_real_world_wo_options": "wf",
}


# Numbers that need an answer to multiple-choice questions, which are evaluated for two sets alone.
WITH_CHOICES = (
    "forget_choice",
    "retain_choice",
    "real_faces_choice",
    "real_world_choice",
    "forget_quality_of_five",
)
# Numbers of questions about text, which logs of pictures do not hold.
OF_TEXT = (
    "text_real",
    "text_retain",
    "text_forget",
    "text_model_utility",
    "text_log_forget_quality",
    *(f"{task}_qa_{name}" for task in ("forget", "retain") for name in definitions.OF_TEXTS),
)


def call(capsys, *arguments):
    status = run.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def log(seed, n=6, real=False):
    """A log of n records. The losses depend on the seed, the expected texts do not.

    real    a Real set: no paraphrase
    """
    rng = random.Random(seed)

    def column(draw):
        return {str(i): draw(i) for i in range(n)}

    found = {
        "avg_gt_loss": column(lambda i: rng.uniform(0.1, 3)),
        "avg_paraphrased_loss": column(lambda i: rng.uniform(0.1, 3)),
        "average_perturb_loss": column(lambda i: [rng.uniform(0.1, 4) for _ in range(3)]),
        "generated_text": column(
            lambda i: [
                f"Who wrote {i}?",
                rng.choice(["Ann Bell", "a writer", ""]),
                f"Ann Bell, {i}",
            ]
        ),
    }
    return found | ({"avg_paraphrased_loss": dict(found["avg_gt_loss"])} if real else {})


def logs_of(names, seed, n=6):
    return {name: log(f"{seed} {name}", n, "real" in name) for name in names}


def probability(losses):
    """exp(-loss) of a number or of a list of them."""
    return [math.exp(-loss) for loss in losses] if isinstance(losses, list) else math.exp(-losses)


def open_unlearning(tasks):
    """The same logs in open-unlearning's format, with ROUGE of every record and one attack."""
    found = {}
    for task, start in OPEN.items():
        own, rows = tasks[task], {}
        for end, column in (
            ("Q_A_Prob", "avg_gt_loss"),
            ("Q_A_PARA_Prob", "avg_paraphrased_loss"),
            ("Q_A_PERT_Prob", "average_perturb_loss"),
        ):
            rows[end] = {
                key: {"avg_loss": value, "prob": probability(value)}
                for key, value in own[column].items()
            }
        rows["Q_A_ROUGE"] = {
            key: {
                "input": question,
                "generation": said,
                "ground_truth": answer,
                "rougeL_recall": 0.25,
                "rougeL_f1": 0.5,
                "rouge1_recall": 0.75,
            }
            for key, (question, said, answer) in own["generated_text"].items()
        }
        found |= {
            f"{start}_{end}": {"agg_value": -1.0, "value_by_index": value}
            for end, value in rows.items()
            if not (end == "Q_A_PARA_Prob" and start in ("ra", "wf"))
        }
    attack = {
        "forget": {"value_by_index": {"0": {"score": 1.0}, "1": {"score": 2.0}}},
        "holdout": {"value_by_index": {"0": {"score": 2.0}, "1": {"score": 3.0}}},
        "agg_value": -1.0,
    }
    return found | {"mia_min_k": attack, "model_utility": {"agg_value": -1.0}}


def write(path, value, packed=False):
    data = json.dumps(value).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def run_directory(path, seed, n=6, config="forget10_perturbed", models=("",)):
    """A run directory of ours: logs/[MODEL/]TASK.json."""
    for model in models:
        for task, own in logs_of(RELEASED, f"{seed} {model}", n).items():
            write(
                path / "logs" / model / f"{task}.json",
                {"format": logs.LOG_FORMAT, "task": task, "config": config, **own},
            )
    return path


# ---- formats


@pytest.mark.parametrize("packed", [False, True])
def test_each_format_is_detected_by_its_keys_and_gives_the_same_numbers(tmp_path, packed):
    released, tofu = logs_of(RELEASED, 1), logs_of(TOFU, 1)
    text = {logs.AS_TEXT.get(task, task): own for task, own in tofu.items()}
    for name, value, expected, format_name in (
        ("released", {f"{task}.json": own for task, own in released.items()}, released, "released"),
        ("tofu", {f"{task}.json": own for task, own in tofu.items()}, text, "TOFU"),
        ("open", open_unlearning(text), text, "open-unlearning"),
        (
            "ours",
            {"format": logs.LOG_FORMAT, "task": "eval_log", **released["eval_log"]},
            {"eval_log": released["eval_log"]},
            "clear_ref",
        ),
    ):
        read = logs.read(write(tmp_path / f"{name}.json", value, packed))
        assert read.format == format_name and set(read.tasks) == set(expected)
        if name == "open":
            expected = {
                task: {
                    **own,
                    **{
                        column: dict.fromkeys(own["avg_gt_loss"], share)
                        for column, share in (
                            ("rougeL_recall", 0.25),
                            ("rougeL_f1", 0.5),
                            ("rouge1_recall", 0.75),
                        )
                    },
                    "source": "open-unlearning",
                    "gt_prob": {key: probability(x) for key, x in own["avg_gt_loss"].items()},
                    "perturb_prob": {
                        key: probability(x) for key, x in own["average_perturb_loss"].items()
                    },
                }
                for task, own in expected.items()
            }
        assert metrics.score(read.tasks, metrics="all") == metrics.score(expected, metrics="all")


def test_open_unlearnings_attack_is_read_and_scored(tmp_path):
    """{1, 2} below {2, 3}: 3.5 of 4 pairs. privleak: 1 - A = 1/8; without gold against 1/2:
    (1/8 - 1/2) / (1/2) = -75 %; against a gold of A = 1/2 the same."""
    text = {logs.AS_TEXT.get(task, task): own for task, own in logs_of(TOFU, 1).items()}
    read = logs.read(write(tmp_path / "a.json", open_unlearning(text)))
    even = {"mia_min_k": {"forget": {"0": 1.0}, "holdout": {"0": 1.0}}}
    for gold in (None, even):
        found = membership(read.scores, gold)
        assert found["mia_min_k"] == 3.5 / 4 and found["privleak"] == pytest.approx(-75.0, rel=1e-9)
    with pytest.raises(UserError, match="mia_min_k of record 0 is nan"):
        membership({"mia_min_k": {"forget": {"0": math.nan}, "holdout": {"0": 1.0}}})


def test_the_released_logs_deviations_are_read(tmp_path):
    """rougeL_recall is an empty dict there, and a record may have more than three texts: ROUGE is
    computed from the text."""
    released = logs_of(RELEASED, 2)
    odd = {
        f"{task}.json": {
            **own,
            "rougeL_recall": {},
            "rouge1_recall": {},
            "generated_text": {
                key: [*texts, "more"] for key, texts in own["generated_text"].items()
            },
        }
        for task, own in released.items()
    }
    assert metrics.score(logs.read(write(tmp_path / "r.json", odd)).tasks) == metrics.score(
        released
    )


def test_a_run_directory_its_logs_folder_and_its_files_are_the_same(tmp_path):
    path = run_directory(tmp_path / "r", 3, models=("", "base", "gold"))
    whole = logs.read(path)
    assert (
        whole.tasks
        == logs.read(path / "logs").tasks
        == logs.read(*(path / "logs").glob("*.json")).tasks
    )
    assert set(whole.tasks) == set(RELEASED) and len(whole.files) == 6
    assert logs.read(path / "logs/gold").tasks != whole.tasks
    evaluated = run_directory(tmp_path / "e", 3, models=("model", "gold"))
    assert logs.read(evaluated).tasks == logs.read(evaluated / "logs/model").tasks


@pytest.mark.slow
@pytest.mark.parametrize(
    "value, message",
    [
        ({}, "a log of no known format, its keys are none"),
        ({"a": 1, "b": 2}, "no known format, its keys are a, b; expected"),
        (
            {"format": "clear_ref.log/9", "task": "eval_log"},
            "is 'clear_ref.log/9'; expected clear_ref.log/1",
        ),
        ({"eval_log.json": log(1)}, "captions of pictures or questions about text"),
        (
            {
                "eval_log": log(1),
                "eval_real_author_wo_options": log(1),
                "eval_forget_facerec": log(1),
            },
            "captions of pictures or",
        ),
        (
            {"forget_Q_A_Prob": 0.5, "model_utility": 0.6},
            "open-unlearning's aggregates alone; expected TOFU_EVAL.json",
        ),
        ({"forget_Q_A_Prob": {"agg_value": 0.5}}, "no value_by_index of forget_Q_A_Prob"),
        (
            {"forget_Q_A_Prob": {"value_by_index": {"7": {"prob": 0.5}}}},
            "forget_Q_A_Prob of record 7 has no avg_loss",
        ),
        (
            {"forget_Q_A_Prob": {"value_by_index": {"7": {"avg_loss": 0.5}}}},
            "no value_by_index of forget_Q_A_PARA_Prob",
        ),
        ({"avg_gt_loss": {"0": 1.0}}, "no known format, its keys are avg_gt_loss"),
    ],
)
def test_an_unknown_format_is_an_error_of_one_line(tmp_path, capsys, value, message):
    path = write(tmp_path / "x.json", value)
    status, stdout, stderr = call(capsys, "score", path)
    assert status == 2 and stdout == "" and stderr.count("\n") == 1
    assert f"{path}: " in stderr and message in stderr


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not JSON"),
        (b"[1]", "holds list"),
        (b"\x1f\x8bnot packed", "cannot be unpacked"),
        (gzip.compress(bytes(range(256)), mtime=0)[:99], "cannot be unpacked"),
        (gzip.compress(b"[]", mtime=0), "holds list"),
        (b"\xff\xfe{}", "not JSON"),
        (b'{"eval_log": {}, "eval_log": {}}', "is given twice"),
    ],
)
def test_bytes_that_are_not_a_log_are_an_error_of_one_line(tmp_path, capsys, data, message):
    (tmp_path / "x.json").write_bytes(data)
    status, stdout, stderr = call(capsys, "score", tmp_path / "x.json")
    assert status == 2 and stdout == "" and stderr.count("\n") == 1 and message in stderr


def test_paths_without_the_logs_of_one_model_are_an_error_of_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder/eval_log_forget.json").mkdir(parents=True)
    path = run_directory(tmp_path / "r", 3)
    write(tmp_path / "released.json", logs_of(RELEASED, 1))
    for given, message in (
        (["nowhere"], "no such file"),
        (["empty"], "holds no logs; expected a run directory"),
        (["folder"], "eval_log_forget.json: is a directory; expected a file"),
        (["two"], "holds logs of a, b; name the folder of one"),
        (["r", "r"], "which another file has given"),
        (["r/logs/eval_log.json", "released.json"], "holds eval_log, which another file has given"),
    ):
        run_directory(tmp_path / "two", 3, models=("a", "b"))
        status, _, stderr = call(capsys, "score", *(tmp_path / name for name in given))
        assert status == 2 and stderr.count("\n") == 1 and message in stderr, given
    write(tmp_path / "author.json", {"eval_real_author_wo_options": log(1)})
    status, _, stderr = call(capsys, "score", path, tmp_path / "author.json")
    assert (
        status == 2
        and "is a log of clear_ref" in stderr
        and "of TOFU; expected the files of one evaluation" in stderr
    )


# ---- the command


def test_score_prints_every_number_with_its_definition_and_json_holds_the_same(tmp_path, capsys):
    model, gold = run_directory(tmp_path / "m", 1), run_directory(tmp_path / "g", 2)
    status, stdout, _ = call(capsys, "score", model, "--gold", gold, "--metrics", "all", "--json")
    found = json.loads(stdout)
    assert (
        status == 0
        and found["format"] == found["gold_format"] == "clear_ref"
        and set(found["missing"]) == {*WITH_CHOICES, *OF_TEXT}
    )
    own, other = logs.read(model).tasks, logs.read(gold).tasks
    for name in metrics.SETS:
        scored = metrics.score(own, other, name)
        assert (
            found["metrics"][name] == scored and found["definitions"][name] == scored["definitions"]
        )
    rows = {
        (row["metric"], set_name): row for row in found["numbers"] for set_name in row["metrics"]
    }
    for name in metrics.SETS:
        for metric, value in found["metrics"][name].items():
            if isinstance(value, float):
                assert rows[metric, name]["value"] == value
                assert rows[metric, name]["definition"] == found["definitions"][name][metric]
        for task, of in found["metrics"][name]["tasks"].items():
            assert rows[f"{task} truth_ratio", name]["value"] == of["truth_ratio"]
    status, text, _ = call(capsys, "score", model, "--gold", gold, "--metrics", "all")
    lines = text.splitlines()
    for row in found["numbers"]:
        line = next(
            line
            for line in lines
            if line.startswith(f"{row['metric']}  ") and f"  {row['definition']} v1  " in line
        )
        every = len(row["metrics"]) == len(metrics.SETS)
        sets = "every set" if every else ", ".join(row["metrics"])
        assert f"  {row['value']:.6g}  " in line and line.endswith(sets)
        low, high = row["interval"]
        assert f"  {low:.3g} to {high:.3g}  " in line
        words = [line.startswith(f"{row['definition']} v1  ") for line in lines]
        assert any(words), "the definition in words"
        about = f"  a higher value: {row['direction']}; source: {row['source']}"
        assert row["version"] == 1 and row["source"] and any(line.endswith(about) for line in lines)
    assert status == 0 and max(map(len, lines)) <= 136


def test_score_of_a_run_is_what_the_run_reported(tmp_path, capsys):
    """The default is the paper's definitions, and so is that of metrics.score."""
    model, gold = run_directory(tmp_path / "m", 1), run_directory(tmp_path / "g", 2)
    found = json.loads(call(capsys, "score", model, "--gold", gold, "--json")[1])
    assert found["metrics"] == {
        "paper": metrics.score(logs.read(model).tasks, logs.read(gold).tasks)
    }
    assert list(found["inputs"]) == [
        str(path) for path in (*logs.read(model).files, *logs.read(gold).files)
    ]


def test_without_gold_the_other_numbers_are_given_and_the_missing_one_has_its_reason(
    tmp_path, capsys
):
    model = run_directory(tmp_path / "m", 1)
    found = json.loads(call(capsys, "score", model, "--metrics", "all", "--json")[1])
    assert (
        found["metrics"]["paper"]["forget_quality"] is None
        and found["metrics"]["paper"]["forget"] > 0
    )
    assert set(found["missing"]) == {
        "forget_quality",
        "forget_quality_ks",
        "log10_forget_quality",
        "ks_p_value",
        "ks_distance",
        "js_distance",
        "minus_log10_p",
        *WITH_CHOICES,
        *OF_TEXT,
    }
    assert (
        "forget_quality: not computed; no gold log was given; expected --gold LOG"
        in call(capsys, "score", model)[1]
    )
    one = call(capsys, "score", model / "logs/eval_log.json", "--json")[1]
    assert (
        "holds no forget task; expected one of eval_log_forget"
        in json.loads(one)["missing"]["forget_quality"]
    )


def test_a_gold_log_without_a_task_leaves_out_the_numbers_of_that_task_alone(tmp_path, capsys):
    """Both forget tasks in the log, one in gold: what compares the other has a reason."""
    for name, seed in (("m", 1), ("g", 2)):
        folder = run_directory(tmp_path / name, seed) / "logs"
        text = json.loads((folder / "eval_log_forget.json").read_text())
        write(folder / "eval_text_forget.json", text | {"task": "eval_text_forget"})
    asked = ("score", tmp_path / "m", "--gold", tmp_path / "g", "--metrics", "released", "--json")
    whole = json.loads(call(capsys, *asked)[1])
    (tmp_path / "g/logs/eval_text_forget.json").unlink()
    found = json.loads(call(capsys, *asked)[1])
    reason = "the gold log holds no eval_text_forget; evaluate gold on it too"
    assert found["missing"] == whole["missing"] | {"text_log_forget_quality": reason}
    assert set(whole["missing"]) == {"text_real", "text_retain", "text_model_utility"}
    expected = whole["metrics"]["released"] | {"text_log_forget_quality": None}
    assert found["metrics"]["released"] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda gold: run_directory(gold, 2, config="forget05_perturbed"),
            "split forget10_perturbed, gold's of forget05_perturbed",
        ),
        (
            lambda gold: run_directory(gold, 2, n=5),
            "6 records, gold has 5; record 5 is in only one",
        ),
        (
            lambda gold: run_directory(gold, 1),
            "all losses of its 6 records are gold's too, as of one log given twice",
        ),
        (
            lambda gold: (run_directory(gold, 2), (gold / "logs/eval_log_forget.json").unlink()),
            "expected eval_log_forget too",
        ),
        (
            lambda gold: other_answers(run_directory(gold, 2)),
            "other split or set; record 3 expects 'Ann Bell, 3', in gold 'Eve Cole",
        ),
        (lambda gold: None, "no such file"),
    ],
)
@pytest.mark.parametrize("chosen", ["paper", "released", "tofu", "all"])
def test_gold_that_cannot_be_one_is_refused_with_the_reason(
    tmp_path, capsys, spoil, message, chosen
):
    model, gold = run_directory(tmp_path / "m", 1), tmp_path / "g"
    spoil(gold)
    status, stdout, stderr = call(capsys, "score", model, "--gold", gold, "--metrics", chosen)
    assert status == 2 and stdout == "" and stderr.count("\n") == 1 and message in stderr


def other_answers(path):
    """Change the text that record 3 of the forget task expects."""
    file = path / "logs/eval_log_forget.json"
    found = json.loads(file.read_text())
    found["generated_text"]["3"][2] = "Eve Cole, 3"
    write(file, found)


def test_logs_that_differ_only_in_spaces_are_of_the_same_questions(tmp_path, capsys):
    model, gold = run_directory(tmp_path / "m", 1), run_directory(tmp_path / "g", 2)
    file = gold / "logs/eval_log_forget.json"
    file.write_text(file.read_text().replace("Ann Bell, 3", "Ann Bell , 3"))
    assert call(capsys, "score", model, "--gold", gold)[0] == 0


@pytest.mark.parametrize(
    "command", [["score", "x"], ["scrub"], ["all"], ["finetune"], ["evaluate", "mini"]]
)
def test_an_unknown_set_of_definitions_is_refused_before_anything_is_read(capsys, command):
    status, _, stderr = call(capsys, *command, "--metrics", "mine")
    assert status == 2 and "metrics is 'mine'; expected" in stderr


@pytest.mark.parametrize("command", [["scrub"], ["all"], ["evaluate", None]])
def test_a_model_as_its_own_gold_is_refused_before_it_is_evaluated(capsys, tiny_directory, command):
    model = [] if command[-1] is None else ["--model", tiny_directory]
    named = [tiny_directory if word is None else word for word in command]
    status, _, stderr = call(capsys, *named, *model, "--gold", tiny_directory)
    assert status == 2 and f"--gold {tiny_directory}: is the model itself" in stderr


@pytest.mark.parametrize("command", [["scrub"], ["all"], ["sweep", "npo"], ["evaluate", None]])
def test_a_copy_of_the_model_as_gold_is_refused_too(capsys, tiny_directory, tmp_path, command):
    """By the SHA-256 of its weights: other names, links and files beside them change nothing."""
    (tmp_path / "gold").mkdir()
    for path in tiny_directory.iterdir():
        (tmp_path / "gold" / path.name).symlink_to(path)
    config = tmp_path / "gold/config.json"
    text = config.read_text(encoding="utf-8")
    config.unlink()
    config.write_text(text + "\n", encoding="utf-8")
    named = [tiny_directory if word is None else word for word in command]
    model = [] if command[-1] is None else ["--model", tiny_directory]
    grid = ["--grid", "lr=1e-3,1e-2"] if command[0] == "sweep" else []
    out = tmp_path / "out"
    options = [*model, *grid, "--gold", tmp_path / "gold", "--out", out]
    status, stdout, stderr = call(capsys, *named, *options)
    assert status == 2 and stdout == "" and not out.exists()
    assert f"--gold {tmp_path / 'gold'}: is the model itself; expected another one" in stderr


def test_every_set_of_definitions_is_an_option_of_every_command_that_scores():
    for kind in (settings.Score, settings.Unlearn, settings.Finetune, settings.Evaluate):
        assert kind().metrics == "paper"


def test_real_logs_are_scored_from_the_command_line(capsys):
    tofu, other = (
        "tofu_eval_logs/llama2-7b_{}_wd0.01.json.gz",
        "open_unlearning_eval_logs/Llama-2-7b-chat-hf_{}.json.gz",
    )
    for pattern, model, gold, format_name, quality in (
        (tofu, "full", "retain90", "TOFU", 1.834066410994743e-21),
        (other, "full_forget05", "retain95", "open-unlearning", 5.86730162802883e-14),
    ):
        paths = [real_data(pattern.format(name)) for name in (model, gold)]
        status, stdout, _ = call(
            capsys, "score", paths[0], "--gold", paths[1], "--metrics", "tofu", "--json"
        )
        found = json.loads(stdout)
        assert status == 0 and found["format"] == found["gold_format"] == format_name
        assert found["metrics"]["tofu"]["forget_quality"] == quality
    assert "mia_min_k" in found["metrics"]["tofu"]["membership"]
    (attack,) = [row for row in found["numbers"] if row["metric"] == "mia_loss"]
    assert attack["value"] == 1.0 and attack["metrics"] == ["tofu"]
    assert attack["definition"] == "auc_forget_below_holdout" and attack["version"] == 1


def test_real_gold_logs_of_other_splits_are_refused(capsys):
    for gold in (
        "tofu_eval_logs/llama2-7b_retain95_wd0.01",
        "open_unlearning_eval_logs/Llama-2-7b-chat-hf_retain90",
        "tofu_eval_logs/llama2-7b_full_wd0.01",
    ):
        status, _, stderr = call(
            capsys,
            "score",
            real_data("tofu_eval_logs/llama2-7b_full_wd0.01.json.gz"),
            "--gold",
            real_data(f"{gold}.json.gz"),
        )
        assert status == 2 and stderr.count("\n") == 1


def test_all_definitions_have_a_leaderboard_each(tmp_path):
    """The paper's table is first, and is the same as without the others. Every other number names
    its definition."""
    own, gold = (
        logs.read(run_directory(tmp_path / name, seed)).tasks for name, seed in (("m", 1), ("g", 2))
    )
    rows = [
        (name, metrics.score(found, gold, "all"))
        for name, found in (("unlearned", own), ("gold", gold))
    ]
    alone = terminal_tables.leaderboard(
        [(name, metrics.score(found, gold)) for name, found in (("unlearned", own), ("gold", gold))]
    )
    for text in (
        terminal_tables.leaderboard(rows),
        terminal_tables.leaderboard_over_seeds([(name, [one]) for name, one in rows]),
    ):
        first, *others = text.split(" definitions\n\n")[1:]
        assert (
            len(others) == len(metrics.SETS) - 1
            and "Utility" not in first
            and all("Utility ↑" in others[number] for number in (0, 1, 3))
        )
        assert (
            "definitions: rougeL_recall v1, " in first
            and "js_histogram10 v1" in first
            and "R by grand mean" in others[0]
            and "KS p-value against gold, R geometric" in others[1]
        )
    assert alone in terminal_tables.leaderboard(rows)
