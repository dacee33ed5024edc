"""trace.csv holds the values of trace.jsonl, digit for digit, in columns that csv readers take."""

import csv
import json

import pytest

from clear_ref.common.errors import UserError
from clear_ref.loop.trace import Trace, as_csv, checked_line

LINES = [
    {
        "stage": "scrub",
        "step": 1,
        "epoch": 0,
        "phase": "max",
        "loss": 0.1 + 0.2,
        "terms": {"forget_kl": -1e-17, "l1": 2.0},
        "gradient_norm": 1.5,
        "lr": 1e-3,
        "answer_tokens": 7,
        "seconds": 0.25,
    },
    {
        "stage": "scrub, second",
        "step": 2,
        "epoch": 1,
        "loss": 3.0,
        "terms": {"retain_nll": 1 / 3},
        "gradient_norm": 2.0,
        "lr": 5e-4,
        "answer_tokens": 9,
        "seconds": 0.5,
    },
]


def test_the_columns_by_hand():
    assert as_csv(LINES) == (
        "step,epoch,stage,phase,loss,term.forget_kl,term.l1,term.retain_nll,gradient_norm,lr,"
        "answer_tokens,seconds\n"
        "1,0,scrub,max,0.30000000000000004,-1e-17,2.0,,1.5,0.001,7,0.25\n"
        '2,1,"scrub, second",,3.0,,,0.3333333333333333,2.0,0.0005,9,0.5\n'
    )


@pytest.mark.parametrize("resumed_at, expected", [(0, ["1"]), (1, ["1", "1"])])
def test_both_files_hold_the_same_steps_after_a_resume(resumed_at, expected, tmp_path):
    """A step on disk, then the same or the next one of a resumed run: no step twice."""
    (tmp_path / "trace.jsonl").write_text(json.dumps(LINES[0]) + "\n")
    trace = Trace(tmp_path, "scrub")
    trace.keep(resumed_at)
    trace.add(LINES[0])
    trace.write()
    in_json = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    with open(tmp_path / "trace.csv", newline="") as file:
        in_csv = list(csv.DictReader(file))
    assert [row["step"] for row in in_csv] == [str(line["step"]) for line in in_json] == expected
    assert [float(row["term.forget_kl"]) for row in in_csv] == [
        line["terms"]["forget_kl"] for line in in_json
    ]


def test_new_lines_are_appended_and_a_torn_tail_is_cut_at_resume(tmp_path):
    """Earlier bytes stay where they are: a reader that has them open sees the new lines."""
    path = tmp_path / "trace.jsonl"
    trace = Trace(tmp_path, "scrub")
    trace.add(LINES[0])
    trace.write()
    first, inode = path.read_bytes(), path.stat().st_ino
    trace.add(LINES[0] | {"step": 2})
    trace.append()
    both = path.read_bytes()
    assert both.startswith(first) and path.stat().st_ino == inode and trace.n_bytes == len(both)
    assert len((tmp_path / "trace.csv").read_text().splitlines()) == 2
    path.write_bytes(both + b'{"stage": "scrub", "st')
    for n_bytes, expected in ((None, both), (len(both), both), (len(first), first)):
        resumed = Trace(tmp_path, "scrub")
        resumed.keep(9, n_bytes)
        resumed.append()
        assert path.read_bytes() == expected
        path.write_bytes(both + b"\0\0\n" if n_bytes is None else both)


def test_a_trace_without_the_line_of_the_checkpoint_is_refused(tmp_path):
    """Its last line end was overwritten: none of its lines is taken as if there were no others."""
    trace = Trace(tmp_path, "scrub")
    trace.add(LINES[0])
    trace.append()
    path = tmp_path / "trace.jsonl"
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(UserError, match=f"no line ends at byte {trace.n_bytes}"):
        Trace(tmp_path, "scrub").keep(1, trace.n_bytes)


@pytest.mark.parametrize("norm", [None, "=1", [1.5], "-nan"])
def test_a_line_whose_gradient_norm_is_no_number_is_refused(norm):
    with pytest.raises(UserError, match="is no line of a training's trace"):
        checked_line(json.dumps(LINES[0] | {"gradient_norm": norm}), "trace.jsonl:1")
    line = json.dumps(LINES[0] | {"gradient_norm": "-inf"})
    assert checked_line(line, "trace.jsonl:1")["gradient_norm"] == "-inf"


def test_no_text_is_a_formula_in_a_spreadsheet():
    line = LINES[0] | {"stage": "=1+1", "phase": "@a", "loss": "-inf"}
    assert as_csv([line]).splitlines()[1].startswith("1,0,'=1+1,'@a,-inf,")


def test_a_trace_that_another_program_changed_meanwhile_is_written_whole(tmp_path):
    trace = Trace(tmp_path, "scrub")
    trace.add(LINES[0])
    trace.append()
    written = (tmp_path / "trace.jsonl").read_bytes()
    (tmp_path / "trace.jsonl").write_text("")
    trace.append()
    assert (tmp_path / "trace.jsonl").read_bytes() == written
