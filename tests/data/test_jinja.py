"""A chat template rendered without jinja2 gives what transformers renders, or is not known.

Hostile templates end within the bounds of steps, depth and sizes.
"""

import time

import pytest

from clear_ref.data.jinja import render
from clear_ref.data.jinja_tokens import UnknownTemplate
from tests.helpers.tiny_tokenizers import (
    LLAMA_2,
    LLAMA_3,
    LLAVA,
    MISTRAL,
    MISTRAL_3,
    QWEN2,
    QWEN2_5,
)

# White space, scopes, loops, filters and tests that published templates use, in one text each.
PIECES = {
    "blanks": "  {% if a %}\n  x {%- if b -%}  \n y {%+ if c %} z {% endif %}\n{% endif %}\n"
    " {% endif %}",
    "comments": "{# one #}\n  {# two -#}  \n x {#- three #}\n{{ a }}\n\n",
    "strings": r"""{{ 'a\n\'b\\' ~ "c\t\x41é" 'd' }}{{ 1 ~ none ~ true ~ nothing }}""",
    "choices": "{{ 'x' if a else 'y' }}{{ 'x' if nothing }}|{{ a and 'z' or b }}{{ not a }}",
    "numbers": "{{ 7 // 2 }}{{ -7 // 2 }}{{ 7 % 4 * 2 + 1 - 3 }}{{ -1 }}{{ 1 < 2 <= 2 != 3 }}",
    "loops": (
        "{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}"
        "{{ loop.revindex }}{{ loop.length }}{{ x }}{{ loop.previtem }}{{ loop.nextitem }};"
        "{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}"
        "{% for x in xs if x != 2 %}{{ loop.index }}{{ x }}{% endfor %}"
        "{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}{% for k in d %}{{ k }}{% endfor %}"
    ),
    "break": "{% for x in xs %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}"
    "{% if x == 3 %}{% break %}{% endif %}{% endfor %}",
    "scopes": (
        "{% set y = 1 %}{% for x in xs %}{{ y }}{% set y = x %}{{ y }}{% endfor %}{{ y }}"
        "{% if a %}{% set y = 5 %}{% endif %}{{ y }}{% set z %}<{{ y }}>{% endset %}{{ z }}"
        "{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + x %}{% endfor %}"
        "{{ ns.n }}"
        "{% generation %}{% set y = 9 %}{{ y }}{% endgeneration %}{{ y }}"
    ),
    "items": "{{ xs[0] }}{{ xs[-1] }}{{ xs[9] }}{{ xs[1:] | length }}{{ 'abcd'[1:3] }}"
    "{{ 'abc'[::-1] }}"
    "{{ d.k }}{{ d['k'] }}{{ d.nothing }}{{ d['nothing'] }}{{ d.get('k') }}{{ d.get('n', 'x') }}",
    "methods": "{{ ' aB '.strip() }}{{ 'aB'.upper() }}{{ 'a b'.title() }}{{ 'a,b'.split(',')[1] }}"
    "{{ 'ab'.startswith('a') }}{{ 'ab'.replace('a', 'c') }}{{ 'ab'.endswith('a') }}",
    "filters": (
        "{{ ' a ' | trim }}|{{ xs | length }}{{ xs | first }}{{ xs | last }}"
        "{{ ['a', 'b'] | join('-') }}"
        "{{ nothing | default('d') }}{{ '' | default('e', true) }}{{ 'aB' | lower }}"
        "{{ 'aB' | capitalize }}"
        "{{ 3 | string }}{{ ms | map(attribute='role') | join(',') }}{{ -1 | string }}"
        "{{ ms | selectattr('role', 'equalto', 'user') | list | length }}"
        "{{ ms | rejectattr('role', 'equalto', 'user') | list | length }}"
        "{{ ms | selectattr('role') | list | length }}{{ 'a-b' | replace('-', '+') }}"
    ),
    "tests": (
        "{{ a is defined }}{{ nothing is defined }}{{ nothing is not none }}{{ none is none }}"
        "{{ 'a' is string }}{{ d is mapping }}{{ xs is iterable }}{{ xs is sequence }}"
        "{{ 1 is number }}"
        "{{ true is true }}{{ 1 is true }}{{ 1 is integer }}{{ true is integer }}"
        "{{ a is equalto 'q' }}"
        "{{ 'k' in d }}{{ 'b' in 'abc' }}{{ 2 in xs }}{{ 2 not in xs }}{{ not a is defined }}"
        "{{ 'x' if nothing is undefined else 'y' }}{{ true == 1 }}{{ nothing == none }}"
    ),
}
VARIABLES = {
    "a": "q",
    "b": True,
    "c": 0,
    "xs": [1, 2, 3],
    "d": {"k": "v", "l": "w"},
    "ms": [{"role": "user"}, {"role": "assistant"}, {"role": ""}],
}
TEMPLATES = {
    "llava": LLAVA,
    "qwen2": QWEN2,
    "qwen2.5": QWEN2_5,
    "llama-2": LLAMA_2,
    "llama-3": LLAMA_3,
    "mistral": MISTRAL,
    "mistral-v0.3": MISTRAL_3,
}


