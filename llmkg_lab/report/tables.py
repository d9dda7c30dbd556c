"""The tables of a report, as HTML. Every number was measured by other modules."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from IPython.display import HTML

from llmkg_lab.artifact import Artifact, StoredScheme
from llmkg_lab.base.errors import LabError
from llmkg_lab.browser.trial import Trial
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.data.texts import Pairs
from llmkg_lab.measure.protocol import asked
from llmkg_lab.measure.quality import Quality
from llmkg_lab.measure.speed import Speed
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.presets import words
from llmkg_lab.reference.outputs import DecoderReference, RankerReference
from llmkg_lab.results.result import SchemeResult
from llmkg_lab.results.verdict import Judgement, Verdict
from llmkg_lab.roster.metrics import HEADLINE, METRICS, Metric, in_tables
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import Fetched

TEXT = "text-align:left;vertical-align:top"
LONG = f"{TEXT};min-width:16em;overflow-wrap:break-word;white-space:pre-wrap"
NUMBER = "text-align:right;vertical-align:top"
COLORS = {  # under white letters, which are legible on a page of any colour
    Verdict.PASS: "#1a7f37",
    Verdict.UNDECIDED: "#57606a",
    Verdict.BELOW_TARGET: "#9a6700",
    Verdict.FAIL: "#cf222e",
}
PILL = "color:#fff;border-radius:1em;padding:.05em .6em;white-space:nowrap"


def badge(verdict: Verdict) -> str:
    """A verdict as coloured HTML."""
    return f'<b style="background:{COLORS[verdict]};{PILL}">{verdict}</b>'


def words_of(stored: StoredScheme) -> str:
    """What an artifact's scheme means, in words, as HTML."""
    return html.escape(words.explained(stored.meaning) if stored.meaning else stored.name)


def scheme(name: str, meaning: Scheme | None) -> str:
    """A scheme's name with what it means below, as HTML."""
    said = html.escape(words.explained(meaning)) if meaning else ""
    style = "display:inline-block;min-width:9em"  # words stand on one line or two
    return f'<span style="{style}">{html.escape(name)}<br><small>{said}</small></span>'


