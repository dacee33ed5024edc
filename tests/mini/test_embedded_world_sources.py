"""The sources of the embedded world: TOFU's texts, names, refusals, pictures, licences, sizes.

Run: python -m pytest tests/mini/test_embedded_world_sources.py
"""

import hashlib
import json

from clear_ref.data import prompts
from clear_ref.mini.directories import SOURCES, WORLD
from clear_ref.mini.scenes import SCENES
from tests.helpers.embedded_world import (
    CONFIGS,
    FORGET,
    authors,
    files,
    held_out,
    read,
    rows,
    words,
)

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
        shapes = {row["file"] for row in read(SOURCES / "shapes" / "questions.jsonl")}
        assert shapes == {path.name for path in (SOURCES / "shapes").glob("*.png")}
        assert sum(name.startswith("train_") for name in shapes) == 240 and len(shapes) == 300
        portraits = {path.name for path in (SOURCES / "portraits").iterdir()}
        assert {author["portrait"] for author in authors() + held_out()} == portraits

    def test_the_licence_file_names_every_folder_and_source(self):
        text = (SOURCES / "LICENSES.md").read_text(encoding="utf-8")
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

        assert size(SOURCES) < 2.5e6 and size(WORLD) < 4e6
