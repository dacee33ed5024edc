"""explain shows every known mistake and every meaning of another project beside the right loss.

A computation without a mistake gives the same lines as autograd does.

Run: python -m pytest tests/oracle/test_explain_mistakes.py
"""

import json
from dataclasses import replace
from functools import cache

import pytest

from clear_ref.commands import explain_batch
from clear_ref.commands.given import Given
from clear_ref.methods import METHODS
from clear_ref.oracle.explain import mistake_names, mistaken, page, side_by_side, terminal
from clear_ref.oracle.mistakes.computations import Computation
from clear_ref.oracle.mistakes.known import EVERY_METHOD, Mistake
from clear_ref.oracle.mistakes.projects import ENTRIES, PROJECTS
from clear_ref.run import main

NO_MISTAKE = Mistake("none", "Nothing is wrong.", "nowhere", EVERY_METHOD, Computation())


@cache
def run_of(method, semantics="", mistake="", compare="", records=1, index=0):
    settings = explain_batch.ExplainSettings(
        semantics=semantics, compare=compare, mistake=mistake, records=records, index=index
    )
    return explain_batch.resolve(method, settings, Given())


@pytest.fixture(scope="module")
def vlm():
    source = run_of("npo").source
    return source.load(source.model, "")


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_says_what_it_gives_on_a_stored_case(name):
    entry = ENTRIES[name]
    method = entry.methods[0]
    shown = mistaken.about(entry, method, mistaken.first_semantics(entry, method))
    assert "instead of" in shown["stored"] and shown["what"] and shown["seen"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, semantics",
    [("npo", "paper"), ("dpo", "paper"), ("kl", "released")],
)
def test_a_computation_without_a_mistake_gives_the_lines_of_autograd(vlm, method, semantics):
    """Contributions and slopes to 1e-7: 1 - p cancels where p is near 1."""
    run = run_of(method, semantics, records=2)
    [chosen] = run.variants
    right = explain_batch.explain_variant(run, chosen, vlm)
    found = mistaken.explain_mistake(
        vlm,
        method,
        semantics,
        chosen.options,
        chosen.plan,
        run.indices,
        chosen.mask,
        "",
        NO_MISTAKE,
    )
    assert found["loss"] == pytest.approx(right["loss"], rel=1e-12)
    assert found["terms"] == pytest.approx(right["terms"], rel=1e-12)
    n_lines = 0
    for record in side_by_side.side_by_side(right, found):
        for line in record["lines"]:
            for one, other, difference in (line["contribution"], line["push"]):
                assert (one is None) == (other is None)
                if one is not None:
                    assert difference == 0 or abs(other - one) < 1e-7, line
                    n_lines += 1
    assert n_lines > 100


@pytest.mark.parametrize("semantics", ["released@2024-12-10", "released"])
def test_an_entry_of_rmu_has_the_control_vectors_of_the_batch_that_is_shown(vlm, semantics):
    """Before 2025-03-30 each batch has its own; these are records 3 and 4."""
    run = run_of("rmu", semantics, records=2, index=3)
    [chosen] = run.variants
    right = explain_batch.explain_variant(run, chosen, vlm)
    found = explain_batch.explain_variant(run, replace(chosen, entry=NO_MISTAKE), vlm)
    assert found["terms"] == pytest.approx(right["terms"], rel=1e-9, abs=1e-12)


@pytest.mark.slow
def test_the_contributions_of_entries_sum_to_their_loss_on_a_real_record(vlm):
    """Every sixth entry; test_peers.py has all on a stored case."""
    for name, entry in list(ENTRIES.items())[::6]:
        method = entry.methods[0]
        semantics = mistaken.first_semantics(entry, method)
        run = run_of(method, semantics)
        [chosen] = run.variants
        found = explain_batch.explain_variant(run, replace(chosen, entry=entry), vlm)
        records = [one for records in found["batches"].values() for one in records]
        total = sum(line["contribution"] for record in records for line in record["lines"])
        assert total == pytest.approx(found["loss"], rel=1e-9, abs=1e-12), name


