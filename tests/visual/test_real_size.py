"""estimate visual counts what is known of ResNet-18 at 224 pixels; check-data says if rows are not
grouped by name.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from clear_ref import run
from clear_ref.visual.costs import costs_of, parameters, picture_costs, real_size
from clear_ref.visual.network import ResNet18, new_network
from tests.helpers.small_faces import rows_of, write_faces


def sum_of(found, name):
    """The sum of a number over the runs of an estimate."""
    return sum(each[name] for each in found["runs"])


ROOT = Path(__file__).parents[2]


class TestCosts:
    def test_a_picture_takes_what_torchvision_publishes(self):
        """torchvision's page of resnet18: 1.81 GFLOPS, which are multiplications with an addition,
        for 224 pixels; its last layer is 0.0005 of them.
        """
        assert picture_costs().forward == pytest.approx(2 * 1.814e9, rel=1e-3)

    @pytest.mark.parametrize("width", [1, 8, 64])
    def test_parameters_are_those_of_the_network(self, width):
        assert parameters(width) == sum(each.numel() for each in ResNet18(width).parameters())

    @pytest.mark.parametrize("width, size", [(64, 224), (8, 96)])
    def test_a_picture_keeps_what_autograd_keeps(self, width, size):
        """Every tensor that torch saves for backward, once each, without the weights; four numbers
        for each channel of BN do not belong to a picture.
        """
        network = new_network(width, 0)
        weights = {each.data_ptr() for each in network.parameters()}
        saved = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = tensor, storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.zeros(2, 3, size, size))
        n_bytes = sum(each for _, each in saved.values())
        channels = 1 + 4 * (1 + 2 + 4 + 8) + (2 + 4 + 8)
        n_bytes -= 4 * 4 * channels * width
        assert n_bytes == 2 * picture_costs(size, width).kept

    def test_a_base_and_all_of_them_take_what_the_facts_say(self):
        """0.40 PFLOP a base without scoring: 20 x 1,884 pictures of 3 x 3.628 GFLOP, less 0.236 for
        the pixels' gradient; scoring, which is 3,768 pictures of 3.628 GFLOP: 0.014.
        """
        scoring = 3768 * 3.628e9 / 1e15
        found = costs_of(real_size("paper"), "base")["pflop"]
        assert found == pytest.approx(0.4012 + scoring, rel=1e-3)

    def test_the_command_has_a_line_for_each_stage_and_refuses_what_it_does_not_read(self, capsys):
        assert run.main(["estimate", "visual", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [each["run"] for each in found["runs"]][:3] == ["base", "gold", "retain_ft"]
        totals = ("pflop", "steps")
        assert all(found["all"][name] == 128 * sum_of(found, name) for name in totals)
        assert run.main(["estimate", "visual", "--lora-rank", "4"]) == 2
        assert "--lora-rank changes nothing in estimate visual" in capsys.readouterr().err

    def test_each_semantics_has_a_table_of_its_own_and_others_are_refused(self, capsys):
        """The released twins passes forget batches alone; only scrub and sparsity have originals.
        A dated state of the released code is of language models.
        """
        found = {}
        for semantics in ("paper", "released", "original"):
            assert run.main(["estimate", "visual", "--semantics", semantics]) == 0
            text = capsys.readouterr().out
            assert f"semantics {semantics};" in text.splitlines()[0]
            found[semantics] = [line.split() for line in text.splitlines()[3:-5]]
        lines = {semantics: {line[0]: line[1:] for line in found[semantics]} for semantics in found}
        assert list(lines["original"]) == ["base", "gold", "scrub", "sparsity"]
        assert lines["paper"]["twins"] == ["55", "6.5", "0.17", "0.1"]
        assert lines["released"]["twins"] == ["145", "3.6", "0.22", "0.2"]
        dated = "released@2024-10-23"
        assert run.main(["estimate", "visual", "--semantics", dated]) == 2
        line = f"--semantics is {dated}; expected one of paper, released, original"
        assert line in capsys.readouterr().err

    def test_the_page_shows_what_the_command_prints(self, capsys):
        page = (ROOT / "clear_ref/visual/README.md").read_text(encoding="utf-8")
        [(words, block)] = re.findall(
            r"\$ python -m clear_ref.run (estimate visual --[^\n]*)\n```\n```text\n(.*?)```",
            page,
            re.S,
        )
        assert run.main(words.split()) == 0
        assert capsys.readouterr().out == block


class TestCheckData:
    def notes(self, data, capsys):
        run.main(["check-data", str(data), "--json"])
        return [each for each in json.loads(capsys.readouterr().out)["notes"] if "grouped" in each]

    def test_grouped_rows_have_no_note(self, tmp_path, capsys):
        assert self.notes(write_faces(tmp_path / "data"), capsys) == []

    def test_the_first_row_out_of_its_group_is_named(self, tmp_path, capsys):
        rows = rows_of()
        data = write_faces(tmp_path / "data", [*rows[1:], rows[0]])
        [note] = self.notes(data, capsys)
        assert note.startswith("default: rows are not grouped by name, first ")
        assert "rows.jsonl:36;" in note
