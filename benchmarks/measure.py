"""Contestants measured in turn, and what is made of their samples: a table, a file, a figure.

A record, results/NAME.json: {title, measured (UTC day), machine, versions, rounds, conditions,
metrics {key: title with unit}, note, samples {contestant: [{key: value} a round]}}; the key
"others" has the cores' time that other processes took. The table is made from the record alone.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from statistics import median

import psutil
from tqdm import tqdm

import llmkg_lab
from benchmarks.charts import bars, short
from benchmarks.common import HERE, RESULTS, WORK, Runner, machine, versions

Samples = dict[str, list[dict]]  # a round's values by metric, by contestant
OTHERS = "others"  # among a round's figures: cores' time that other processes took
OWN = "own_s"  # processor seconds of a contestant's processes that nobody waited for
QUIET, TRIES = 0.2, 3  # more of it, and the run is made again, so often at most
SHARED = ("common.py", "measure.py", "workloads.py", "contestants.py")


@dataclass(frozen=True)
class Benchmark:
    """What is measured. name: of its files; metrics: titles with their units, by key."""

    name: str
    title: str
    metrics: Mapping[str, str]

    def alternate(
        self,
        contestants: Mapping[str, Runner],
        rounds: int,
        conditions: Mapping[str, object],
        again: bool = False,
    ) -> Samples:
        """Run the contestants in turn, A B A B …: a slow spell of the machine then hits all.

        What was measured before by the same code under the same conditions counts, so that a run
        that was cut off goes on. A round that was cut off is run anew: its ratios are of runs
        side by side.
        """
        key = {"code": self._code(), "machine": machine(), "versions": versions()}
        key |= {"conditions": dict(conditions), "contestants": list(contestants)}
        kept = WORK / "samples" / f"{self.name}.json"
        finished = [] if again else _kept_rounds(kept, key)
        count, known = len(contestants), min(rounds, len(finished))
        with tqdm(total=rounds * count, initial=known * count, desc=self.name, unit="run") as bar:
            for number in range(len(finished), rounds):
                current = {}
                for name, contestant in contestants.items():
                    bar.set_postfix_str(f"round {number + 1} of {rounds}: {name}")
                    current[name] = _undisturbed(contestant)
                    bar.update()
                finished.append(current)
                _write(kept, {"key": key, "rounds": finished})
            bar.set_postfix_str("")
        return {name: [r[name] for r in finished[:rounds]] for name in contestants}

    def publish(
        self,
        samples: Samples,
        conditions: Mapping[str, object],
        note: str = "",
        figure: Sequence[str] = (),
        floors: Mapping[str, float] | None = None,
    ) -> None:
        """Print the table; write the record, the table and a figure of the ``figure`` metrics.

        floors: by metric, what no contestant can go below; it is drawn as a line.
        """
        record = {
            "title": self.title,
            "measured": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "versions": versions(),
            "rounds": len(next(iter(samples.values()))),
            "conditions": dict(conditions),
            "metrics": dict(self.metrics),
            "note": note,
            "samples": samples,
        }
        _write(RESULTS / f"{self.name}.json", record)
        text = render(record)
        (RESULTS / f"{self.name}.md").write_text(text)
        if figure:
            bars(counted(record), figure, floors or {}, RESULTS / f"{self.name}.svg")
        print(f"\n{text}")

    def _code(self) -> str:
        """SHA-256 of all that the figures depend on and that may change."""
        package = Path(llmkg_lab.__file__).parent
        own = [HERE / name for name in (*SHARED, f"{self.name}.py")]
        digest = hashlib.sha256()
        for path in sorted([*package.rglob("*.py"), *filter(Path.exists, own)]):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()


def _undisturbed(contestant: Runner) -> dict:
    """A round's figures, and how many cores' time others took meanwhile; the quietest of a few."""
    best = {OTHERS: float("inf")}
    for _ in range(TRIES):
        start, before = time.monotonic(), _busy()
        figures = dict(contestant())
        busy = _busy() - before - figures.pop(OWN, 0.0)
        others = busy / (time.monotonic() - start)
        best = min(best, {**figures, OTHERS: max(0.0, others)}, key=itemgetter(OTHERS))
        if others < QUIET:
            break
    return best


def _busy() -> float:
    """Seconds of processor time that went to others than this process and its children."""
    system, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = system.idle + getattr(system, "iowait", 0.0)
    guests = getattr(system, "guest", 0.0) + getattr(system, "guest_nice", 0.0)  # counted twice
    return sum(system) - guests - idle - sum(own[:4])


def render(record: Mapping) -> str:
    """Markdown of a record: its table, and under what conditions that holds."""
    where, rounds = record["machine"], record["rounds"]
    text = (
        f"{rounds} round{'s' * (rounds > 1)} in turn on {where['cpu']}, {where['cores']} cores, "
        f"{record['measured']}: medians, in parentheses the least and the largest. "
        "×: the median of the rounds' ratios to the first row."
    )
    taken = [run[OTHERS] for runs in record["samples"].values() for run in runs if OTHERS in run]
    if disturbed := sum(share > QUIET for share in taken):
        text += f" In {disturbed} of {len(taken)} runs others took over {QUIET} cores' time; they "
        text += "count only where no other run of the contestant does."
    for name, runs in record["samples"].items():
        text += "".join(f" {name} failed: {run['failed']}." for run in runs[-1:] if "failed" in run)
    title, table = record["title"], compare(record["samples"], record["metrics"])
    return f"**{title}**\n\n{table}\n\n{text} {record['note']}".rstrip() + "\n"


def compare(samples: Samples, metrics: Mapping[str, str]) -> str:
    """A Markdown table, aligned for a terminal too: median (min – max) × ratio of each metric.

    A ratio is the median of the rounds' own ratios to the first contestant: pairs ran close in
    time. A contestant without a metric has an empty cell.
    """
    first = next(iter(samples.values()))
    rows = [["", *metrics.values()]]
    for name, runs in samples.items():
        rows.append([name, *(_cell(runs, first, metric) for metric in metrics)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join("| " + " | ".join(_aligned(row, widths)) + " |" for row in rows)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    cells = zip(row, widths, strict=True)
    return [c.rjust(width) if i else c.ljust(width) for i, (c, width) in enumerate(cells)]


def _cell(runs: Sequence[dict], first: Sequence[dict], metric: str) -> str:
    values = [run[metric] for run in _quiet(runs) if metric in run]
    if not values:
        return ""
    text = f"{short(median(values))} ({short(min(values))} – {short(max(values))})"
    pairs = [(a, b) for a, b in zip(runs, first, strict=True) if metric in a and metric in b]
    both = [(a, b) for a, b in pairs if _is_quiet(a) and _is_quiet(b)] or pairs
    ratios = [a[metric] / b[metric] for a, b in both]
    return f"{text} ×{median(ratios):.2f}" if ratios else text


def counted(record: Mapping) -> dict:
    """The record with those samples alone that its table is made of."""
    return {**record, "samples": {name: _quiet(r) for name, r in record["samples"].items()}}


def _quiet(runs: Sequence[dict]) -> Sequence[dict]:
    """Those that others did not disturb; where all were, all."""
    return [run for run in runs if _is_quiet(run)] or runs


def _is_quiet(run: dict) -> bool:
    return run.get(OTHERS, 0.0) <= QUIET


def _kept_rounds(path: Path, key: dict) -> list[dict]:
    """Whole rounds that an earlier run of the same left."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return kept["rounds"] if kept["key"] == key else []


def _write(path: Path, content: Mapping) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)