def conversations():
    """Conversations of one to three turns, with and without a system turn, texts and parts."""
    for question in ("Who is this?", "  a\n b ", "", "<b>'\"&{{ x }}"):
        for answer in (None, "Hina.", " x \n"):
            for system in (None, "Be good. "):
                for parts in (0, 1, 2):
                    turns = [("system", system), ("user", question), ("assistant", answer)]
                    yield [
                        {"role": role, "content": _content(text, parts, role == "user")}
                        for role, text in turns
                        if text is not None
                    ]


def _content(text, parts, with_picture):
    if not parts:
        return text
    picture = [{"type": "image"}] if parts == 2 and with_picture else []
    return [*picture, {"type": "text", "text": text}]


def theirs(text, **variables):
    """The reference's rendering; None where it raises an exception."""
    pytest.importorskip("jinja2", reason="the parity extra is not installed")
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="the parity extra is not installed"
    )
    messages = variables.pop("messages", [{"role": "user", "content": "x"}])
    try:
        return utils.render_jinja_template([messages], chat_template=text, **variables)[0][0]
    except Exception:
        return None


def ours(text, **variables):
    """This package's rendering; None where it is not known."""
    variables = {"tools": None, "documents": None, "add_generation_prompt": False, **variables}
    try:
        return render(text, variables)
    except UnknownTemplate:
        return None


@pytest.mark.parametrize("name", PIECES)
def test_each_part_of_the_subset_renders_as_the_reference(name):
    expected = theirs(PIECES[name], **VARIABLES)
    assert expected is not None and ours(PIECES[name], **VARIABLES) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_conversations_as_the_reference(name):
    n_equal = 0
    for messages in conversations():
        for with_prompt in (True, False):
            given = {
                "messages": messages,
                "add_generation_prompt": with_prompt,
                "bos_token": "<s>",
                "eos_token": "</s>",
                "date_string": "26 Jul 2024",
            }
            found, expected = ours(TEMPLATES[name], **given), theirs(TEMPLATES[name], **given)
            assert found is None or found == expected
            n_equal += found is not None
    assert n_equal >= 24


GROWING = "{% for a in range(99) %}{% set n.x = n.x SIGN n.x %}{% endfor %}"


def nested(start, end, n):
    return "{{ " + start * n + "1" + end * n + " }}"


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(999) %}{% for b in range(999) %}{{ a }}{% endfor %}{% endfor %}",
        "{% set x = 'a' %}{% for a in range(99) %}{% set x = x ~ x %}{{ x ~ x }}{% endfor %}"
        "{% set n = namespace(x='a') %}" + GROWING.replace("SIGN", "+"),
        "{% set n = namespace(x=[1]) %}" + GROWING.replace("SIGN", "+"),
        "{% set n = namespace(x=2) %}" + GROWING.replace("SIGN", "*"),
        "{{ 'a' * 999999999 }}",
        "{{ ('a,' * 9).join([]) }}",
        "{{ range(999999999) }}",
        nested("(", ")", 5000),
        nested("[", "]", 5000),
        nested("not ", "", 5000),
        nested("1 + ", "", 5000),
        nested("-", "", 5000),
        "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
        "{{ messages.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ messages.append(1) }}",
        "{{ '%s' % messages }}",
        "{{ '{}'.format(messages) }}",
        "{{ namespace.__init__ }}",
        "{% include 'a' %}",
        "{% import 'a' as b %}",
        "{% raw %}{{ x }}{% endraw %}",
        "{{ lipsum() }}",
        "{{ 1 / 2 }}{{ 2 ** 9 }}",
        "{{ 1.5 }}",
        "{{ x",
        "{% for x in y %}",
        "{# no end",
        "{{ ) }}",
        "x" * 100_001,
    ],
    ids=lambda text: text[:30],
)
def test_hostile_and_unknown_templates_are_refused_at_once(text):
    start = time.process_time()
    with pytest.raises(UnknownTemplate):
        render(text, {"messages": [{"role": "user", "content": "x"}]})
    assert time.process_time() - start < 2
