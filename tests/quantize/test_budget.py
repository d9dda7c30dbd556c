"""Byte budgets: the choice of layouts against all choices, and what is made of a choice."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmkg_lab.quantize.budget import allocate as budget
from llmkg_lab.quantize.budget.options import Option, Sensitivities, SensitivityError
from llmkg_lab.scheme import Layout, Scheme, SchemeError

LAYOUT = Layout(4, 32, False, True)
FIXED = 7  # bytes

options = st.builds(
    Option,
    st.just(LAYOUT),
    st.integers(1, 40),
    st.floats(0, 1, allow_subnormal=False),
)
instances = st.lists(st.lists(options, min_size=1, max_size=5), min_size=1, max_size=5)


def sensitivities(matrices) -> Sensitivities:
    named = {f"matrix {i}": tuple(options) for i, options in enumerate(matrices)}
    return Sensitivities(named, FIXED, {"tokens": 5})


@pytest.fixture
def anything_goes(monkeypatch):
    monkeypatch.setattr(budget, "ACCEPTABLE", np.inf)


TIED = [  # the greedy choice fills the budget, and the bound's price ties two options
    [Option(LAYOUT, 17, 0.0001)],
    [Option(LAYOUT, 15, 0.8742600809261873), Option(LAYOUT, 23, 0.6385772532078177)],
    [Option(LAYOUT, 1, 1.0), Option(LAYOUT, 27, 0.0)],
    [Option(LAYOUT, 16, 0.0)],
    [Option(LAYOUT, 8, 0.75)],
]


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@example(matrices=TIED, nbytes=90)
@given(matrices=instances, nbytes=st.integers(0, 220))
def test_no_choice_within_the_budget_diverges_less(matrices, nbytes):
    choices = [
        (sum(o.kl for o in choice), sum(o.nbytes for o in choice) + FIXED)
        for choice in itertools.product(*matrices)
    ]
    fitting = [kl for kl, size in choices if size <= nbytes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "ACCEPTABLE", np.inf)
        if not fitting:
            with pytest.raises(SchemeError, match="the smallest mix takes"):
                budget.allocate(sensitivities(matrices), nbytes)
            return
        found = budget.allocate(sensitivities(matrices), nbytes)
    assert found.nbytes <= nbytes
    assert found.kl == pytest.approx(min(fitting), abs=1e-9)


@settings(deadline=None, max_examples=150)
@given(matrices=instances, share=st.floats(0, 1), ahead=st.integers(1, 60))
def test_what_the_next_megabyte_buys_is_what_a_larger_budget_has(matrices, share, ahead):
    """Against all choices; a megabyte being so many bytes here, and a size exact."""
    choices = [
        (sum(o.nbytes for o in choice) + FIXED, sum(o.kl for o in choice))
        for choice in itertools.product(*matrices)
    ]
    smallest, largest = min(choices)[0], max(choices)[0]
    nbytes = smallest + int(share * (largest - smallest))

    def best(limit: int) -> float:
        return min(kl for size, kl in choices if size <= limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "MEGABYTE", ahead)
        patch.setattr(budget, "RESOLUTION", 1)
        found = budget.mix(sensitivities(matrices), nbytes)
    now = best(nbytes)
    assert found.next_megabyte == pytest.approx(now - best(nbytes + ahead), abs=1e-9)
    better = [size for size, kl in choices if kl < now * (1 - budget.LEAST_GAIN)]
    bought = best(nbytes + ahead) < now * (1 - budget.LEAST_GAIN)
    assert found.next_gain_at == (None if bought or not better else min(better))


def test_on_a_plateau_the_next_gain_is_named_and_no_megabyte_promised():
    """The line between two sizes of the table promises what no mix between them holds."""
    table = [Option(LAYOUT, 16_000_000, 0.1), Option(Layout(8, 32, True), 30_000_000, 0.001)]
    found = budget.allocate(sensitivities([table]), 20_000_000)
    assert (found.next_megabyte, found.kl) == (0, 0.1)
    assert found.next_gain_at == 30_000_000 + FIXED
    assert budget.allocate(sensitivities([table]), 29_500_000).next_megabyte == pytest.approx(0.099)


@given(matrices=instances)
def test_the_frontier_bounds_every_choice(matrices):
    found = sensitivities(matrices)
    sizes, costs = np.array(budget.frontier(found)).T
    assert np.all(np.diff(sizes) > 0)
    assert np.all(np.diff(costs) <= 0)
    for choice in itertools.product(*matrices):
        size, kl = FIXED + sum(o.nbytes for o in choice), sum(o.kl for o in choice)
        assert kl >= np.interp(size, sizes, costs) - 1e-9


def test_a_budget_that_no_model_survives_names_one_that_does():
    narrow = Option(Layout(2, 64, False, True), 40_000_000, 0.9)
    wide = Option(LAYOUT, 80_000_000, 0.05)
    with pytest.raises(SchemeError, match=r"diverge by 0\.90 nats") as error:
        budget.allocate(sensitivities([[narrow, wide]]), 60_000_000)
    assert error.value.hint.startswith("budget:80.1MB is the smallest")
    assert budget.allocate(sensitivities([[narrow, wide]]), 80_100_000).kl == 0.05


def test_sensitivities_survive_their_file(tmp_path):
    found = sensitivities([[Option(LAYOUT, 12, 0.25), Option(Layout(8, 64, True), 20, 1e-9)]])
    found.save(tmp_path / "sensitivities.json")
    assert Sensitivities.load(tmp_path / "sensitivities.json") == found
    for broken in ("", "[]", "{}", json.dumps({"format": "other"}), '{"format": 1, "matrices": 2}'):
        with pytest.raises(SensitivityError):
            Sensitivities.from_json(broken)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("budget:100MB", "budget-100mb"),
        ("budget:91.30MB", "budget-91.3mb"),
        ("budget-5.2bpw", "budget-5.2bpw"),
    ],
)
def test_budgets_have_names_that_folders_may_have(written, name):
    scheme = Scheme.parse(written)
    assert scheme.name == name
    assert Scheme.parse(name) == scheme
    assert scheme.suffix == "_q4"


@pytest.mark.parametrize("name", ["budget", "budget:", "budget:0MB", "budget:100", "budget:-5MB"])
def test_budgets_without_a_size_are_refused(name):
    with pytest.raises(SchemeError, match="a budget is a size"):
        Scheme.parse(name)


def test_bits_a_parameter_are_bytes():
    assert Scheme.parse("budget:5.2bpw").budget.nbytes(1_000_000) == 650_000
    assert Scheme.parse("budget:91.3MB").budget.nbytes(1) == 91_300_000
