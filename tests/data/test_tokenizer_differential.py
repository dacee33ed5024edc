"""Tokenizer files with one or two keys changed: the ids and texts of transformers, or a refusal.

Nine kinds of directories (LLaVA, Llama-2, Llama-3, Mistral, Qwen2, Qwen2-VL, Qwen2.5-VL) and every
place of a chat template. A longer run: python -m tests.helpers.differential_tokenizers.
"""

import pytest

from tests.helpers import differential_tokenizers as run
from tests.helpers.differential import compare

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
pytest.importorskip("jinja2", reason="the parity extra is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_no_change_of_tokenizer_files_gives_other_ids_or_texts():
    transformers.logging.set_verbosity_error()
    counts = compare(run.cases(450, seed=7), run.ours, run.theirs, run.difference)
    assert not counts.different, "\n".join(counts.different)
    assert counts.equal > 300 and 30 < counts.refused < 100, counts.row("tokenizer files")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", run.tiny.KINDS)
def test_ids_of_a_directory_as_it_is_are_those_of_the_reference(kind):
    files = run.tiny.files_of(kind)
    assert run.difference(run.ours(files), run.theirs(files)) == ""
