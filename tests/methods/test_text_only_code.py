"""The authors' text-only code: what its losses are made of, and which rows of Table 4 it explains.

Table 4 of the CLEAR paper (Llama2-7B) prints one row for DPO, Retain FT and SCRUB: Real 0.50,
Retain 0.26, Forget 0.42, log FQ -4.92. Under `released@nlp` the first two have the same gradient up
to a factor for each batch, and SCRUB has theirs where student and teacher are equal.
Run: python -m pytest tests/methods/test_text_only_code.py
"""

from dataclasses import replace

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Row
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.methods import METHODS, make_options, method_loss, needs, variant
from clear_ref.methods.batch_contents import IdkAnswer
from tests.helpers.authors_inputs import outputs

NLP = "released@nlp"
LAYOUTS = {
    "forget": ["..ppaaa", "ppppaaa", "....ppa"],
    "idk": ["...ppaa", "ppppppa", "..pppaa"],
    "retain": ["ppppaa", "..ppaa", "pppaaa"],
}


def gradients(method, semantics=NLP, layouts=LAYOUTS, same=False):
    """(loss, {batch: gradient}) on drawn batches."""
    options = make_options(method, {}, semantics)
    given = {}
    for name in needs(method, semantics, options):
        seed = 500 + sorted(LAYOUTS).index(name)
        batch = outputs(seed, layouts[name], gap=1.0, same=same)
        given[name] = replace(batch, logits=batch.logits.requires_grad_())
    loss = method_loss(method, given, semantics).value
    loss.backward()
    return loss.item(), {name: batch.logits.grad for name, batch in given.items()}


def test_dpo_is_retain_ft_times_the_tokens_of_an_answer():
    """Retain answers of 2, 2 and 3 tokens: sum / 3 sequences against sum / 7 tokens, 7/3."""
    dpo, of_dpo = gradients("dpo")
    tuned, of_tuned = gradients("retain_ft")
    assert dpo == pytest.approx(7 / 3 * tuned, rel=1e-14)
    assert of_dpo.keys() == of_tuned.keys() == {"retain"}
    assert torch.allclose(of_dpo["retain"], 7 / 3 * of_tuned["retain"], rtol=1e-13, atol=1e-16)


def test_training_with_dpo_and_retain_ft_gives_the_same_weights():
    """20 steps of AdamW on one table of logits, batches whose answers have 7 or 5 tokens.

    AdamW divides by the gradient's own size, so a factor changes nothing if it is the same in every
    step (7/3; only its eps sees it), and little if it alternates between 7/3 and 5/3: then weights
    differ by less than a tenth of how far they moved. GA, which Table 4 prints apart, goes the
    other way.
    """

    def trained(method, layouts):
        torch.manual_seed(0)
        table = torch.randn(3, 6, 5, dtype=torch.float64).requires_grad_()
        start = table.detach().clone()
        optimizer = torch.optim.AdamW([table], lr=1e-2, eps=1e-12)
        for step in range(20):
            batch = outputs(600, layouts[step % len(layouts)])
            name = next(iter(needs(method, NLP, make_options(method, {}, NLP))))
            given = {name: replace(batch, logits=table, hidden=None, teacher_hidden=None)}
            optimizer.zero_grad()
            method_loss(method, given, NLP).value.backward()
            optimizer.step()
        return table.detach() - start

    even = [LAYOUTS["retain"]]
    moved = trained("retain_ft", even)
    assert float((trained("dpo", even) - moved).abs().max()) < 1e-7 < float(moved.abs().max())
    uneven = [LAYOUTS["retain"], ["ppppaa", "..ppaa", "pppppa"]]
    moved = trained("retain_ft", uneven)
    largest = float(moved.abs().max())
    assert float((trained("dpo", uneven) - moved).abs().max()) < 0.1 * largest
    assert float((trained("grad_ascent", uneven) - moved).abs().max()) > largest


def test_scrub_starts_as_retain_ft():
    """Both KL have no gradient where student and teacher are equal."""
    _, of_scrub = gradients("scrub", same=True)
    _, of_tuned = gradients("retain_ft", same=True)
    assert float(of_scrub["forget"].abs().max()) < 1e-15
    assert torch.allclose(of_scrub["retain"], of_tuned["retain"], rtol=0, atol=1e-15)


def test_the_idk_batch_has_the_forget_question_and_a_refusal_without_a_line_end():
    rows = [Row(k, "here", {"question": f"q{k}", "answer": f"a{k}"}, None) for k in range(4)]
    phrases = Phrases(("caption?",), "name?", ("no one", "no two"))
    for method in ("idk", "llmu", "dpo"):
        chosen = variant(method, NLP)
        assert chosen.contents.idk is IdkAnswer.REFUSAL and chosen.mask == "answer"
        assert chosen.by_batch
        read = tuple(chosen.needs_of(make_options(method, {}, NLP)))
        plan = UnlearnPlan(rows, rows, read, phrases, 0, chosen.contents)
        for index in range(4):
            records = plan.records(0, index)
            if "idk" in records:
                assert records["idk"].question == f"q{index}"
                assert records["idk"].answer in ("no one", "no two")


def test_methods_without_a_loss_of_their_own_are_those_of_mm_and_sku_does_not_exist():
    own = {method for method, module in METHODS.items() if NLP in module.VARIANTS}
    assert own == {"idk", "dpo", "npo", "llmu", "rmu"}
    for method in METHODS.keys() - own - {"sku"}:
        assert variant(method, NLP) is variant(method, "released")
    with pytest.raises(UserError, match="text-only code has no sku; expected --released-code mm"):
        variant("sku", NLP)
