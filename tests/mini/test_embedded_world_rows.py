"""The embedded world: rebuilt rows and pictures are the shipped ones, and have what CLEAR needs.

TestBuild: rebuilding. TestRows: counts, columns, splits, options.

Run: python -m pytest tests/mini/test_embedded_world_rows.py
"""

import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from clear_ref.data import prompts
from clear_ref.mini import build_rows
from clear_ref.mini.directories import WORLD
from clear_ref.mini.scenes import COLOURS, SCENES, SIZE, picture
from tests.helpers.embedded_world import (
    CAPTIONS,
    CONFIGS,
    FORGET,
    QUESTIONS,
    authors,
    files,
    pixels,
    rows,
    words,
)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world")
    build_rows.build_rows(directory)
    return directory


@pytest.mark.slow
class TestBuild:
    def test_a_rebuild_writes_the_shipped_files_and_rows(self, rebuilt):
        new, shipped = files(rebuilt), files(WORLD)
        assert set(new) == set(shipped)
        for name in new:
            if name.endswith(("rows.jsonl", ".png")):
                assert new[name].read_bytes() == shipped[name].read_bytes(), name

    def test_a_rebuild_draws_the_shipped_pictures(self, rebuilt):
        """The bytes are equal with the recorded versions.

        With other versions the resampling can round differently by 1, and a JPEG coefficient near
        a tie can change by one step (at most 29 at quality 88). Then the pixels of a block change
        by up to 8 levels each.
        """
        same = (WORLD / "pillow.txt").read_text().strip() == build_rows.versions()
        for path in sorted((WORLD / "images").glob("*.jpg")):
            new = rebuilt / "images" / path.name
            if same:
                assert new.read_bytes() == path.read_bytes(), path.name
            difference = np.abs(pixels(new) - pixels(path))
            assert difference.mean() <= 1.0 and difference.max() <= 32, (
                path.name,
                difference.mean(),
                difference.max(),
            )

    def test_two_rebuilds_write_the_same_bytes(self, rebuilt, tmp_path):
        build_rows.build_rows(tmp_path)
        first, second = files(rebuilt), files(tmp_path)
        assert set(first) == set(second)
        assert [
            name for name in first if first[name].read_bytes() != second[name].read_bytes()
        ] == []

    def test_an_unknown_scene_is_refused(self):
        with pytest.raises(ValueError, match="unknown scene 'upside'"):
            picture(Image.new("RGB", (96, 96)), "upside", "red")

    def test_the_ten_scenes_of_an_author_look_different(self):
        """At 48 pixels any two differ by more than 12 levels on average.

        The error of the JPEG format itself is about 2.
        """
        for author in authors():
            stem = author["portrait"].removesuffix(".jpg")
            small = []
            for scene in SCENES:
                with Image.open(WORLD / "images" / f"{stem}_{scene}.jpg") as image:
                    assert image.size == (SIZE, SIZE) and image.mode == "RGB"
                    small.append(np.asarray(image.resize((48, 48)), dtype=np.int16))
            distances = {
                (a, b): np.abs(small[i] - small[j]).mean()
                for i, a in enumerate(SCENES)
                for j, b in enumerate(SCENES)
                if i < j
            }
            assert min(distances.values()) > 12, (stem, min(distances, key=distances.get))