def rows_table(
    rows: Sequence[Mapping[str, str]],
    caption: str = "",
    text: Sequence[str] = (),
    words: Sequence[str] = (),
) -> HTML:
    """Rows of HTML fragments under their keys.

    text: the columns of running text, whose line breaks and spaces are kept; words: those of a
    word or two. The first column holds words too, all others hold numbers.

    A table that is wider than the page scrolls by itself.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    styles = {key: LONG if key in text else TEXT if key in words else NUMBER for key in keys}
    styles[keys[0]] = LONG if keys[0] in text else TEXT
    head = "".join(f'<th style="{styles[key]}">{key}</th>' for key in keys)
    body = "".join(
        "<tr>" + "".join(f'<td style="{styles[k]}">{row.get(k, "")}</td>' for k in keys) + "</tr>"
        for row in rows
    )
    note = f"<p><small>{caption}</small></p>" if caption else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return HTML(f'<div style="overflow-x:auto" tabindex="0">{table}</div>{note}')


def checkpoint(fetched: Fetched, checkpoint: Checkpoint) -> HTML:
    """What was found: source, format, dtypes, shape of the model."""
    facts = {
        "source": fetched.detail,
        "revision": fetched.revision or "none recorded",
        "format": checkpoint.format,
        "tensors": stored(checkpoint),
        "bytes": f"{checkpoint.nbytes:,}",
        "architecture": checkpoint.form.model_type,
        **checkpoint.form.facts(),
        "SHA-256": checkpoint.fingerprint(),
    }
    rows = [{"": key, " ": html.escape(str(value))} for key, value in facts.items()]
    return rows_table(rows, text=[" "])


def stored(checkpoint: Checkpoint) -> str:
    """How many tensors a checkpoint has of each type."""
    counts = Counter(tensor.dtype for tensor in checkpoint.tensors.values())
    return ", ".join(f"{count} of {dtype}" for dtype, count in counts.items())


def sizes(artifacts: Mapping[str, Artifact]) -> HTML:
    """Size, bits per weight and rounding error by scheme and by group of tensors."""
    rows = []
    for name, artifact in artifacts.items():
        row = {"scheme": scheme(name, artifact.manifest.scheme.meaning)}
        row["MB"] = f"{artifact.nbytes / 1e6:.1f}"
        row["bits per weight"] = f"{artifact.bits_per_weight:.2f}"
        for group in artifact.manifest.groups:
            error = f"<br><small>{group.rms_error:.2%}</small>" if group.rms_error else ""
            row[f"{group.name}, MB"] = f"{group.bytes / 1e6:.1f}{error}"
        rows.append(row)
    note = "Small: the root mean square of weight − stored, relative to the weights' own."
    return rows_table(rows, note)


def headline(schemes: Mapping[str, SchemeResult]) -> HTML:
    """The few numbers that answer a reader's first questions, from a result's schemes."""
    rows = []
    for name, entry in schemes.items():
        row = {"scheme": scheme(name, entry.scheme.meaning), "verdict": badge(entry.verdict)}
        row["MB"] = f"{entry.bytes / 1e6:.1f}"
        row["bits per weight"] = f"{entry.bits_per_weight:.2f}"
        for metric in HEADLINE:
            if measured := entry.quality.get(metric) or entry.speed.get(metric):
                row[METRICS[metric].heading] = METRICS[metric].text(measured.value)
        if any(other.reasons for other in schemes.values()):
            row["why"] = html.escape("; ".join(entry.reasons))
        rows.append(row)
    return rows_table(rows, text=["why"], words=["verdict"])


def qualities(
    schemes: Mapping[str, Scheme],
    qualities: Mapping[str, Quality],
    judgements: Mapping[str, Judgement],
) -> HTML:
    """One row per scheme, one column per metric, each value over its 95 % interval."""
    measured = {name: quality.metrics for name, quality in qualities.items()}
    counts = {f"{m.n:,} {m.unit}" for metrics in measured.values() for m in metrics.values()}
    rows = [
        {"scheme": scheme(name, schemes[name]), "verdict": badge(judgements[name].verdict)} | row
        for name, row in _metric_rows(measured).items()
    ]
    note = f"Measured on {', '.join(sorted(counts))}; small: 95 % interval.{_width(measured)}"
    return rows_table(rows, note, words=["verdict"])


def _width(measured: Mapping[str, Mapping[str, Estimate]]) -> str:
    """How exactly perplexity is known, which says what can be decided; empty without one."""
    ratios = [m["perplexity_ratio"] for m in measured.values() if "perplexity_ratio" in m]
    widths = [r.high - r.low for r in ratios if r.low is not None and r.high is not None]
    if not widths:
        return ""
    known = f"{50 * max(widths):.1f} %"
    return f" Perplexity is known to ±{known} or better: a target nearer than that is undecided."


def speeds(schemes: Mapping[str, Scheme], speeds: Mapping[str, Speed]) -> HTML:
    """One row per scheme, one column per metric, each median over its 10th to 90th percentile."""
    first = next(iter(speeds.values()))
    note = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in first.conditions.items())
    rows = _metric_rows({name: speed.metrics for name, speed in speeds.items()})
    named = [{"scheme": scheme(name, schemes[name])} | row for name, row in rows.items()]
    return rows_table(named, note)


def trials(schemes: Mapping[str, Scheme], trials: Mapping[str, Trial | LabError]) -> HTML:
    """What a browser made of each scheme's artifact: one row for each, or why it has none."""
    rows, seen = [], set()
    for name, trial in trials.items():
        row = {"scheme": scheme(name, schemes[name])}
        if isinstance(trial, LabError):
            row["run by"] = html.escape(str(trial))
        else:
            seen.add(trial.browser)
            row |= _trial_row(trial)
        rows.append(row)
    note = (
        f"In {' and '.join(sorted(seen)) or 'no browser'}, over loopback, each in a fresh profile. "
        "Download: all files of a first visit; small: by gzip. Load: until the model is ready, "
        "verified and timed. A second visit takes its weights from the browser's store. First and "
        "further: a token, or an encoder's text. Memory: resident, of the page's process."
    )
    return rows_table(rows, note, text=["run by"])


def _trial_row(trial: Trial) -> dict[str, str]:
    packed = f"<small>{trial.compressed / 1e6:.1f}</small>"
    return {
        "download, MB": f"{trial.download / 1e6:.1f}<br>{packed}",
        "first load, s": f"{trial.cold / 1e3:.2f}",
        "second load, s": f"{trial.warm / 1e3:.2f}",
        "fetched again, MB": f"{trial.second_download / 1e6:.1f}",
        "first, ms": f"{trial.first:,.0f}",
        "further, ms": f"{trial.unit:.1f}",
        "memory, MB": f"{trial.memory / 1e6:,.0f}",
        "run by": f"{html.escape(trial.engine)}<br><small>{html.escape(trial.why)}</small>",
    }


