"""Paths and rows of the real data that tests read.

real_data       data that ships in tests/real/; its tests never skip (origins: tests/real/README.md)
tokenizer_data  the tokenizers of LLaMA and Qwen, which do not ship; a test skips without them
"""

import gzip
import json
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def real_data(*parts: str) -> Path:
    """The path of a file or folder of tests/real/."""
    return REPOSITORY.joinpath("tests", "real", *parts)


def tofu_files() -> dict[str, bytes]:
    """{file name: contents} of TOFU's 15 files, as the data set has them: full.json, ..."""
    return {
        path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes())
        for path in sorted(real_data("tofu").glob("*.json.gz"))
    }


def tofu_rows(name: str) -> list[dict]:
    """The rows of one of TOFU's files, such as forget10 or real_authors_perturbed."""
    text = gzip.decompress(real_data("tofu", f"{name}.json.gz").read_bytes()).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def tokenizer_data(*parts: str) -> Path:
    """A path below tokenizers/ of the folder that CLEAR_REF_SHARED_DATA names.

    Without the variable: ../shared/data, beside the repository. The folder holds
    tokenizers/llama/tokenizer.json         of Llama-2 or LLaVA-1.5
    tokenizers/qwen/tokenizer.json          of Qwen2-VL or Qwen3
    tokenizers/qwen/tokenizer_config.json   beside it
    skips   the calling test where the path does not exist
    """
    named = os.environ.get("CLEAR_REF_SHARED_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    path = folder.joinpath("tokenizers", *parts)
    if not path.exists():
        pytest.skip(
            f"tokenizers/{'/'.join(parts)} is not part of the repository (its licence); set "
            "CLEAR_REF_SHARED_DATA to a folder that has it (tests/real/README.md)"
        )
    return path
