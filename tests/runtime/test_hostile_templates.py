"""Chat templates made to never end or to take all memory: an error of ours within 5 seconds."""

import time

import psutil
import pytest

from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text import chat

HI = [{"role": "user", "content": "hi"}]
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a loop over what a loop made": "{% set l = [1] %}{% for i in range(99) %}{% set _ = l %}"
    "{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "power": "{{ 10**(10**9) }}",
    "power as text": "{{ (10**(10**7))|string|length }}",
    "doubling": "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "doubling of lists": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}"
    "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "product": "{{ 'a' * 10**12 }}",
    "format": "{{ '%1000000000000d' % 1 }}",
    "format of another kind": "{{ '{:>1000000000000}'.format(1) }}",
    "just": "{{ 'a'.ljust(10**12) }}",
    "centred": "{{ 'a'|center(10**12) }}",
    "replace": "{% set ns = namespace(s='a') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s|replace('a', 'aaaaaaaa') %}{% endfor %}{{ ns.s }}",
    "indent": "{{ messages|tojson(indent=10**12) }}",
    "recursion": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(99) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "long output": "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "regular expression": "{{ ('a' * 50000)|wordwrap(1)|urlize|striptags }}" * 50,
    "sum": "{{ range(99999)|map('string')|map('center', 10**7)|list|length }}",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_in_an_error(name):
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(InferenceError, match="the chat template refuses"):
        chat.render(HOSTILE[name], HI)
    assert time.monotonic() - start < 5
    assert psutil.Process().memory_info().rss - before < 200 << 20
    assert chat.render("{{ messages[0].content }}", HI) == "hi"  # as if nothing had been


def test_a_process_renders_many():
    chat.render("{{ messages[0].content }}", HI)
    process = chat._templates._process
    start = time.monotonic()
    for n in range(200):
        assert chat.render("{{ messages[0].content }}", [HI[0] | {"content": f"{n}\ud800 €"}])
    assert time.monotonic() - start < 5
    assert chat._templates._process is process
    assert psutil.Process(process.pid).memory_info().rss < 60 << 20


def test_what_is_no_json_is_refused():
    with pytest.raises(InferenceError, match=r"refuses these messages: .*not JSON serializable"):
        chat.render("x", [{"role": "user", "content": object()}])
