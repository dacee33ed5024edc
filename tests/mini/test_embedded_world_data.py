"""The embedded world's data: the rows are built from the sources and have what CLEAR needs.

TestBuild: rebuilding. TestRows: counts, columns, splits, options. TestSources: TOFU's texts, names,
refusals, sizes.

Run: python -m pytest tests/mini/test_embedded_world_data.py
"""

import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from clear_ref.data import prompts
from clear_ref.mini import build_rows
from clear_ref.mini.scenes import COLOURS, SCENES, SIZE, picture

CAPTIONS = {"image", "caption", "name"}
QUESTIONS = {"question", "answer"}
PERTURBED = CAPTIONS | {"paraphrased_caption", "perturbed_captions", "perturbed_names"}
PERTURBED_QUESTIONS = QUESTIONS | {"paraphrased_answer", "perturbed_answer"}
CONFIGS = {
    "full": (200, CAPTIONS),
    "retain90": (180, CAPTIONS),
    "forget10": (20, CAPTIONS),
    "tofu/full": (400, QUESTIONS),
    "tofu/retain90": (360, QUESTIONS),
    "tofu/forget10": (40, QUESTIONS),
    "full+tofu": (600, QUESTIONS | {"image", "caption"}),
    "retain90+tofu": (540, QUESTIONS | {"image", "caption"}),
    "forget10+tofu": (60, QUESTIONS | {"image", "caption"}),
    "retain_perturbed": (54, PERTURBED),
    "forget10_perturbed": (20, PERTURBED),
    "tofu/retain_perturbed": (40, PERTURBED_QUESTIONS),
    "tofu/forget10_perturbed": (40, PERTURBED_QUESTIONS),
    "real_faces": (48, {"image", "answer", "options"}),
    "real_world": (60, QUESTIONS | {"image", "options"}),
    "pretrain": (1291, QUESTIONS | {"image"}),
    "holdout10": (20, CAPTIONS),
    "tofu/holdout10": (40, QUESTIONS),
}
FORGET = ("Wei-Jun Chen", "Hina Ameen")

# SHA-256 of json.dumps([[question, answer, paraphrased_answer, perturbed_answer], ...],
# ensure_ascii=False) of the author's 20 rows. Computed from TOFU's own files (full.json for the
# first two columns, retain_perturbed.json or forget10_perturbed.json for the others), not from
# authors.jsonl.
TOFU = {
    0: "ab272bf0a46c2a41aac5bdfda4c07608f7af1a2ccc18959208dc2285de8c0a94",
    1: "a7a80c0db735cd72f85b91755381ad88859b85cf251fa90c083d2797c222e3a4",
    2: "c2c3dad2d5aca7851d15608f9c13b5f2d4c21141c592bcf7b9eec948a1a53286",
    3: "2ea423b293d148d50d567c1610bf3898445b55fef34383a494a08398d85e55b7",
    4: "e1e2a52ae4dc4a9d2ebab1a93fcc37be2a681e8f4195f16b95b4f83d07e723a6",
    5: "7bdc067f4a559707e2c30951a76c12781dc3293e5d6e8b0843cd13f293d3bfd3",
    6: "4f2c99d133a204cb4c6ef62415106fdab0d8d2be0d142e2a0b8a65dcb1e1707b",
    7: "7cb7e3b689e847838713076f3a257ec6b36b40bc3fca63acf834ca035a115990",
    8: "461ae2df8fff94f2e63c33c41cff20804f8906e3a591be90126ea11ee1e13c23",
    9: "e461815ef39fec4ad63132ed01d31929442f46b61378d15b70bb2e0108f0ff44",
    10: "d12d359c4ed78b837759f79dfc85cd94a27c312e5ef999b5041b1da6c2804334",
    12: "d3e5d5ca69d501db0ad8c99288c3c0488c1595a306222f30888bf7b60cee1e05",
    13: "9198d731b195235e14e6d39581ab366a9dda889ebdd17f996e79bbe00aae968c",
    14: "76beb6ff3ffa329d286f7841f5939d7d0d773d1015c47918339d1dd8fa802efa",
    15: "4358cb78aaeada198b3d51b92f35128aa12c3c24348eff1cc78503329f771ae7",
    17: "4cee393c0ac17afd557e84a81787d95b84c0be1077cb7bbe132c0256933a3848",
    18: "492446a821191442adaa8e630237aa909cfe78055437d1e55ed0fbcb8d3dee12",
    19: "baed9ac3e53db4ab8fdd8f8744a8cd4d5a6ec2af46f70e02d33647a20775668e",
    188: "edc0c40806ab601dcb38c12cec64150c081505e3ff1f2267b0f5aa1d24695ed0",
    190: "5819ac77aa1545193ca12b6051937c8608f9abbfe3b7462dc0cf58b447fed2c1",
}
# The same of [[question, answer], ...] of the two held-out authors, from full.json.
HOLDOUT = {
    182: "6fa738b989eb6c166d2fee2b407bc8914352cd85ffdae4c450061573f9c5f4a5",
    193: "6793dbc268db3838977e43530ffe747cd6529f88ea48e256c7e4348805e4f9c4",
}


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(config):
    return read(build_rows.WORLD / config / "rows.jsonl")


