"""The command check-data: exit status and output.

Run: python -m pytest tests/data/test_check_data_command.py
"""

import json

from clear_ref import run
from tests.helpers.data_directories import write


class TestCommand:
    def call(self, capsys, *arguments):
        status = run.main(["check-data", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    def test_the_exit_status_is_0_without_problems_1_with_problems_2_if_absent(
        self, capsys, small, tmp_path_factory
    ):
        status, out, err = self.call(capsys, small)
        assert (status, err) == (0, "") and "no problems" in out
        (small / "images/9.png").write_bytes(b"?")
        status, out, err = self.call(capsys, small)
        assert status == 1 and "1 problem" in out and err.count("\n") == 1 and "1 problems" in err
        status, out, err = self.call(capsys, small, "--json")
        found = json.loads(out)
        assert (
            status == 1 and len(found["problems"]) == 1 and found["configs"]["full"]["rows"] == 10
        )
        for directory, words in (
            (small / "none", "no such directory"),
            (tmp_path_factory.mktemp("e"), "holds no CONFIG/rows"),
        ):
            status, out, err = self.call(capsys, directory)
            assert (status, out) == (2, "") and words in err and err.count("\n") == 1

    def test_an_empty_path_is_not_the_working_directory(self, capsys, monkeypatch, small):
        monkeypatch.chdir(small)
        assert self.call(capsys, ".")[0] == 0
        status, out, err = self.call(capsys, "")
        assert (
            (status, out) == (2, "")
            and "data is ''; expected mini or a directory" in err
            and err.count("\n") == 1
        )
        before = sorted(small.iterdir())
        status, (out, err) = run.main(["vectors", "--compact", "--out", ""]), capsys.readouterr()
        assert (
            (status, out) == (2, "")
            and "--out is ''; expected a value" in err
            and err.count("\n") == 1
        )
        assert sorted(small.iterdir()) == before

    def test_a_long_list_is_shortened_on_the_terminal_and_complete_in_json(self, capsys, small):
        write(small, "tofu/full", [{"question": ""}] * 50)
        status, out, _ = self.call(capsys, small)
        assert status == 1 and "... and " in out and "--json lists all" in out
        assert len(json.loads(self.call(capsys, small, "--json")[1])["problems"]) >= 50
