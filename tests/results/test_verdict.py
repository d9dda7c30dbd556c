"""Verdicts: which bounds hold, in which order verdicts stand, and the table of metrics."""

import pytest

from llmkg_lab.measure.quality import Quality
from llmkg_lab.measure.values import Estimate
from llmkg_lab.results.verdict import Verdict, deciding, judge
from llmkg_lab.roster.metrics import BOUNDED, HEADLINE, METRICS, SUMMARY, Side, in_tables


def measured(**values):
    return Quality(
        {k: Estimate(v, v * 0.9, v * 1.1, 100, "tokens") for k, v in values.items()}, {}, {}
    )


def test_verdicts():
    quality = measured(kl_mean=0.2, top1_agreement=0.8, perplexity_ratio=1.1)
    assert judge(quality, {"kl_mean": 0.2, "top1_agreement": 0.8}, {}).verdict is Verdict.PASS
    short = judge(quality, {"kl_mean": 0.5}, {"perplexity_ratio": 0.95, "top1_agreement": 0.5})
    assert short.verdict is Verdict.BELOW_TARGET
    assert short.reasons == ("perplexity_ratio is 1.1 (0.99 to 1.21); its target is at most 0.95",)
    beyond = judge(quality, {"top1_agreement": 0.9}, {"kl_mean": 0.1})
    assert beyond.verdict is Verdict.FAIL
    assert len(beyond.reasons) == 2
    assert beyond.reasons[0].endswith("its limit is at least 0.9")


def test_what_is_not_a_number_or_was_not_measured_holds_no_bound():
    assert judge(measured(kl_mean=float("nan")), {"kl_mean": 0.5}, {}).verdict is Verdict.FAIL
    judgement = judge(measured(kl_mean=0.1), {"spearman": 0.7}, {})
    assert judgement.verdict is Verdict.FAIL
    assert "spearman was not measured" in judgement.reasons[0]


def test_the_worst_verdict_counts_and_only_failures_are_not_usable():
    assert Verdict.worst([Verdict.PASS, Verdict.BELOW_TARGET]) is Verdict.BELOW_TARGET
    assert Verdict.worst([Verdict.PASS, Verdict.FAIL, Verdict.BELOW_TARGET]) is Verdict.FAIL
    assert [verdict for verdict in Verdict if verdict.usable] == [
        *("below target", "undecided", "pass"),
    ]


def judged(value, low, high, bound=1.05):
    quality = Quality({"perplexity_ratio": Estimate(value, low, high, 100, "tokens")}, {}, {})
    return judge(quality, {}, {"perplexity_ratio": bound})


def test_a_target_within_the_interval_is_neither_reached_nor_missed():
    for value in (1.050022, 1.04):  # on either side: what was measured cannot tell
        assert judged(value, 1.031, 1.072).verdict is Verdict.UNDECIDED
    (reason,) = judged(1.050022, 1.031, 1.072).reasons
    assert reason == (
        "perplexity_ratio is 1.05002 (1.031 to 1.072); its target is at most 1.05, which lies "
        "within that interval"
    )
    assert judged(1.06, 1.051, 1.07).verdict is Verdict.BELOW_TARGET
    assert judged(1.04, 1.03, 1.049).verdict is Verdict.PASS
    assert judged(1.05, None, None).verdict is Verdict.PASS
    limit = measured(kl_mean=0.2)  # a limit is compared with the value
    assert judge(limit, {"kl_mean": 0.19}, {}).verdict is Verdict.FAIL
    assert judge(limit, {"kl_mean": 0.21}, {}).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("value", "bound", "text"),
    [
        (1.050022, 1.05, "1.05002"),
        (1.05, 1.05, "1.05"),
        (1.0499999, 1.05, "1.05"),
        (0.98996, 0.99, "0.98996"),
        (float("nan"), 0.5, "nan"),
    ],
)
def test_as_many_digits_are_shown_as_decide(value, bound, text):
    side = Side.AT_LEAST if bound == 0.99 else Side.AT_MOST
    assert deciding(value, bound, side) == text


@pytest.mark.parametrize("side", Side)
def test_a_bound_holds_on_its_good_side_and_at_the_bound(side):
    assert side.holds(1.0, 1.0)
    assert side.holds(0.9, 1.0) is (side is Side.AT_MOST)
    assert not side.holds(float("nan"), 1.0)


def test_the_table_of_metrics_serves_all_its_readers():
    assert set(HEADLINE) | set(SUMMARY) | set(BOUNDED) <= set(METRICS)
    assert all(METRICS[name].brief.format(0.5) for name in SUMMARY)
    assert METRICS["load_ms"].heading == "load, ms"
    assert METRICS["top1_agreement"].text(0.98765) == "98.77%"
    measured = ["decode_ms", "perplexity_reference", "kl_mean"]
    assert in_tables(measured) == ["kl_mean", "decode_ms"]  # in the order of the columns