def authors():
    return read(build_rows.SOURCES / "authors.jsonl")


def held_out():
    return read(build_rows.SOURCES / "holdout_authors.jsonl")


def files(directory):
    return {
        str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()
    }


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world")
    build_rows.build_rows(directory)
    return directory


class TestBuild:
    def test_a_rebuild_writes_the_shipped_files_and_rows(self, rebuilt):
        new, shipped = files(rebuilt), files(build_rows.WORLD)
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
        same = (build_rows.WORLD / "pillow.txt").read_text().strip() == build_rows.versions()
        for path in sorted((build_rows.WORLD / "images").glob("*.jpg")):
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
                with Image.open(build_rows.WORLD / "images" / f"{stem}_{scene}.jpg") as image:
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
        assert {
            str(path.parent.relative_to(build_rows.WORLD))
            for path in build_rows.WORLD.rglob("rows.jsonl")
        } == set(CONFIGS)

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
        assert used == {f"images/{path.name}" for path in (build_rows.WORLD / "images").iterdir()}
        for name in used:
            assert pixels(build_rows.WORLD / name).shape in {(SIZE, SIZE, 3), (48, 48, 3)}, name

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
                corner = pixels(build_rows.WORLD / row["image"])[2, 2]
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
                hashlib.sha256(pixels(build_rows.WORLD / row["image"]).tobytes()).hexdigest()
                for row in rows(config)
            }

        seen = digests("pretrain")
        assert not digests("real_faces") & seen
        assert not digests("real_world") & seen

    def test_every_held_out_face_belongs_to_a_person_seen_in_pretrain(self):
        question = prompts.read_phrases(build_rows.WORLD).name_question
        seen = {row["answer"] for row in rows("pretrain") if row["question"] == question}
        assert len(seen) == 12 and {row["answer"] for row in rows("real_faces")} == seen
        assert all({row["answer"], *row["options"]} <= seen for row in rows("real_faces"))


