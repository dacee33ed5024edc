"""The configs of pictures, of text and of both, for every split of some people."""

from collections.abc import Mapping
from typing import Any

# One object of a JSON lines file. Its columns differ from config to config (schema.json).
DataRow = dict[str, Any]
Configs = dict[str, list[DataRow]]
Splits = Mapping[str, list[DataRow]]


def split_configs(pictures: Splits, texts: Splits) -> Configs:
    """full, retain90 and forget10, each as pictures, as text and as both; and holdout10.

    pictures, texts  {"retain", "forget" and perhaps "holdout": rows of the kinds captions and
                     questions}
    returns          holdout10 only where there is somebody held out
    """
    configs: Configs = {}
    for config, parts in (
        ("full", ("retain", "forget")),
        ("retain90", ("retain",)),
        ("forget10", ("forget",)),
    ):
        picture_rows = [row for part in parts for row in pictures[part]]
        text_rows = [row for part in parts for row in texts[part]]
        configs[config] = picture_rows
        configs[f"tofu/{config}"] = text_rows
        configs[f"{config}+tofu"] = mixed(picture_rows, text_rows)
    if pictures.get("holdout"):
        configs["holdout10"] = pictures["holdout"]
    if texts.get("holdout"):
        configs["tofu/holdout10"] = texts["holdout"]
    return configs


def mixed(picture_rows: list[DataRow], text_rows: list[DataRow]) -> list[DataRow]:
    """Rows of pictures and of text with the same four columns."""
    rows: list[DataRow] = []
    for row in picture_rows:
        rows.append(
            {"image": row["image"], "caption": row["caption"], "question": None, "answer": None}
        )
    for row in text_rows:
        rows.append({"image": None, "caption": None, **row})
    return rows
