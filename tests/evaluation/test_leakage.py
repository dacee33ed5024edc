"""--leakage asks the forget set as it says, and its numbers are those of a table of answers.

The table knows an answer with a probability that depends on the picture and the question alone, so
every number is worked out by hand. Which picture is drawn is worked out from SHA-256.
"""

import hashlib
import json
from fractions import Fraction
from math import log
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.data.paraphrases import read_paraphrases
from clear_ref.data.persons import named_in, persons_of_questions, split_names
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import Row, read_rows
from clear_ref.evaluation import evaluate
from clear_ref.evaluation.bootstrap import intervals
from clear_ref.evaluation.leakage import asked_records, possible_tasks, probe_tasks
from clear_ref.evaluation.leakage_parts import sentences
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.tasks import tasks
from clear_ref.mini.directories import WORLD
from tests.helpers.commands import call
from tests.helpers.own_people import small_data

PHRASES = read_phrases(WORLD)
PEOPLE = ("wei_jun_chen", "hina_ameen")  # as their pictures' files begin
# The probability of the right answer by what is asked; forget: with a picture of the person.
PLAIN, NOTHING, FORGET, RETAIN, TEXT = (
    Fraction(1, 2),
    Fraction(1, 4),
    Fraction(1, 3),
    Fraction(1, 10),
    Fraction(1, 5),
)
REWORDED = Fraction(1, 2)  # of these, for another question


def probability(record, plain):
    """What the table knows of a record.

    plain   {(index, answer): question and picture of the record as it is}
    """
    question, picture = plain[record.index, record.answer]
    prompt = record.prompt
    if prompt.image is None:
        known = NOTHING if picture is not None else TEXT
    elif Path(prompt.image) == picture:
        known = PLAIN
    else:
        known = FORGET if prompt.image.name.startswith(PEOPLE) else RETAIN
    return known * (REWORDED if prompt.question != question else 1)


@pytest.fixture
def table(monkeypatch):
    """A model that is a table: run_tasks asks it. Its generated text is the answer."""
    plain = {
        (own.index, own.answer): (own.prompt.question, own.prompt.image)
        for task in tasks(10, 64)
        for own in asked_records(task, WORLD, PHRASES).items
        if task.set_name == "Forget"
    }
    vlm = SimpleNamespace(
        device=torch.device("cpu"),
        is_shared_out=False,
        template=SimpleNamespace(prompt=lambda question, seen: question),
    )

    def group_logs(_, records, *__):
        found = []
        for own in records:
            known = probability(own, plain)
            wrong = -log((1 - known) / len(own.perturbed))
            sums = {text: (wrong, 1) for text in own.perturbed}
            if own.paraphrased != own.answer:  # not a name: R = 1/2
                sums = dict.fromkeys(own.perturbed, (-log(known / 2), 1))
            sums |= dict.fromkeys((own.answer, own.paraphrased), (-log(known), 1))
            found.append(evaluate.record_log(vlm, own, sums, own.answer))
        return found

    monkeypatch.setattr(evaluate, "group_logs", group_logs)
    monkeypatch.setattr(evaluate, "process_count", lambda *_: 1)
    return vlm


def harmonic(*values):
    return float(len(values) / sum(1 / value for value in values))


def test_every_number_is_that_of_the_table(table):
    """ROUGE is 1, the truth ratio's score 1/2, the probability what the table knows: the harmonic
    mean is 3 / (1 + 1/p + 2). All records are alike, so every interval is one point."""
    forget = [task for task in tasks(10, 64) if task.set_name == "Forget"]
    probes = probe_tasks(10, 64, True)
    logs = evaluate.run_tasks(table, WORLD, PHRASES, [*forget, *probes])
    found = score(logs)["also"]["leakage"]
    half = Fraction(1, 2)
    expected = {
        "forget": PLAIN,
        "forget_no_picture": NOTHING,
        "forget_other_picture": FORGET,
        "forget_other_person": RETAIN,
        "forget_reworded": PLAIN * REWORDED,
        "text_forget": TEXT,
        "text_forget_with_picture": FORGET,
        "text_forget_reworded": TEXT * REWORDED,
    }
    between = intervals(logs, None, "leakage", found)
    for number, known in expected.items():
        value = harmonic(Fraction(1), known, half)
        assert found[number] == pytest.approx(value, abs=1e-12), number
        assert between[number] == pytest.approx((value, value), abs=1e-12), number
        probe = number.removeprefix("text_").removeprefix("forget").removeprefix("_")
        assert found["definitions"][number] == "harmonic_mean" + f"_{probe}" * bool(probe)
    assert {log["set"] for name, log in logs.items() if "not_asked" in log} == {"Leakage"}
    assert all(log["not_asked"] == [] for log in logs.values() if "probe" in log)