def test_a_mistake_is_shown_beside_the_right_numbers_in_the_terminal_and_on_the_page():
    """At the teacher, npo_batch_mean pulls each of n answer tokens with 1/n of npo's slope."""
    run = run_of("npo", mistake="MLLMU-Bench")
    result = explain_batch.explain_batch(run)
    first, second = result["explained"]
    assert (first["semantics"], second["semantics"]) == ("paper", "npo_batch_mean")
    lines = [line for record in result["beside"] for line in record["lines"]]
    pushes = [line["push"] for line in lines if line["kind"] == "answer"]
    assert len(pushes) > 5
    for right, wrong, _ in pushes:
        assert wrong == pytest.approx(right / len(pushes), rel=1e-6)
    text = terminal.comparison_text(first, second)
    for shown in (text, page.page([first, second])):
        assert "seen in: MLLMU-Bench, NPO.py:256-266" in shown.replace("Seen in", "seen in")
        assert "one number." in shown and "instead of" in shown
    assert "d logp npo_batch_mean" in text


def test_an_entry_needs_no_semantics_where_only_some_have_it():
    run = run_of("llmu", mistake="llm_unlearn")
    assert [chosen.semantics for chosen in run.variants] == ["original", "original"]
    assert run.variants[1].entry.name == "llmu_llm_unlearn"
    run = run_of("npo", compare="paper,open-unlearning")
    assert [(one.semantics, one.entry) for one in run.variants] == [
        ("paper", None),
        ("original", None),
    ]


def test_the_list_has_every_name_and_each_method_prints_its_own(capsys):
    assert main(["explain", "--mistakes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    listed = {one["name"] for key in ("mistakes", "meanings") for one in found[key]}
    assert listed == set(ENTRIES) and len(listed) >= 40
    assert set(found["projects"]) == set(PROJECTS)
    assert [one["name"] for one in found["evaluations"]] == [
        "constant_answer_scored",
        "name_in_lower_case_letters",
    ]
    text = mistake_names.text(found)
    assert all(name in text for name in (*ENTRIES, *PROJECTS))
    for method in METHODS:
        assert main(["explain", method, "--json"]) == 0
        own = {name for name, _ in json.loads(capsys.readouterr().out)["mistakes"]}
        assert own == {name for name, entry in ENTRIES.items() if method in entry.methods}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["npo", "--mistake", "npo_batchmean"], "the nearest name is npo_batch_mean; explain --mi"),
        (["rmu", "--mistake", "kl_swapped"], "kl_swapped does not exist in rmu; it does in grad_"),
        (["rmu", "--mistake", "erasus"], "erasus has no rmu that is known here; it has grad_asce"),
        (["npo", "--mistake", "kl_swapped", "--compare", "paper,released"], "both given"),
        (["nothing", "--mistake", "kl_swapped"], "nothing"),
        (["npo", "--mistakes"], "expected nothing beside it"),
        ([], "METHOD is missing; expected one of retain_ft"),
        (
            ["npo", "--mistake", "vocabulary_wise_ratio", "--semantics", "released"],
            "is the definition of npo under released; expected --semantics paper or original",
        ),
        (
            ["llmu", "--mistake", "llm_unlearn", "--semantics", "paper", "--records", "1"],
            "lacks under paper; expected --semantics original",
        ),
        (
            ["npo", "--mistake", "open-unlearning", "--semantics", "original"],
            "open-unlearning's npo is original semantics; expected another --semantics",
        ),
    ],
)
def test_a_name_that_cannot_be_shown_is_one_line_with_what_to_do(capsys, arguments, expected):
    assert main(["explain", *arguments, "--quiet"]) == 2
    printed = capsys.readouterr()
    assert expected in printed.err and printed.err.count("\n") == 1 and not printed.out
