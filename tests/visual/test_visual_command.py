"""visual METHOD|all: nothing is trained twice, processes and resume change no byte, and wrong input
is one line.

The people are six colours with noise, the network has two channels.
"""

import copy
import json
import shutil

import pytest

from clear_ref import run
from clear_ref.commands.visual_inputs import read_names
from clear_ref.visual import experiment
from clear_ref.visual.clear_people import FORGET_10
from clear_ref.visual.columns import COLUMNS
from clear_ref.visual.network import new_network, write_network
from tests.helpers import warm_processes
from tests.helpers.small_faces import arguments, rows_of, write_faces

BASE = "splits/000/base.json"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """The data directory."""
    return write_faces(tmp_path_factory.mktemp("faces") / "data")


@pytest.fixture(scope="module")
def finished(faces, tmp_path_factory):
    """The directory of a finished run of retain_ft, by one process."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert run.main(arguments(faces, out, "retain_ft", "--processes=1")) == 0
    return out


def results(out):
    """{file: its bytes} of what trainings leave, without their seconds."""
    found = {}
    for path in sorted((out / "splits").glob("*/*")):
        data = path.read_bytes()
        if path.suffix == ".json":
            entry = json.loads(data)
            del entry["seconds"]
            data = json.dumps(entry).encode()
        found[str(path.relative_to(out))] = data
    return found


def stages(out):
    """The models of a run's metrics.json."""
    return list(json.loads((out / "metrics.json").read_text())["models"])