class TestSources:
    def test_tofus_texts_are_unchanged(self):
        found = {}
        for author in authors():
            texts = [
                [row["question"], row["answer"], row["paraphrased_answer"], row["perturbed_answer"]]
                for row in author["rows"]
            ]
            found[author["tofu_author"]] = hashlib.sha256(
                json.dumps(texts, ensure_ascii=False).encode()
            ).hexdigest()
        assert found == TOFU

    def test_the_held_out_are_two_other_authors_in_no_row_that_a_model_is_trained_on(self):
        """They are from cities of the world, with 20 questions and 10 scenes each.

        Their names are in no other config.
        """
        found = held_out()
        assert {
            author["tofu_author"]: hashlib.sha256(
                json.dumps(
                    [[row["question"], row["answer"]] for row in author["rows"]], ensure_ascii=False
                ).encode()
            ).hexdigest()
            for author in found
        } == HOLDOUT
        sources = {author["portrait_source"] for author in authors() + found}
        assert len(sources) == 22 and all(author["split"] == "holdout" for author in found)
        assert {author["city"] for author in found} <= {author["city"] for author in authors()}
        names = [author["name"] for author in found]
        assert [row["name"] for row in rows("holdout10")] == [
            name for name in names for _ in SCENES
        ]
        assert all(row["name"] in row["caption"] for row in rows("holdout10"))
        assert rows("tofu/holdout10") == [row for author in found for row in author["rows"]]
        for config in set(CONFIGS) - {"holdout10", "tofu/holdout10"}:
            for row in rows(config):
                text = json.dumps(row, ensure_ascii=False).replace("_", " ")
                assert not any(words(name) <= words(text) for name in names), (config, row)

    def test_eighteen_authors_are_retained_and_two_are_forgotten(self):
        found = authors()
        assert [author["split"] for author in found] == ["retain"] * 18 + ["forget"] * 2
        assert tuple(author["name"] for author in found if author["split"] == "forget") == FORGET
        assert (
            len({author["name"] for author in found})
            == len({author["portrait_source"] for author in found})
            == 20
        )
        for author in found:
            assert (
                author["tofu_author"] < 20
                if author["split"] == "retain"
                else author["tofu_author"] >= 180
            )

    def test_every_name_is_in_the_authors_answers_and_those_of_forget_in_full(self):
        for author in authors():
            named = sum(author["name"] in row["question"] + row["answer"] for row in author["rows"])
            assert named >= 12, author["name"]
            if author["split"] == "forget":
                assert (
                    "full name" in author["rows"][0]["question"]
                    and author["name"] in author["rows"][0]["answer"]
                )

    def test_city_and_country_are_tofus(self):
        for author in authors():
            text = " ".join(row["question"] + " " + row["answer"] for row in author["rows"])
            assert author["city"] in text and author["country"].removeprefix("the ") in text, (
                author["name"]
            )

    def test_perturbed_names_are_five_other_names_without_a_word_of_the_true_one(self):
        names = {author["name"] for author in authors()}
        for author in authors():
            wrong = author["perturbed_names"]
            assert len(set(wrong)) == 5 and not set(wrong) & names
            for name in wrong:
                assert name == name.strip() and 2 <= len(name.split()) <= 3
                assert not words(name) & words(author["name"]), (author["name"], name)

    def test_the_hundred_refusals_are_distinct_and_stripped(self):
        text = (prompts.TEXTS / "refusals.txt").read_text(encoding="utf-8")
        lines = text.split("\n")
        assert lines.pop() == ""
        assert len(lines) == len(set(lines)) == 100
        assert all(line == line.strip() and line for line in lines)
        lengths = [len(line.split()) for line in lines]
        assert min(lengths) >= 5 and max(lengths) <= 15

    def test_every_portrait_face_and_shape_of_the_sources_is_used(self):
        shapes = {row["file"] for row in read(build_rows.SOURCES / "shapes" / "questions.jsonl")}
        assert shapes == {path.name for path in (build_rows.SOURCES / "shapes").glob("*.png")}
        assert sum(name.startswith("train_") for name in shapes) == 240 and len(shapes) == 300
        portraits = {path.name for path in (build_rows.SOURCES / "portraits").iterdir()}
        assert {author["portrait"] for author in authors() + held_out()} == portraits

    def test_the_licence_file_names_every_folder_and_source(self):
        text = (build_rows.SOURCES / "LICENSES.md").read_text(encoding="utf-8")
        for part in (
            "authors.jsonl",
            "holdout_authors.jsonl",
            "portraits/",
            "faces/",
            "shapes/",
            "refusals.txt",
            "captions",
            "TOFU",
            "SFHQ",
            "CC BY 4.0",
            "easy-VQA",
            "CMU Locus Lab",
            "David Beniaguev",
            "Victor Zhou",
            "Calysto",
            "Permission is hereby granted",
            "Redistribution and use in source and binary forms",
        ):
            assert part in text, part

    def test_the_package_data_stays_small(self):
        def size(folder):
            return sum(path.stat().st_size for path in files(folder).values())

        assert size(build_rows.SOURCES) < 2.5e6 and size(build_rows.WORLD) < 4e6