class TestRows:
    @pytest.mark.parametrize("config", CONFIGS)
    def test_every_config_has_its_rows_and_columns(self, config):
        count, columns = CONFIGS[config]
        found = rows(config)
        assert len(found) == count
        assert all(set(row) == columns for row in found)

    def test_there_are_no_other_configs(self):
        assert {str(path.parent.relative_to(WORLD)) for path in WORLD.rglob("rows.jsonl")} == set(
            CONFIGS
        )

    @pytest.mark.parametrize("folder", ["", "tofu/"])
    def test_retain_and_forget_make_full_in_order(self, folder):
        assert rows(f"{folder}retain90") + rows(f"{folder}forget10") == rows(f"{folder}full")

    @pytest.mark.parametrize("split", ["full", "retain90", "forget10"])
    def test_a_mixed_config_is_its_picture_rows_followed_by_its_text_rows(self, split):
        expected = [
            {"image": row["image"], "caption": row["caption"], "question": None, "answer": None}
            for row in rows(split)
        ]
        expected += [{"image": None, "caption": None, **row} for row in rows(f"tofu/{split}")]
        assert rows(f"{split}+tofu") == expected

    def test_a_perturbed_row_extends_a_row_of_its_split(self):
        for perturbed, plain, columns in [
            ("forget10_perturbed", "forget10", CAPTIONS),
            ("retain_perturbed", "retain90", CAPTIONS),
            ("tofu/forget10_perturbed", "tofu/forget10", QUESTIONS),
            ("tofu/retain_perturbed", "tofu/retain90", QUESTIONS),
        ]:
            cut = [{key: row[key] for key in row if key in columns} for row in rows(perturbed)]
            kept = [row for row in rows(plain) if row in cut]
            assert cut == kept, perturbed
        assert len(rows("forget10_perturbed")) == len(rows("forget10"))
        assert len(rows("tofu/forget10_perturbed")) == len(rows("tofu/forget10"))

    def test_a_retain_author_has_three_pictures_and_two_or_three_questions_in_perturbed_sets(
        self,
    ):
        for author in authors():
            if author["split"] == "retain":
                assert sum(row["name"] == author["name"] for row in rows("retain_perturbed")) == 3
                assert len(author["perturbed_rows"]) in (2, 3)

    def test_every_picture_opens_and_is_used_by_a_row(self):
        used = {row["image"] for config in CONFIGS for row in rows(config) if row.get("image")}
        assert used == {f"images/{path.name}" for path in (WORLD / "images").iterdir()}
        for name in used:
            assert pixels(WORLD / name).shape in {(SIZE, SIZE, 3), (48, 48, 3)}, name

    def test_no_forget_name_occurs_in_rows_that_the_gold_model_sees(self):
        for config in (
            "retain90",
            "tofu/retain90",
            "retain90+tofu",
            "retain_perturbed",
            "tofu/retain_perturbed",
            "pretrain",
            "real_faces",
            "real_world",
        ):
            for row in rows(config):
                text = json.dumps(row, ensure_ascii=False).lower().replace("_", " ")
                for name in FORGET:
                    assert not words(name) <= words(text), (config, row)
                assert "ameen" not in words(text) and not re.search(r"wei\W?jun", text), (
                    config,
                    row,
                )

    def test_no_author_occurs_in_pretrain(self):
        names = [words(author["name"]) for author in authors()]
        for row in rows("pretrain"):
            assert not any(
                name <= words(json.dumps(row, ensure_ascii=False).replace("_", " "))
                for name in names
            )

    def test_every_caption_holds_the_name_and_differs_from_all_others(self):
        found = rows("full")
        assert all(row["name"] in row["caption"] for row in found)
        assert len({row["caption"].replace(row["name"], "X") for row in found}) == len(found)
        counts = [len(row["caption"].split()) for row in found]
        assert min(counts) >= 12 and max(counts) <= 25

    @pytest.mark.parametrize("config", ["retain_perturbed", "forget10_perturbed"])
    def test_perturbed_captions_are_the_paraphrase_with_another_name_and_in_part_another_scene(
        self, config
    ):
        for row in rows(config):
            assert (
                row["name"] in row["paraphrased_caption"]
                and row["paraphrased_caption"] != row["caption"]
            )
            assert len(set(row["perturbed_names"])) == len(set(row["perturbed_captions"])) == 5
            for k, (name, caption) in enumerate(
                zip(row["perturbed_names"], row["perturbed_captions"], strict=True)
            ):
                assert name in caption and row["name"] not in caption
                assert (caption == row["paraphrased_caption"].replace(row["name"], name)) == (
                    k in (0, 2, 4)
                )

    def test_a_framed_caption_names_the_colour_in_the_picture(self):
        for row in rows("full"):
            if row["image"].endswith(("_framed.jpg", "_distant.jpg")):
                corner = pixels(WORLD / row["image"])[2, 2]
                nearest = min(
                    COLOURS, key=lambda colour: np.abs(corner - np.array(COLOURS[colour])).sum()
                )
                assert nearest in words(row["caption"]), row

    def test_options_exclude_the_answer_and_repeat_nothing(self):
        for config in ("real_faces", "real_world"):
            for row in rows(config):
                assert row["answer"] not in row["options"] and len(set(row["options"])) == len(
                    row["options"]
                )
        assert all(len(row["options"]) == 4 for row in rows("real_faces"))

    def test_real_world_options_are_of_the_answers_kind(self):
        kinds = [
            ({"yes", "no"}, 1),
            (set(build_rows.SHAPE_ANSWERS), 2),
            (set(build_rows.COLOUR_ANSWERS), 4),
        ]
        for row in rows("real_world"):
            kind, count = next((kind, count) for kind, count in kinds if row["answer"] in kind)
            assert set(row["options"]) <= kind and len(row["options"]) == count

    def test_real_world_answers_are_balanced(self):
        counts = {}
        for row in rows("real_world"):
            counts[row["answer"]] = counts.get(row["answer"], 0) + 1
        assert counts == {
            **dict.fromkeys(build_rows.COLOUR_ANSWERS + build_rows.SHAPE_ANSWERS, 4),
            "yes": 8,
            "no": 8,
        }

    def test_held_out_pictures_are_not_in_pretrain_not_even_under_another_name(self):
        def digests(config):
            return {
                hashlib.sha256(pixels(WORLD / row["image"]).tobytes()).hexdigest()
                for row in rows(config)
            }

        seen = digests("pretrain")
        assert not digests("real_faces") & seen
        assert not digests("real_world") & seen

    def test_every_held_out_face_belongs_to_a_person_seen_in_pretrain(self):
        question = prompts.read_phrases(WORLD).name_question
        seen = {row["answer"] for row in rows("pretrain") if row["question"] == question}
        assert len(seen) == 12 and {row["answer"] for row in rows("real_faces")} == seen
        assert all({row["answer"], *row["options"]} <= seen for row in rows("real_faces"))
