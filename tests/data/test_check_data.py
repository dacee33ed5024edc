"""check-data: each problem of a data directory is reported by name; a right one has no findings.

Oddities of the published CLEAR are reported as known.

Run: python -m pytest tests/data/test_check_data.py
"""

import io
import json
import shutil

import pytest
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.data.check import check, text
from clear_ref.data.check_findings import counted
from clear_ref.data.images import open_image
from clear_ref.data.schema import SCHEMA
from clear_ref.mini.directories import WORLD
from tests.helpers.data_directories import caption, colour, perturbed, write
from tests.helpers.real_data import tofu_files


def only(found, *words, where="problems"):
    """True if there is exactly one line of a kind, with these words."""
    assert len(found[where]) == 1 and all(word in found[where][0] for word in words), found[where]
    return True


@pytest.mark.slow
def test_the_embedded_world_and_a_small_world_are_right(small):
    for directory in (WORLD, small):
        found = check(directory)
        assert found["problems"] == found["notes"] == found["known"] == []
    assert found["configs"]["full"] == {"rows": 10, "pictures": 10, "published": None}
    assert found["configs"]["tofu/full"] == {"rows": 10, "pictures": 0, "published": None}
    assert text(found).endswith("no problems")


def test_a_name_cannot_change_the_direction_of_a_line(tmp_path):
    """U+202E turns the text behind it round in a terminal."""
    names = ("\u202eAda", "Bo Costa")
    rows = [caption(tmp_path, index, name) for index, name in enumerate(names)]
    write(tmp_path, "forget10", rows)
    write(tmp_path, "forget10_perturbed", [perturbed(rows[1], names[0])])
    found = check(tmp_path)
    lines = [*found["problems"], *found["notes"]]
    assert any("(\\u202eAda)" in line for line in lines) and all(map(str.isprintable, lines))


