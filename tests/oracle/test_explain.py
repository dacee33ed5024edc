"""explain: contributions sum to the loss, and weights and slopes are those of autograd and by hand.

The text and the page show these numbers.
Run: python -m pytest tests/oracle/test_explain.py
"""

import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch

from clear_ref.commands import explain_batch
from clear_ref.commands.given import Given
from clear_ref.losses.hidden_states import control_vector
from clear_ref.methods import LOSSES, method_loss, needs, variant
from clear_ref.methods.table import make_options
from clear_ref.oracle.certify import random_trials
from clear_ref.oracle.explain import folding, method_file, page, terminal
from clear_ref.oracle.explain.attribution import attribute
from clear_ref.oracle.reference.inputs import inputs
from clear_ref.run import main

EVERY_VARIANT = [
    (method, semantics) for method, module in LOSSES.items() for semantics in module.VARIANTS
]


def attributed(method, semantics, given):
    """(outputs, input ids, Attribution) of a method's loss on random batches."""
    shape = random_trials.shape_for(method, semantics)
    outputs = random_trials.batches(method, semantics, given, shape)
    options = make_options(method, given, semantics)
    chosen = variant(method, semantics)
    n = min(len(one.labels) for one in outputs.values())
    outputs = {
        name: type(one)(
            **{key: None if value is None else value[:n] for key, value in vars(one).items()}
        )
        for name, one in outputs.items()
    }
    if chosen.prepare_options is not None:
        options = chosen.prepare_options(options, n)
    batches = inputs(shape)
    ids = {name: torch.from_numpy(batches[name]["input_ids"])[:n] for name in outputs}
    attribution = attribute(lambda batches: chosen.loss(batches, options), outputs, ids)
    return outputs, ids, attribution


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics", EVERY_VARIANT)
def test_the_contributions_of_every_variant_and_option_sum_to_its_loss(method, semantics):
    """Tolerance 1e-12 of the terms' size: a few thousand float64 roundings.

    So many rows and columns are added.
    """
    for given in random_trials.option_sets(method, semantics):
        outputs, _, found = attributed(method, semantics, given)
        size = max(1.0, sum(map(abs, found.terms.values())))
        total = sum(
            float(row.contribution.sum()) for rows in found.records.values() for row in rows
        )
        whole = float(method_loss(method, outputs, semantics, **given).value)
        assert abs(total - whole) < 1e-12 * size and abs(found.loss - whole) < 1e-12 * size, given


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics", [pair for pair in EVERY_VARIANT if pair[0] != "rmu"])
def test_d_logit_is_the_derivative_of_the_loss_by_autograd(method, semantics):
    for given in random_trials.option_sets(method, semantics):
        outputs, ids, found = attributed(method, semantics, given)
        result = random_trials.loss(method, semantics, given, outputs)
        for name, rows in found.records.items():
            for s, row in enumerate(rows):
                wanted = result.gradients[name][s, :-1].gather(1, ids[name][s, 1:, None])[:, 0]
                assert (row.d_logit - wanted).abs().max() < 1e-12 * result.scale
                p = outputs[name].logits[s, :-1].softmax(-1).gather(1, ids[name][s, 1:, None])[:, 0]
                assert ((row.d_logp * (1 - p)) - wanted).abs().max() < 1e-12 * result.scale


def test_moving_one_log_probability_moves_the_loss_by_d_logp():
    """log p of one token is raised by h, and the other tokens of its row are scaled to sum to 1.

    (L(+h) - L(-h)) / 2h has a truncation error of about h^2 < 1e-8.
    """
    outputs, ids, found = attributed("scrub", "released", {})
    for name, s, t in (("forget", 0, 1), ("forget", 1, 0), ("retain", 2, 2)):
        losses = []
        for h in (1e-4, -1e-4):
            logp = outputs[name].logits.log_softmax(-1).clone()
            y = ids[name][s, t + 1]
            before, after = logp[s, t, y].exp(), (logp[s, t, y] + h).exp()
            others = torch.arange(logp.shape[2]) != y
            logp[s, t, others] += torch.log((1 - after) / (1 - before))
            logp[s, t, y] += h
            losses.append(
                float(
                    method_loss(
                        "scrub",
                        {
                            **outputs,
                            name: type(outputs[name])(**{**vars(outputs[name]), "logits": logp}),
                        },
                        "released",
                    ).value
                )
            )
        assert float(found.records[name][s].d_logp[t]) == pytest.approx(
            (losses[0] - losses[1]) / 2e-4, abs=1e-7
        )


