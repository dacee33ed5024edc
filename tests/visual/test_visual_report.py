"""`report` of `visual` runs: alone and beside other runs; a run that has not finished, and numbers
that are not those of its results, are one line.

The people are six colours with noise, the network has two channels.
"""

import json
import shutil

import pytest

from clear_ref import run
from tests.helpers import made_runs
from tests.helpers.small_faces import arguments, write_faces

GOLD = ("models", "gold", "paper")  # keys in metrics.json


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run of retain_ft."""
    folder = tmp_path_factory.mktemp("run")
    faces = write_faces(folder / "data")
    assert run.main(arguments(faces, folder / "out", "retain_ft", "--processes=1")) == 0
    return folder / "out"


class TestReport:
    def test_a_report_of_visual_runs_alone_has_their_tables(self, finished, tmp_path):
        out = tmp_path / "report"
        assert run.main(["report", str(finished), "--out", str(out)]) == 0
        assert (out / "visual.csv").read_bytes() == (finished / "visual.csv").read_bytes()
        assert "| retain_ft |" in (out / "leaderboard.md").read_text()
        assert "<td>retain_ft</td>" in (out / "report.html").read_text()

    def test_beside_other_runs_it_is_below_their_leaderboard(self, finished, tmp_path):
        made_runs.write(tmp_path / "scrub")
        out = tmp_path / "report"
        words = ["report", str(tmp_path / "scrub"), str(finished), "--out", str(out)]
        assert run.main(words) == 0
        table = (out / "leaderboard.md").read_text()
        assert table.index("scrub") < table.index("Visual only, paper semantics")
        page = (out / "report.html").read_text()
        assert "<h2>Visual only, paper semantics, paper definitions" in page
        assert (out / "visual.csv").exists() and (out / "leaderboard.csv").exists()

    def test_a_changed_summary_is_named(self, finished, tmp_path, capsys):
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "settings.json").write_bytes((finished / "settings.json").read_bytes())
        (broken / "metrics.json").write_text('{"models": {"base": {}}, "metrics": ["paper"]}')
        assert run.main(["report", str(broken), "--out", str(tmp_path / "report")]) == 2
        assert "is not the summary of a finished visual run" in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["", '{"models": {"ba', "[]", "{}"])
    def test_a_summary_that_was_cut_is_written_again_by_resume(
        self, finished, tmp_path, capsys, text
    ):
        """It is nothing that can be fetched."""
        out = shutil.copytree(finished, tmp_path / "out")
        (out / "metrics.json").write_text(text)
        words = ["report", str(out), "--out", str(tmp_path / "report")]
        assert run.main(words) == 2
        said = capsys.readouterr().err
        assert "the same command with --resume writes it again" in said and "fetch" not in said
        assert said.count("\n") == 1
        assert run.main(["visual", "retain_ft", "--quiet", "--resume", f"--out={out}"]) == 0
        assert run.main(words) == 0

    @pytest.mark.parametrize(
        "keys, value, message",
        [
            ((*GOLD, "forget", "value"), 12345, "paper.forget.value is 12345, expected from 0"),
            ((*GOLD, "u_mia", "value"), 1.5, "gold.paper.u_mia.value is 1.5, expected from 0 to 1"),
            ((*GOLD, "retain", "value"), 7.5, "models.gold.paper.retain.value is 7.5, and "),
            ((*GOLD, "retain", "spread"), 7.5, "models.gold.paper.retain.spread is 7.5, and "),
            ((*GOLD, "u_lira", "value"), 0.01, "models.gold.paper.u_lira.value is 0.01, and "),
            ((*GOLD, "u_mia", "n"), 3, "models.gold.paper.u_mia.n is 3, and 2 from splits/"),
            ((*GOLD, "holdout", "value"), None, "gold.paper.holdout.value is None, and "),
            (("splits",), 8, "splits is 8, and 4 in splits/"),
            (("semantics",), "released", "semantics is 'released', and 'paper' in settings.json"),
            (("failed",), ["x"], "failed has 'x', which is not in splits/"),
            (("models", "twins"), "gold", "are base, gold, retain_ft, twins, and base, gold,"),
        ],
    )
    def test_a_number_that_is_not_that_of_the_results_is_named(
        self, finished, tmp_path, capsys, keys, value, message
    ):
        out = shutil.copytree(finished, tmp_path / "out")
        found = place = json.loads((out / "metrics.json").read_text())
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = found["models"]["gold"] if value == "gold" else value
        (out / "metrics.json").write_text(json.dumps(found))
        assert run.main(["report", str(out), "--out", str(tmp_path / "report")]) == 2
        said = capsys.readouterr().err
        assert f"{out}/metrics.json: is not the summary of a finished visual run (" in said
        assert message in said and said.count("\n") == 1
        assert said.endswith("; the same command with --resume writes it again\n")
        assert not (tmp_path / "report").exists()

    def test_a_changed_result_is_seen_too(self, finished, tmp_path, capsys):
        out = shutil.copytree(finished, tmp_path / "out")
        path = out / "splits/001/gold.json"
        entry = json.loads(path.read_text())
        entry["accuracy"]["released"]["holdout"] = 99.5
        path.write_text(json.dumps(entry))
        assert run.main(["report", str(out), "--out", str(tmp_path / "report")]) == 2
        assert "models.gold.released.holdout.value is " in capsys.readouterr().err

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"format": 1}, "format is 1, expected 'clear_ref.visual/1'"),
            ({"labels": [0, 9]}, "labels and lists are not all whole numbers from 0 to 5"),
            ({"labels": ["x"]}, "labels and lists are not all whole numbers from 0 to 5"),
            ({"splits": [{}]}, "TypeError: "),
            ({"splits": []}, "the splits are not numbered from 0"),
        ],
    )
    def test_changed_people_are_named(self, finished, tmp_path, capsys, change, message):
        out = shutil.copytree(finished, tmp_path / "out")
        path = out / "splits/people.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert run.main(["report", str(out), "--out", str(tmp_path / "report")]) == 2
        said = capsys.readouterr().err
        assert f"{path}: is not what a run keeps of its people ({message}" in said
        assert said.count("\n") == 1

    def test_without_its_splits_only_ranges_are_checked(self, finished, tmp_path):
        out = shutil.copytree(finished, tmp_path / "out")
        shutil.rmtree(out / "splits")
        assert run.main(["report", str(out), "--out", str(tmp_path / "report")]) == 0

    def test_a_run_given_twice_is_refused(self, finished, tmp_path, capsys):
        for other in (str(finished), f"{finished}/../out"):
            words = ["report", str(finished), other, "--out", str(tmp_path / "report")]
            assert run.main(words) == 2
            assert "name each run once" in capsys.readouterr().err
        assert not (tmp_path / "report").exists()

    def test_a_run_that_has_not_finished_or_shows_nothing_is_named(
        self, finished, tmp_path, capsys
    ):
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "settings.json").write_bytes((finished / "settings.json").read_bytes())
        words = ["report", str(broken), "--out", str(tmp_path / "report")]
        assert run.main(words) == 2
        assert "a run that has not finished; finish it with --resume" in capsys.readouterr().err
        found = json.loads((finished / "metrics.json").read_text())
        for metrics in ([], [{}], "paper"):
            (broken / "metrics.json").write_text(json.dumps(found | {"metrics": metrics}))
            assert run.main(words) == 2
            assert "is not the summary of a finished visual run" in capsys.readouterr().err
