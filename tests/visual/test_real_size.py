"""estimate visual counts what is known of ResNet-18 at 224 pixels; check-data says if rows are not
grouped by name.
"""

import json

import pytest
import torch

from clear_ref import run
from clear_ref.visual.costs import costs_of, parameters, picture_costs
from clear_ref.visual.network import ResNet18, new_network
from tests.helpers.small_faces import rows_of, write_faces


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
        """0.41 PFLOP a base without scoring, which is 3,768 pictures of 3.63 GFLOP: 0.014."""
        scoring = 3768 * 3.628e9 / 1e15
        assert costs_of("base")["pflop"] == pytest.approx(0.41 + scoring, rel=0.01)

    def test_the_command_has_a_line_for_each_stage_and_refuses_what_it_does_not_read(self, capsys):
        assert run.main(["estimate", "visual", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [each["run"] for each in found["runs"]][:3] == ["base", "gold", "retain_ft"]
        assert found["all"]["pflop"] == 128 * sum(each["pflop"] for each in found["runs"])
        assert run.main(["estimate", "visual", "--lora-rank", "4"]) == 2
        assert "--lora-rank changes nothing in estimate visual" in capsys.readouterr().err


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