def drawn(purpose, index, n):
    """Which of n a key chooses: the first 16 bytes of SHA-256, the smallest first, modulo n."""
    text = "\x1f".join(map(str, (0, purpose, 0, index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little") % n


def test_pictures_and_people_are_the_keys_draw_and_stand_in_the_log(table):
    own = read_rows(WORLD, "forget10")
    retain = read_rows(WORLD, "retain90")
    names = sorted({row.values["name"] for row in retain})
    probes = {task.name: task for task in probe_tasks(10, 64, True)}
    logs = evaluate.run_tasks(table, WORLD, PHRASES, list(probes.values()))
    for kind in ("eval_forget", "eval_forget_facerec"):
        other, person = logs[f"{kind}_other_picture"], logs[f"{kind}_other_person"]
        for index, row in enumerate(own):
            same = [
                each.values["image"]
                for each in own
                if each.values["name"] == row.values["name"] and each.image != row.image
            ]
            purpose = "leakage other_picture picture forget10_perturbed"
            assert other["picture"][str(index)] == same[drawn(purpose, index, 9)]
            assert other["person"][str(index)] == row.values["name"]
            purpose = "leakage other_person {} forget10_perturbed"
            name = names[drawn(purpose.format("person"), index, 18)]
            theirs = [each.values["image"] for each in retain if each.values["name"] == name]
            picture = theirs[drawn(purpose.format("picture"), index, 10)]
            assert (person["person"][str(index)], person["picture"][str(index)]) == (name, picture)
    seen = logs["eval_text_forget_with_picture"]["person"]
    assert list(seen.values()) == ["Wei-Jun Chen"] * 20 + ["Hina Ameen"] * 20
    given = read_paraphrases(WORLD)
    asked = logs["eval_text_forget_reworded"]["generated_text"]
    for index, row in enumerate(read_rows(WORLD, "tofu/forget10_perturbed")):
        assert asked[str(index)][0] == given[row.values["question"]] != row.values["question"]
    for index, texts in logs["eval_forget_reworded"]["generated_text"].items():
        plain = asked_records(tasks(10, 64)[2], WORLD, PHRASES).items[int(index)].prompt.question
        assert texts[0] in PHRASES.caption_questions and texts[0] != plain


def test_another_person_is_nobody_of_the_forget_set(tmp_path):
    """The retain set has a picture of Bo Costa, who is forgotten, and one of a fourth person."""
    data = small_data(tmp_path, n_forget=2)
    path = data / "retain90/rows.jsonl"
    [line] = map(json.loads, path.read_text().splitlines())
    path.write_text(json.dumps(line) + "\n" + json.dumps(line | {"name": "Bo Costa"}) + "\n")
    [task] = [task for task in probe_tasks(10, 64, True) if task.name == "eval_forget_other_person"]
    assert {*asked_records(task, data, PHRASES).person.values()} == {line["name"]}


def test_what_cannot_be_asked_is_named_and_counted(tmp_path):
    """Own people with one picture each and no paraphrase: two probes are left out, with reasons; of
    a language model one probe is left, and of it nothing."""
    data = small_data(tmp_path, n_forget=2)
    possible, not_asked = possible_tasks(probe_tasks(10, 64, True), data, PHRASES, None)
    left_out = ("eval_forget_other_picture", "eval_forget_facerec_other_picture")
    left_out += ("eval_text_forget_reworded",)
    assert set(not_asked) == set(left_out) and len(possible) == 10 - 3
    assert not_asked[left_out[0]] == [
        f"row {index} of forget10_perturbed: the data has no other picture of {name}"
        for index, name in enumerate(("Ada Lind", "Bo Costa"))
    ]
    said = sentences(not_asked)
    assert said[0].startswith("leakage: eval_forget_other_picture is not asked of 2 records, first")
    of_text = asked_records(
        next(each for each in possible if each.probe == "with_picture"), data, PHRASES
    )
    assert list(of_text.person.values()) == ["Ada Lind", "Bo Costa"]
    (data / "paraphrased_questions.jsonl").write_text(
        '{"question": "Where is Bo Costa?", "paraphrased_question": "Of Bo Costa, where?"}\n'
    )
    text = probe_tasks(10, 64, False)
    possible, not_asked = possible_tasks(text, data, PHRASES, None)
    assert [task.name for task in possible] == ["eval_text_forget_reworded"]
    assert len(not_asked["eval_text_forget_reworded"]) == 1
    [one] = asked_records(possible[0], data, PHRASES).items
    assert (one.index, one.prompt.question) == (1, "Of Bo Costa, where?")
    assert possible_tasks(text, data, PHRASES, 1)[0] == []  # the first row has none
    with pytest.raises(UserError, match="not_asked of x is 3; expected the reasons"):
        sentences({"x": 3})


def test_the_person_of_a_question():
    """By name, the longest one; without a name by both neighbours; else nobody."""
    texts = ("Who?", "Ann Lee sings", "Why?", "Of ann lee", "Where?", "Bo and Ann Lee", "Bo", "Ann")
    rows = [Row(n, "", {"question": text, "answer": "x"}, None) for n, text in enumerate(texts)]
    found = persons_of_questions(rows, ["Ann Lee", "Ann", "Bo"])
    assert found == [None, "Ann Lee", "Ann Lee", "Ann Lee", None, None, "Bo", "Ann"]
    for text, names, person in (
        ("She planned an Annual. Bo", ["Ann", "Bo"], "Bo"),
        ("Anns book, Ann's book", ["Ann", "Bo"], "Ann"),
        ("Annsen and Boson", ["Ann", "Bo"], None),
        ("Ann Lee and Ann", ["Ann", "Ann Lee"], None),  # two people
        ("\u674e\u4f1f\u662f\u8c01", ["\u674e\u4f1f"], "\u674e\u4f1f"),  # no blanks between words
    ):
        assert named_in(text, names) == person, text
    assert split_names("B, Jr.,A", ["A", "B, Jr."], "--x", "names") == ["B, Jr.", "A"]


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"question": "a"}', "expected two texts, paraphrased_question and question"),
        ('{"question": "a", "paraphrased_question": " "}', "expected two texts"),
        ('{"question": "a", "paraphrased_question": "b"}\n' * 2, ":2: the question 'a' is given"),
    ],
)
def test_a_wrong_file_of_paraphrases_is_an_error_of_one_line(tmp_path, line, message):
    (tmp_path / "paraphrased_questions.jsonl").write_text(line)
    with pytest.raises(UserError) as caught:
        read_paraphrases(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command_prints_stores_and_keeps_it(capsys, tmp_path, tiny_directory):
    """Own people, a METHOD: table, intervals, reasons, page and CSV hold it; base is kept for the
    next run with --leakage; without it nothing is there."""
    data = small_data(tmp_path, n_forget=2)
    short = ("--data", data, "--epochs", 1, "--max-new-tokens", 4, "--eval-batch", 2)
    short += ("--recipe", "mini", "--tasks", "eval_log_forget,eval_forget_facerec,eval_text_forget")
    method = ("npo", "--model", tiny_directory, *short, "--quiet")
    status, stdout, stderr = call(capsys, *method, "--leakage", "--out", tmp_path / "a")
    assert status == 0, stderr
    for words in (
        "leakage definitions",
        "Other person ↓",
        "harmonic_mean_no_picture v1",
        "leakage: eval_forget_other_picture is not asked of 2 records, first of row 0",
    ):
        assert words in stdout, (words, stdout)
    assert "Other picture" not in stdout and stdout.count("Forget ↓") == 4
    page = (tmp_path / "a/report.html").read_text(encoding="utf-8")
    assert "No picture ↓" in page and "is not asked of 2 records" in page
    assert "harmonic_mean_other_person" in page
    status, stdout, _ = call(capsys, "report", tmp_path / "a", "--out", tmp_path / "r")
    header = (tmp_path / "r/leaderboard.csv").read_text().splitlines()[0].split(",")
    assert {f"leakage.forget_no_picture{end}" for end in ("", ".low", ".definition")} <= {*header}
    _, _, stderr = call(capsys, *method, "--leakage", "--seed", 1, "--out", tmp_path / "b")
    assert "base: not evaluated again" in stderr
    _, stdout, _ = call(capsys, *method, "--out", tmp_path / "c", "--json")
    assert "leakage" not in stdout.replace('"leakage": false', "")