def test_row_weights_are_those_of_the_papers_formulas():
    """The weights in the formulas of scrub and npo (paper).

    scrub  nll: 1 / n over all answer tokens; KL: +-1 / (B length)
    npo    nll: -(2 / B) sigmoid(-beta u) at every answer row
    """
    outputs, _, found = attributed("scrub", "paper", {})
    one = outputs["retain"]
    lengths = (one.labels[:, 1:] != -100).sum(1)
    for s, row in enumerate(found.records["retain"]):
        answer = torch.nn.functional.pad(one.labels[s, 1:] != -100, (0, 1))
        assert torch.allclose(
            row.weights["nll"], answer / lengths.sum().double(), rtol=0, atol=1e-15
        )
        assert torch.allclose(
            row.weights["kl_teacher_student"],
            answer / (3 * lengths[s]).double(),
            rtol=0,
            atol=1e-15,
        )
    outputs, _, found = attributed("npo", "paper", {"beta": 0.5})
    one = outputs["forget"]
    for s, row in enumerate(found.records["forget"]):
        rows = (one.labels[s, 1:] != -100).nonzero()[:, 0]
        labels = one.labels[s, rows + 1]
        nll, teacher = (
            -tensor[s].log_softmax(-1)[rows, labels].sum()
            for tensor in (one.logits, one.teacher_logits)
        )
        weight = -2 / 3 * torch.sigmoid(-0.5 * (nll - teacher))
        assert torch.allclose(
            row.weights["nll"][rows], weight.expand(len(rows)), rtol=0, atol=1e-14
        )
        assert not row.weights["nll"][~torch.isin(torch.arange(one.labels.shape[1]), rows)].any()


def test_a_hidden_state_contributes_its_own_squared_distance():
    """rmu (paper): alpha / (B length) |h - h_teacher|^2 on retain.

    On forget 1 / (B length) |h - c u|^2.
    """
    outputs, _, found = attributed("rmu", "paper", {"c": 7.0})
    for name in ("forget", "retain"):
        one = outputs[name]
        target = (
            7.0 * control_vector(0, one.hidden.shape[2]) if name == "forget" else one.teacher_hidden
        )
        wanted = (
            (one.hidden - target).square().sum(-1)
            * one.attention_mask
            / (3 * one.attention_mask.sum(1, keepdim=True))
        )
        for s, row in enumerate(found.records[name]):
            assert torch.allclose(row.contribution, wanted[s], rtol=1e-12, atol=1e-13)


def command(capsys, *arguments):
    status = main(["explain", *arguments, "--quiet"])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.fixture(scope="module")
def kl_released():
    """One record under kl (released): the forget record has a picture."""
    settings = explain_batch.ExplainSettings(semantics="released", records=1)
    run = explain_batch.resolve("kl", settings, Given())
    return explain_batch.explain_batch(run)["explained"][0]


@pytest.mark.slow
def test_a_batch_of_the_embedded_world_sums_and_knows_its_kinds(kl_released):
    lines = [
        line
        for records in kl_released["batches"].values()
        for record in records
        for line in record["lines"]
    ]
    assert sum(line["contribution"] for line in lines) == pytest.approx(
        kl_released["loss"], abs=1e-12
    )
    forget = kl_released["batches"]["forget"][0]
    kinds = [line["kind"] for line in forget["lines"]]
    assert kinds.count("image") == 36 and kinds[0] == "prompt" and kinds[-1] == "after the end"
    said = "".join(line["token"] for line in forget["lines"] if line["kind"] == "answer")
    assert said == f" {forget['answer']}</s>"
    assert all(
        (line["contribution"] != 0) == (line["kind"] == "answer") for line in forget["lines"]
    )
    assert all(terminal.arrow(line) == "↓" for line in forget["lines"] if line["kind"] == "answer")


