"""A statistic of a sample with its bootstrap 95 % interval."""

from collections.abc import Callable

import numpy as np

from llmkg_lab.measure.values import Estimate

RESAMPLES = 1000
CONFIDENCE = 0.95


def estimate(
    statistic: Callable[..., float],
    *columns: np.ndarray,
    unit: str,
    blocks: np.ndarray | None = None,
) -> Estimate:
    """Estimate ``statistic(*columns)`` by the percentile bootstrap, with a fixed seed.

    columns: arrays (n,) or (n, …) whose rows belong together, so they are drawn together.
    blocks: (n,) integers; rows with the same number are drawn as one, because neighbours are
        correlated (block bootstrap: Künsch, 1989, Annals of Statistics 17). By default each
        row stands for itself.
    With fewer than two blocks there is no interval.
    Method: Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapter 13.
    """
    from scipy.stats import bootstrap  # takes a while to import

    rows = None if blocks is None else _rows_by_block(blocks)
    value, n = float(statistic(*columns)), len(columns[0])
    count = n if rows is None else len(rows)
    if count < 2:
        return Estimate(value, None, None, n, unit)

    def resampled(chosen: np.ndarray) -> float:
        drawn = chosen if rows is None else np.concatenate([rows[block] for block in chosen])
        return statistic(*(column[drawn] for column in columns))

    interval = bootstrap(
        (np.arange(count),),
        resampled,
        vectorized=False,
        n_resamples=RESAMPLES,
        batch=100,  # resamples in memory at a time
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), n, unit)


def extreme(value: float, n: int, unit: str) -> Estimate:
    """A maximum or minimum: resampling cannot tell how much worse an unseen unit may be."""
    return Estimate(float(value), None, None, n, unit)


def _rows_by_block(blocks: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(blocks, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1)