class TestPictures:
    """A broken picture is one problem here, and a one-line error when a run opens it."""

    def broken(self, small, data, name="images/9.png"):
        """The findings when the file of the forgotten author's picture holds `data`."""
        (small / name).write_bytes(data)
        return check(small)

    def opens_with(self, small, words, name="images/9.png"):
        with pytest.raises(UserError) as caught:
            open_image(small / name, "record 7")
        assert (
            str(caught.value).startswith("record 7: ")
            and words in str(caught.value)
            and "\n" not in str(caught.value)
        )
        return True

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_truncated(self, small, form):
        out = io.BytesIO()
        Image.effect_noise((64, 64), 80).convert("RGB").save(out, form)
        found = self.broken(small, out.getvalue()[: len(out.getvalue()) * 3 // 5])
        assert only(found, "rows.jsonl:1: ", "images/9.png is no readable picture")
        assert self.opens_with(small, "is no readable picture")

    @pytest.mark.parametrize("side", [10_000, 20_000])
    def test_decompression_bombs(self, small, side, recwarn):
        """100 and 400 million pixels in a few kilobytes; both are errors.

        Pillow only warns of the first and refuses the second.
        """
        out = io.BytesIO()
        Image.new("1", (side, side)).save(out, "PNG")
        assert only(
            self.broken(small, out.getvalue()),
            "images/9.png is no readable picture",
            f"{side * side} pixels",
        )
        assert self.opens_with(small, f"{side * side} pixels") and not recwarn.list

    @pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_animated(self, small, form):
        out = io.BytesIO()
        frames = [Image.new("RGB", (8, 8), shade) for shade in ("red", "lime", "blue")]
        frames[0].save(out, form, save_all=True, append_images=frames[1:])
        assert only(
            self.broken(small, out.getvalue()), "images/9.png has 3 frames; expected one picture"
        )
        assert self.opens_with(small, "has 3 frames")

    def test_wrongly_named(self, small):
        out = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(out, "JPEG")
        assert only(
            self.broken(small, out.getvalue()),
            "images/9.png holds JPEG; expected the type that its name says",
        )
        assert open_image(small / "images/9.png").size == (
            8,
            8,
        )  # Pillow finds the type from the bytes

    def test_no_picture_at_all(self, small):
        assert only(
            self.broken(small, b"<html>not found</html>"), "images/9.png is no readable picture"
        )
        assert self.opens_with(small, "is no readable picture")

    def test_missing(self, small):
        (small / "images/9.png").unlink()
        found = check(small)
        assert len(found["problems"]) == 3  # a row of full, of forget10 and of forget10_perturbed
        assert all(
            "rows.jsonl:" in line and "there is no picture" in line for line in found["problems"]
        )

    def test_a_camera_jpeg_with_a_second_picture_in_it_is_one_picture(self, small):
        out = io.BytesIO()
        frames = [Image.new("RGB", (8, 8), shade) for shade in ("red", "blue")]
        frames[0].save(out, "MPO", save_all=True, append_images=frames[1:])
        for config in ("full", "forget10", "forget10_perturbed"):
            path = small / config / "rows.jsonl"
            path.write_text(path.read_text().replace("images/9.png", "images/9.jpg"))
        (small / "images/9.png").unlink()
        assert self.broken(small, out.getvalue(), "images/9.jpg")["problems"] == []
        assert open_image(small / "images/9.jpg").getpixel((0, 0))[0] > 200

    def test_one_picture_for_two_people(self, small):
        shutil.copy(small / "images/1.png", small / "images/2.png")
        problems = check(small)["problems"]
        assert any(
            "full" in line and "shows Person 1 and Person 2; expected one person" in line
            for line in problems
        )

    def test_one_picture_twice_for_one_person_and_a_picture_for_nobody_are_notes(self, small):
        rows = [caption(small, number) for number in range(9)]
        write(small, "retain90", [*rows[:8], {**rows[7], "caption": "Person 7 again."}])
        colour(small, 77)
        found = check(small)
        assert found["problems"] == []
        assert only(
            {"notes": found["notes"][:1]}, "images: 1 file (77.png) that no row uses", where="notes"
        )
        assert "retain90: 1 picture (images/7.png) in more than one row" in found["notes"]


class TestRelations:
    @pytest.mark.parametrize(
        "config, row, words",
        [
            (
                "retain90",
                lambda d: caption(d, 9, "Somebody"),
                "forget10 leaks into retain90 or retain_perturbed: 1 picture",
            ),
            (
                "retain90",
                lambda d: caption(d, 30, "Person 9"),
                "forget10 leaks into retain90 or retain_perturbed: 1 name (Person 9)",
            ),
            (
                "tofu/retain90",
                lambda d: {"question": "q9", "answer": "a9"},
                "1 question (q9) in both",
            ),
            (
                "retain_perturbed",
                lambda d: perturbed(caption(d, 31, "Person 9")),
                "1 name (Person 9)",
            ),
        ],
    )
    def test_forget_rows_that_leak_into_retain(self, small, config, row, words):
        path = small / config / "rows.jsonl"
        lines = path.read_text().splitlines()[1:]
        path.write_text("\n".join([*lines, json.dumps(row(small))]))
        assert only(check(small), words)

    def test_held_out_rows_that_a_model_is_trained_on(self, small):
        write(small, "holdout10", [caption(small, 40)])
        assert check(small)["problems"] == []
        write(small, "holdout10", [caption(small, 3)])
        assert any(
            "holdout10 leaks into full or retain_perturbed: 1 picture" in line
            for line in check(small)["problems"]
        )

    def test_the_same_question_with_another_answer_is_no_leak(self, small):
        path = small / "tofu/retain90" / "rows.jsonl"
        path.write_text(
            "\n".join([*path.read_text().splitlines()[1:], '{"question": "q9", "answer": "other"}'])
        )
        assert check(small)["problems"] == []

    def test_names_without_perturbed_names(self, small):
        write(small, "forget10_perturbed", [perturbed(caption(small, 40, "Another"))])
        assert only(
            check(small),
            "forget10_perturbed: no row with perturbed names for 1 name (Person 9) of forget10",
        )
        write(
            small, "forget10_perturbed", [{**perturbed(caption(small, 9)), "perturbed_names": []}]
        )
        assert any(
            "column perturbed_names is []; expected a list of texts" in line
            for line in check(small)["problems"]
        )

    def test_perturbed_rows_that_are_too_few(self, small):
        write(
            small,
            "forget10_perturbed",
            [perturbed(caption(small, 9)), perturbed(caption(small, 9))],
        )
        assert only(check(small), "forget10_perturbed has 2 rows, forget10 has 1")

    def test_forget_and_retain_that_are_not_full_together(self, small):
        write(small, "retain90", [caption(small, number) for number in range(8)])
        assert only(check(small), "forget10 and retain90 have 9 rows together, full has 10")

    def test_the_right_answer_among_the_wrong_ones_is_noted(self, small):
        write(small, "forget10_perturbed", [perturbed(caption(small, 9), "Person 9", "Q")])
        write(
            small,
            "real_faces",
            [{"image": colour(small, 50), "answer": "A", "options": ["B", "A"]}],
        )
        found = check(small)
        assert found["problems"] == [] and len(found["notes"]) == 2
        assert (
            "1 row" in found["notes"][0]
            and "with the right name among perturbed_names" in found["notes"][0]
        )
        assert "with the right answer among options" in found["notes"][1]

    def test_every_wrong_line_is_a_problem_and_an_unknown_config_is_a_note(self, small):
        path = small / "tofu/full" / "rows.jsonl"
        path.write_text("{\n" + path.read_text() + '{"question": ""}\n')
        write(small, "mine", [{"a": 1}])
        found = check(small)
        assert [line.split(": ")[0].rsplit("/", 1)[1] for line in found["problems"]] == [
            "rows.jsonl:1",
            "rows.jsonl:12",
        ]
        assert only(found, "mine is no known config and is never read", where="notes")
        path.write_text("\n")
        assert any(
            "tofu/full/rows.jsonl: holds no row" in line for line in check(small)["problems"]
        )


@pytest.mark.slow
class TestPublished:
    def test_tofu_itself_has_its_published_rows_and_no_problems(self, tmp_path):
        for name, contents in tofu_files().items():
            config = tmp_path / "tofu" / name.removesuffix(".json")
            config.mkdir(parents=True)
            (config / "rows.jsonl").write_bytes(contents)
        found = check(tmp_path)
        assert found["problems"] == [] and len(found["configs"]) == 15
        assert all(one["rows"] == one["published"] for one in found["configs"].values())

    @pytest.fixture(scope="class")
    @classmethod
    def clear(cls, tmp_path_factory):
        """As many rows as the published CLEAR, with its oddities.

        200 authors; the first and the last have the same name. 3391 = 180 x 18 + 151 rows to
        retain and 379 = 20 x 18 + 19 rows to forget, so each author has 18 or 19.
        """
        directory = tmp_path_factory.mktemp("clear")
        authors = [
            author
            for author in range(200)
            for _ in range(19 if author < 151 or 180 <= author < 199 else 18)
        ]
        rows = [
            caption(directory, number, f"Author {author % 199}")
            for number, author in enumerate(authors)
        ]
        assert len(rows) == 3770
        write(directory, "forget10", rows[3391:])
        write(directory, "retain90", rows[:3391])
        write(directory, "full", rows[1:3769])
        write(directory, "forget10_perturbed", list(map(perturbed, rows[3391:3769])))
        write(directory, "retain_perturbed", list(map(perturbed, rows[:395])))
        return directory

    def test_known_oddities_of_clear_are_no_problems(self, clear):
        found = check(clear)
        assert found["problems"] == []
        for line in (
            "forget10 and retain90 have 3770 rows together, full has 3768",
            "forget10_perturbed has 378 rows, forget10 has 379",
            "retain_perturbed has 395 rows; an earlier revision had 400",
            "full has 199 names for 200 authors",
            "forget10 leaks into retain90 or retain_perturbed: 1 name (Author 0) in both; "
            "two of CLEAR's 200 authors share a name",
        ):
            assert line in found["known"]
        assert all(
            found["configs"][config]["published"] == SCHEMA["configs"][config]["rows"]
            for config in found["configs"]
        )

    def test_another_number_than_the_published_one_is_a_note_and_no_known_oddity(
        self, clear, tmp_path
    ):
        shutil.copytree(clear, tmp_path, dirs_exist_ok=True)
        path = tmp_path / "retain90" / "rows.jsonl"
        path.write_text("\n".join(path.read_text().splitlines()[2:]))
        found = check(tmp_path)
        assert (
            "retain90: 3389 rows; 3391 are published" in found["notes"] and found["problems"] == []
        )
        path.write_text("\n".join(path.read_text().splitlines()[1:]))
        assert only(check(tmp_path), "have 3767 rows together, full has 3768")


def test_a_name_of_thousands_of_signs_is_cut():
    names = ["A" * 5000, "Ada", "B" * 200, "Eva"]
    assert counted(names, "name", "names") == f"4 names ({'A' * 200}..., Ada, {'B' * 200}, ...)"