def test_folding_changes_no_sum(kl_released):
    for records in kl_released["batches"].values():
        for record in records:
            folded = folding.folded(record["lines"])
            assert sum(line["contribution"] for line in folded) == pytest.approx(
                sum(line["contribution"] for line in record["lines"]), abs=1e-15
            )
            assert sum(line["count"] for line in folded) == len(record["lines"])
            assert sum(line["kind"] == "image" for line in folded) <= 1


PICTURE = ("image/png", b"x")


class Page(HTMLParser):
    """The tags of a page, and the text of the spans that are tokens."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.classes, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.classes += [found["class"]] if tag == "span" and "class" in found else []
        self.links += [found[key] for key in ("src", "href", "action") if key in found]


def test_the_page_has_no_links_and_colours_the_tokens_that_are_pushed(kl_released):
    text = page.page([kl_released])
    shown = Page(text)
    assert (
        "script" not in shown.tags
        and not shown.links
        and "http" not in re.sub("http-equiv", "", text)
    )
    assert "prefers-color-scheme: dark" in text
    n_answers = sum(
        line["kind"] == "answer" for line in kl_released["batches"]["forget"][0]["lines"]
    )
    assert sum(name == "t answer down" for name in shown.classes) == n_answers
    assert not [name for name in shown.classes if name.startswith("t prompt ") and "up" in name]


def test_a_word_is_one_piece_of_the_page_and_the_picture_is_beside_its_question(kl_released):
    """Every word of the answer is one element of class w, though it has several tokens."""
    record = kl_released["batches"]["forget"][0]
    tokens = [line for line in record["lines"] if line["kind"] == "answer"]
    words = record["answer"].split()
    assert len(tokens) > len(words) + 1, "some word has several tokens"
    shown = re.sub(r' title="[^"]*"', "", page.page([kl_released], {("forget", 0): PICTURE}))
    shown, _, of_retain = shown.partition("<h2>retain")
    assert of_retain
    pieces = re.findall(r'<span class="w">((?:<span class="t [^>]*>[^<]*</span>)+)</span>', shown)
    said = [re.sub("<[^>]*>", "", piece) for piece in pieces]
    assert [html.escape(word) for word in words] == said[-len(words) - 1 : -1]
    assert shown.count('src="data:image/png;base64,eA=="') == 1
    assert "<img" not in page.page([kl_released])


def test_text_of_the_data_never_becomes_markup(kl_released):
    text = json.loads(json.dumps(kl_released))
    record = text["batches"]["forget"][0]
    record["question"] = "<script>alert(1)</script>"
    record["lines"][3]["token"] = "<img src=x>"
    written = page.page([text])
    assert "<script" not in written and "<img" not in written and "&lt;script&gt;" in written


@pytest.mark.slow
def test_two_semantics_are_shown_side_by_side_with_their_difference(capsys, tmp_path):
    status, shown, _ = command(
        capsys,
        "scrub",
        "--compare",
        "paper,released",
        "--records",
        "1",
        "--json",
        "--html",
        str(tmp_path / "page.html"),
    )
    found = json.loads(shown)
    assert status == 0 and [one["semantics"] for one in found["explained"]] == ["paper", "released"]
    for i, one in enumerate(found["explained"]):
        assert sum(
            line["contribution"][i] for part in found["beside"] for line in part["lines"]
        ) == pytest.approx(one["loss"], abs=1e-12)
    assert all(
        line["contribution"][2] == line["contribution"][1] - line["contribution"][0]
        for part in found["beside"]
        for line in part["lines"]
    )
    assert "released" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_records_that_differ_between_two_semantics_are_shown_each_alone(capsys):
    """idk: refusals in the paper's idk batch, the true answers in the released one."""
    status, shown, _ = command(
        capsys, "idk", "--compare", "paper,released", "--records", "1", "--json"
    )
    parts = [part for part in json.loads(shown)["beside"] if part["batch"] == "idk"]
    assert status == 0 and [part["in"] for part in parts] == [[True, False], [False, True]]
    assert parts[0]["answer"] != parts[1]["answer"]