class TestARun:
    def test_it_leaves_a_result_for_each_split_and_stage_and_the_base_networks(self, finished):
        names = {
            f"splits/{split:03}/{stage}.{ending}"
            for split in range(4)
            for stage in ("base", "gold", "retain_ft")
            for ending in ("json", "trace.jsonl", "cosines.safetensors")
        }
        networks = {f"splits/{split:03}/base.network.safetensors" for split in range(4)}
        assert set(results(finished)) == names | networks

    def test_metrics_tables_and_page_have_every_number_in_both_definitions(self, finished):
        found = json.loads((finished / "metrics.json").read_text())
        assert list(found["models"]) == ["base", "gold", "retain_ft"]
        for sets in found["models"].values():
            assert set(sets) == {"paper", "released"}
            assert all(set(numbers) == set(COLUMNS) for numbers in sets.values())
            assert all(number["value"] is not None for number in sets["released"].values())
        csv = (finished / "visual.csv").read_text().splitlines()
        assert len(csv) == 4 and csv[0].startswith("model,semantics,definitions,splits,forget,")
        assert "| gold |" in (finished / "leaderboard.md").read_text()
        assert "\\begin{tabular}{lrrrrr}" in (finished / "leaderboard.tex").read_text()
        assert "<h1>Visual-only track, paper:" in (finished / "report.html").read_text()

    def test_the_trace_has_a_line_for_each_step(self, finished):
        """Six members with six pictures each less one person: base 3 people, 18 pictures, three
        batches of 6 in each of two epochs.
        """
        lines = (finished / "splits/000/base.trace.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 7))

    def test_two_processes_leave_the_same_bytes(self, faces, finished, tmp_path):
        assert run.main(arguments(faces, tmp_path / "out", "retain_ft", "--processes=2")) == 0
        assert results(tmp_path / "out") == results(finished)

    @pytest.mark.slow
    def test_two_processes_of_torchrun_leave_the_same_bytes(self, faces, finished, tmp_path):
        asked = arguments(faces, tmp_path / "out", "retain_ft")
        done = warm_processes.run("clear_ref.run", *asked, n=2)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("base (Original)") == 1
        assert results(tmp_path / "out") == results(finished)

    def test_blanks_at_the_ends_of_a_name_do_not_count(self, faces, finished, tmp_path, capsys):
        """In the rows, as in the lists: every result is that of the names without them."""
        rows = [
            row | {"name": row["name"] + " " * (number % 3)} for number, row in enumerate(rows_of())
        ]
        data = write_faces(tmp_path / "data", rows)
        shutil.rmtree(data / "images")
        shutil.copytree(faces / "images", data / "images")
        words = arguments(data, tmp_path / "out", "retain_ft", "--metrics=all", "--processes=1")
        assert run.main(words) == 0
        assert "not grouped" not in capsys.readouterr().err
        assert results(tmp_path / "out") == results(finished)

    def test_rows_that_are_not_grouped_are_named_where_the_definition_depends_on_it(
        self, tmp_path, capsys
    ):
        rows = rows_of()
        data = write_faces(tmp_path / "data", rows[::2] + rows[1::2])
        words = arguments(data, tmp_path / "out", "retain_ft", "--metrics=all")
        assert run.main(words) == 0
        said = capsys.readouterr().err
        assert "rows.jsonl:19: the rows are not grouped by name, so the released" in said
        assert "those of the paper take the first five rows of each name" in said
        words = arguments(data, tmp_path / "out", "retain_ft", "--metrics=paper", "--resume")
        assert run.main(words) == 0
        assert "not grouped" not in capsys.readouterr().err

    def test_embeddings_that_pass_float32_are_named(self, faces, tmp_path, monkeypatch, capsys):
        """In one line for each training; the numbers of the released definitions are kept."""
        embeddings = experiment._embeddings
        monkeypatch.setattr(experiment, "_embeddings", lambda *given: embeddings(*given) * 1e30)
        words = arguments(faces, tmp_path / "out", "retain_ft", "--processes=1", "--splits=2")
        assert run.main(words) == 0
        said = capsys.readouterr().err.splitlines()
        where = [line.split(": ")[1] for line in said]
        stages = ("base", "gold", "retain_ft")
        assert where == [f"split {split}, {stage} (paper)" for split in (0, 1) for stage in stages]
        assert "the squared lengths of 36 of 36 embeddings and of 6 references are too" in said[0]
        found = json.loads((tmp_path / "out/metrics.json").read_text())["models"]["base"]
        assert found["paper"]["retain"]["value"] > found["released"]["retain"]["value"]


class TestResume:
    def test_networks_that_were_not_kept_are_named(self, faces, finished, tmp_path, capsys):
        out = tmp_path / "out"
        shutil.copytree(finished, out)
        assert run.main(arguments(faces, out, "retain_ft", "--resume", "--networks=all")) == 0
        assert "--networks all: gold, retain_ft finished without it" in capsys.readouterr().err

    def test_only_what_is_missing_is_trained(self, faces, finished, tmp_path):
        out = tmp_path / "out"
        shutil.copytree(finished, out)
        before = results(out)
        (out / "splits/002/gold.json").unlink()
        kept = {path: path.stat().st_mtime_ns for path in out.glob("splits/*/*")}
        assert run.main(arguments(faces, out, "retain_ft", "--resume")) == 0
        assert results(out) == before
        written = {path.name for path in kept if path.stat().st_mtime_ns != kept[path]}
        assert written == {"gold.trace.jsonl", "gold.cosines.safetensors"}

    def test_another_method_takes_base_and_gold_that_are_there(self, faces, finished, tmp_path):
        out = tmp_path / "out"
        shutil.copytree(finished, out)
        kept = {path: path.stat().st_mtime_ns for path in out.glob("splits/*/*")}
        assert run.main(arguments(faces, out, "twins", "--resume")) == 0
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
        assert stages(out) == ["base", "gold", "retain_ft", "twins"]

    def test_options_of_a_method_can_be_given_until_it_has_a_result(
        self, faces, finished, tmp_path, capsys
    ):
        """They stand in settings.json with their source, and a later start of another method keeps
        them there; a start that would train the method with others is refused.
        """
        out = tmp_path / "out"
        shutil.copytree(finished, out)

        def beta():
            return json.loads((out / "settings.json").read_text())["options"]["dpo.beta"]

        assert beta() == {"value": 0.1, "source": "paper App. B.6"}
        assert run.main(arguments(faces, out, "dpo", "--set=dpo.beta=3", "--resume")) == 0
        assert beta() == {"value": 3.0, "source": "command line"}
        capsys.readouterr()
        assert run.main(arguments(faces, out, "dpo", "--set=dpo.beta=0.1", "--resume")) == 2
        assert "was run with dpo.beta = 3.0, now it is 0.1" in capsys.readouterr().err
        assert run.main(arguments(faces, out, "dpo", "--resume")) == 0
        assert run.main(arguments(faces, out, "retain_ft", "--resume")) == 0
        assert beta() == {"value": 3.0, "source": "command line"}

    def test_other_recipes_and_pictures_are_refused(self, faces, finished, tmp_path, capsys):
        out = tmp_path / "out"
        shutil.copytree(finished, out)
        more = ("--resume", "--train=gold.epochs=3")
        assert run.main(arguments(faces, out, "retain_ft", *more)) == 2
        assert "was run with train gold = " in capsys.readouterr().err
        data = tmp_path / "data"
        shutil.copytree(faces, data)
        picture = data / "images/Ann0.png"
        picture.write_bytes((data / "images/Ann1.png").read_bytes())
        assert run.main(arguments(data, out, "retain_ft", "--resume")) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_a_result_that_was_changed_is_named_before_anything_is_trained(
        self, faces, finished, tmp_path, capsys
    ):
        out = tmp_path / "out"
        shutil.copytree(finished, out)
        entry = json.loads((out / BASE).read_text())
        entry["accuracy"]["paper"]["forget"] = 900
        (out / BASE).write_text(json.dumps(entry))
        assert run.main(arguments(faces, out, "twins", "--resume")) == 2
        said = capsys.readouterr().err
        assert f"{BASE}: is not the result of split 0, base (accuracy.paper.forget is 900" in said
        assert "from 0 to 100" in said and said.count("\n") == 1
        assert not list(out.glob("splits/*/twins*"))

    def test_without_its_network_a_base_is_trained_again_when_its_result_is_removed(
        self, faces, finished, tmp_path, capsys
    ):
        out = tmp_path / "out"
        shutil.copytree(finished, out)
        network = out / "splits/002/base.network.safetensors"
        before = network.read_bytes()
        network.unlink()
        assert run.main(arguments(faces, out, "twins", "--resume")) == 2
        assert f"{network}: is not the network of split 2, base (no such" in capsys.readouterr().err
        network.with_name("base.json").unlink()
        assert run.main(arguments(faces, out, "twins", "--resume")) == 0
        assert network.read_bytes() == before


WRONG_ROWS = {
    "'Ann' has 5 pictures; expected 6 at least": rows_of(("Ann",), 5)
    + rows_of(("Ben", "Cem", "Dua")),
    "'Ann' has 1 picture; expected 6 at least": rows_of(("Ann",), 1)
    + rows_of(("Ben", "Cem", "Dua")),
    "the name of row 1 has a line end: 'Ann\\nLee'; expected": rows_of(("Ann\nLee", "Ben"), 1),
    "have one name in two Unicode forms: 'Zo\\xeb' and 'Zoe\\u0308'; expected one": rows_of(
        ("Ann", "Zo\xeb", "Ben", "Zoe\u0308")
    ),
    "all pictures show 'Ann'; expected pictures of two people": rows_of(("Ann",)),
    "holdout.txt: no picture shows 'Ben'; expected names of the rows, such as 'Ann'": rows_of(
        ("Ann", "Cem", "Dua", "Eva")
    ),
    "1 people are in neither list; expected two": rows_of(("Ann", "Ben", "Cem")),
}
WRONG_OPTIONS = {
    "--splits is 3; expected an even number": ["--splits=3"],
    "--train basis.epochs: expected STAGE.NAME": ["--train=basis.epochs=3"],
    "--train base.speed: unknown setting 'speed'": ["--train=base.speed=3"],
    "--train gold.lr: lr is nan; expected a finite number": ["--train=gold.lr=nan"],
    "--train base.epochs: expected NAME=VALUE": ["--train=base.epochs"],
    "--train base.lr is given twice: '1' and '2'; expected it once": [
        "--train=base.lr=1",
        "--train=base.lr=2",
    ],
    "--set scrub.alpha is given twice: '2' and 'x'; expected it once": [
        "--set=scrub.alpha=2",
        "--set=scrub.alpha=x",
    ],
    "--set scrub: expected METHOD.NAME=VALUE": ["--set=scrub=1"],
    "has no option 'width'": ["--set=twins.width=3"],
    "--set dpo.beta: this command does not train dpo; expected": ["--set=dpo.beta=3"],
    "--train dpo.lr: this command does not train dpo; expected": ["--train=dpo.lr=3"],
    "--train retain_ft.forget_times: retain_ft does not read it, because no batch has forget "
    "pictures; expected one of epochs, batch_size, lr, momentum, weight_decay, schedule, bn, ": [
        "--train=retain_ft.forget_times=3"
    ],
    "--train base.forget_times: base does not read it, because no batch has forget pictures": [
        "--train=base.forget_times=2"
    ],
    "--train retain_ft.warmup_steps: retain_ft does not read it, because its schedule is const": [
        "--train=retain_ft.warmup_steps=3"
    ],
    "--train base.schedule_steps: base does not read it, because its schedule is warmup_cosine": [
        "--train=base.schedule_steps=9"
    ],
    "--train base.warmup_steps: base does not read it, because its schedule is cosine": [
        "--train=base.schedule=cosine"
    ],
    "split 0, retain_ft (paper): a pass over the retain set has 12 pictures, and batches": [
        "--train=retain_ft.batch_size=999"
    ],
    "split 0, base (paper): a batch of the train set (18 pictures, batch_size 17) has one": [
        "--train=base.batch_size=17"
    ],
    "--forget names CLEAR's list and --forget-names a file": ["--forget=5"],
    "--size is -1; expected 0 or more": ["--size=-1"],
    "semantics of retain_ft is 'original'": ["--semantics=original"],
    "no such file": ["--network=nowhere.safetensors"],
}


class TestWrongInput:
    @pytest.mark.parametrize("message", WRONG_ROWS)
    def test_rows_are_refused_in_one_line(self, message, tmp_path, capsys):
        data = write_faces(tmp_path / "data", WRONG_ROWS[message])
        self.check(data, tmp_path, capsys, message)

    @pytest.mark.parametrize("message", WRONG_OPTIONS)
    def test_options_are_refused_in_one_line(self, message, faces, tmp_path, capsys):
        self.check(faces, tmp_path, capsys, message, *WRONG_OPTIONS[message])

    def test_a_data_directory_without_the_configs_is_refused(self, tmp_path, capsys):
        data = write_faces(tmp_path / "data", config="forget10")
        self.check(data, tmp_path, capsys, "holds neither default/rows.jsonl nor full/rows.jsonl")

    @pytest.mark.parametrize(
        "names, whose, missing, option",
        [
            (("Ann", "Ben"), "forgotten", "Basil Mahfouz Al-Kuwaiti", "--forget-names"),
            (("Ann", *FORGET_10), "held-out", "Philippe Dauphinee", "--holdout-names"),
        ],
    )
    def test_clears_lists_are_named_where_the_rows_are_of_other_people(
        self, names, whose, missing, option, tmp_path, capsys
    ):
        data = write_faces(tmp_path / "data", rows_of(names))
        message = (
            f"{data}: no picture shows '{missing}', who is in CLEAR's list of {whose} people; this "
            f"list is used because {option} is not given, and --forget-names and --holdout-names "
            "name files with other ones; expected names of the rows, such as 'Ann'"
        )
        self.check(data, tmp_path, capsys, message, without="-names=")

    def test_a_name_in_another_unicode_form_is_named_with_both(self, faces, tmp_path, capsys):
        data = write_faces(tmp_path / "data", rows_of(("Ann", "Ben", "Zo\xeb", "Dua", "Eva")))
        words = arguments(data, tmp_path / "out")
        (data / "forget.txt").write_text("Zoe\u0308\n")
        assert run.main(words) == 2
        said = capsys.readouterr().err
        assert f"{data / 'forget.txt'}: no picture shows 'Zoe\u0308'; the rows have this" in said
        assert "'Zo\\xeb' in the rows, 'Zoe\\u0308' in the list; expected it as in the" in said
        assert said.count("\n") == 1 and not (tmp_path / "out").exists()

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self, tmp_path):
        """Editors on Windows write one."""
        path = tmp_path / "names.txt"
        path.write_bytes("\ufeffAnn\r\nBen \n\n".encode())
        assert read_names(path) == ("Ann", "Ben")

    def test_one_list_alone_is_refused(self, faces, tmp_path, capsys):
        message = "--holdout-names is not given"
        self.check(faces, tmp_path, capsys, message, without="--holdout-names=")

    def test_a_network_of_another_structure_is_refused(self, faces, tmp_path, capsys):
        network = new_network(2, 0)
        network.layer4 = copy.deepcopy(network.layer3)
        write_network(tmp_path / "other.safetensors", network)
        more = f"--network={tmp_path / 'other.safetensors'}"
        self.check(faces, tmp_path, capsys, "is no ResNet-18 of width 2", more)

    def check(self, data, tmp_path, capsys, message, *more, without=None):
        """One line with the message, exit status 2, nothing written.

        without  leave out the arguments with this in them
        """
        out = tmp_path / "out"
        words = arguments(data, out, "retain_ft", *more)
        assert run.main([word for word in words if not without or without not in word]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
        assert not out.exists()


class TestATrainingThatFails:
    def test_a_base_ends_the_run_and_leaves_no_result(self, faces, tmp_path, capsys):
        out = tmp_path / "out"
        more = ("--train=base.lr=1e30", "--processes=1")
        assert run.main(arguments(faces, out, "retain_ft", *more)) == 1
        said = capsys.readouterr().err
        assert "the run failed: split 0, base (paper), step " in said and said.count("\n") == 1
        assert not list(out.glob("splits/*/*"))

    def test_a_method_is_named_and_the_others_are_written(self, faces, finished, tmp_path, capsys):
        out = tmp_path / "out"
        more = ("--train=twins.lr=1e30", "--processes=1")
        assert run.main(arguments(faces, out, "twins", *more)) == 1
        said = capsys.readouterr().err
        assert "split 0, twins (paper), step " in said and said.count("\n") == 1
        assert stages(out) == ["base", "gold"]
        left = {path.name for path in out.glob("splits/*/twins*")}
        assert left == {"twins.failed.json"}