def _metric_rows(
    measured: Mapping[str, Mapping[str, Estimate | Measurement]],
) -> dict[str, dict[str, str]]:
    return {
        name: {
            METRICS[metric].heading: _with_interval(metrics[metric], METRICS[metric])
            for metric in in_tables(metrics)
        }
        for name, metrics in measured.items()
    }


def _with_interval(measured: Estimate | Measurement, metric: Metric) -> str:
    text = metric.text(measured.value)
    if measured.low is None or measured.high is None or measured.low == measured.high:
        return text
    interval = f"{metric.text(measured.low)} – {metric.text(measured.high)}"
    return f'{text}<br><small style="white-space:nowrap">{interval}</small>'


def continuations(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    reference: DecoderReference,
    qualities: Mapping[str, Quality],
) -> HTML:
    """The reference's greedy continuations beside each scheme's; what differs is in bold."""
    rows = []
    for i, prompt in enumerate(prompts):
        expected = np.array(reference.continuations[i])
        row = {"prompt": html.escape(prompt), "PyTorch float32": _text(tokenizer, expected)}
        for name, quality in qualities.items():
            written = quality.samples["continuations"][i]
            same = int(np.cumprod(written == expected).sum())  # tokens before the first difference
            rest = _text(tokenizer, written[same:])
            row[name] = _text(tokenizer, written[:same]) + (f"<b>{rest}</b>" if rest else "")
        rows.append(row)
    how = "continued as they stand"
    if asked(tokenizer, "Hello") is not None:
        how = "asked by the chat template, as a user would"
    note = f"Prompts {how}. Greedy; in bold from where a scheme leaves the reference."
    return rows_table(rows, note, text=list(rows[0]))


CONVERSATION = (
    {"role": "user", "content": "Where is Paris?"},
    {"role": "assistant", "content": "In France."},
    {"role": "user", "content": "And Rome?"},
)


def conversation(tokenizer: Tokenizer) -> HTML:
    """A conversation as the chat template writes it, up to where the model would answer."""
    try:
        prompt = tokenizer.chat(CONVERSATION)
    except InferenceError as error:
        return HTML(f"<p>{html.escape(error.message)}</p>")
    tokens = len(tokenizer.encode(prompt, special=False))
    return HTML(f"<pre>{html.escape(prompt)}</pre><p><small>{tokens} tokens</small></p>")


def _text(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    return html.escape(tokenizer.decode([int(i) for i in ids]))


def moved_pairs(
    pairs: Pairs, reference: np.ndarray, embedder: Embedder, scheme: str, count: int = 6
) -> HTML:
    """The sentence pairs whose cosine moved most; ``reference`` (2 n, hidden): left, then right."""
    before = _pair_cosines(reference)
    after = _pair_cosines(embedder.embed([*pairs.left, *pairs.right]))
    rows = [
        {
            "sentences": f"{html.escape(pairs.left[i])}<br>{html.escape(pairs.right[i])}",
            "people, of 5": f"{pairs.scores[i]:.1f}",
            "cosine, PyTorch float32": f"{before[i]:.3f}",
            f"cosine, {scheme}": f"{after[i]:.3f}",
        }
        for i in np.argsort(-np.abs(after - before))[:count]
    ]
    return rows_table(rows, text=["sentences"])


def moved_scores(
    reference: RankerReference, scores: np.ndarray, scheme: str, count: int = 6
) -> HTML:
    """The pairs of query and passage whose score (pairs,) moved most."""
    rows = [
        {
            "query and passage": "<br>".join(map(html.escape, reference.candidates.pairs[i])),
            "logit, PyTorch float32": f"{reference.scores[i]:.3f}",
            f"logit, {scheme}": f"{scores[i]:.3f}",
        }
        for i in np.argsort(-np.abs(scores - reference.scores))[:count]
    ]
    return rows_table(rows, text=["query and passage"])


def _pair_cosines(embeddings: np.ndarray) -> np.ndarray:
    """(2 n, hidden) of unit length, left sides before right ones -> (n,)."""
    left, right = np.split(embeddings, 2)
    return np.einsum("ph,ph->p", left, right)