@pytest.mark.parametrize("method", LOSSES)
def test_the_description_has_every_semantics_with_its_formula_and_source(method, capsys):
    status, shown, _ = command(capsys, method)
    found = method_file.describe(method)
    assert (
        status == 0
        and set(found["meanings"]) == set(LOSSES[method].VARIANTS)
        and max(map(len, shown.splitlines())) <= 100
    )
    for name, one in found["meanings"].items():
        assert (
            one["formula"]
            and name in shown
            and needs(method, name, variant(method, name).options())
        )
    numbers = re.findall(r"(?m)^deviations (D\d+)|^ {11}(?:.*\. )?(D\d+) ", LOSSES[method].__doc__)
    assert len(found["deviations"]) >= len({max(pair) for pair in numbers})
    assert [number for number, _ in found["deviations"]] == [
        f"D{i + 1}" for i in range(len(found["deviations"]))
    ]


def test_a_number_that_is_not_the_next_one_is_a_reference():
    found = method_file.numbered(["R1 as idk.py's D3", "says. R2 the", "other."])
    assert found == [["R1", "as idk.py's D3 says."], ["R2", "the other."]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["npoo"], "method is 'npoo'; expected one of"),
        (["npo", "--semantics", "papers"], "semantics is 'papers'; expected one of"),
        (["npo", "--set", "beta=2"], "--set changes nothing without a batch"),
        (["npo", "--batch", "--set", "gamma=2"], "has no option 'gamma'"),
        (["npo", "--compare", "paper"], "expected two different semantics"),
        (["npo", "--compare", "paper, paper"], "expected two different semantics"),
        (["npo", "--mask", "released"], "--mask changes nothing without a batch; add --batch"),
        (
            ["npo", "--model", "mini", "--dtype", "float32", "--modality", "text"],
            "--model, --modality, --dtype change nothing",
        ),
        (["npo", "--compare", "paper,released", "--semantics", "paper"], "no --semantics"),
        (["npo", "--batch", "--records", "0"], "--records 0"),
        (["npo", "--batch", "--index", "60"], "the forget set has records 0 to"),
        (["npo", "--batch", "--adapter", "nowhere"], "no such directory"),
        (["npo", "--batch", "--forget", "3"], "forget is 3; expected one of 1, 5, 10"),
        (["rmu", "--batch", "--set", "layer=9"], "decoder layer is 9"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments, words, capsys):
    status, _, error = command(capsys, *arguments)
    assert status == 2 and words in error and len(error.splitlines()) == 1


def test_no_statement_of_a_formula_is_cut_where_its_line_ends():
    """No line of a formula ends with a word that asks for another one."""
    for method, module in LOSSES.items():
        for line in module.__doc__.split("needs ")[0].splitlines():
            words = re.sub(r"\s*\[[^\[\]]*\]$", "", line).split()
            assert not words or words[-1] not in ("the", "true", "for", "are", "of", "a"), (
                method,
                line,
            )


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly():
    for arguments in (["explain", "npo", "--json"], ["explain", "--help"], ["doctor"]):
        reads, writes = os.pipe()
        os.close(reads)
        done = subprocess.run(
            [sys.executable, "-m", "clear_ref.run", *arguments],
            stdout=writes,
            stderr=subprocess.PIPE,
        )
        os.close(writes)
        assert done.returncode == 141 and not done.stderr, done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [(["npo"], "interrupted; --resume --out DIR continues"), (["explain", "npo"], "interrupted\n")],
)
def test_an_interrupt_names_resume_only_for_a_command_that_has_it(
    arguments, words, capsys, monkeypatch
):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("clear_ref.run.do", interrupted)
    assert main(arguments) == 130 and words in capsys.readouterr().err
