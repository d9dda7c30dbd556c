"""What the benchmarks make of samples. That they run, `make bench` and `make quality` show."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import llmkg_lab
from benchmarks import common, contestants, encoders, kinds, measure, quality, travel
from benchmarks.common import run
from benchmarks.contestants import Contestant
from benchmarks.measure import compare, render
from benchmarks.operators import profile
from benchmarks.tasks import log_likelihood, share
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.measure.quality import score_windows
from llmkg_lab.reference.outputs import decoder_reference
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme


def test_ratios_are_of_runs_side_by_side():
    """A slow spell hits both of a round: the rounds' ratios are 4, 2, 2, the medians' 4."""
    samples = {
        "a": [{"s": 1.0}, {"s": 5.0}, {"s": 1.0}],
        "b": [{"s": 4.0, "t": 7.0}, {"s": 10.0, "t": 8.0}, {"s": 2.0, "t": 9.0}],
    }
    head, rule, *rows = compare(samples, {"s": "seconds", "t": "turns"}).splitlines()
    assert len({len(line) for line in (head, rule, *rows)}) == 1  # aligned
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells == [["a", "1 (1 – 5) ×1.00", ""], ["b", "4 (2 – 10) ×2.00", "8 (7 – 9)"]]


@pytest.mark.slow
def test_a_process_is_measured_without_its_parents_memory():
    """This one has PyTorch in it, and 400 MB more."""
    held = np.ones(50_000_000)
    code = "held = b'x' * 40_000_000; import time; time.sleep(0.3); print(len(held))"
    result = run([sys.executable, "-c", code])
    assert result.output == "40000000\n"
    assert 40e6 < result.peak_bytes < 80e6 < held.nbytes
    assert result.seconds > 0.3


def test_a_peer_that_fails_leaves_its_cells_empty(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "peer_python", lambda: sys.executable)
    broken = common.workload_of("llama.cpp", tmp_path / "none.gguf", {"threads": 1})
    samples = benchmark.alternate({"ours": lambda: {"ms": 2.0}, "llama.cpp": broken}, 1, {})
    benchmark.publish(samples, {})
    text = (tmp_path / "some.md").read_text()
    assert "2 (2 – 2) ×1.00" in text
    assert "llama.cpp failed: exit code 1, " in text


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """One that leaves its files in a folder of the test's."""
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "WORK", tmp_path / "work")
    monkeypatch.setattr(common, "PEERS", tmp_path / "none")
    monkeypatch.setattr(measure, "_busy", lambda: 0.0)  # whatever this machine does
    return measure.Benchmark("some", "Something", {"ms": "a step, ms"})


def test_a_run_that_was_cut_off_goes_on_at_the_round(benchmark):
    ran = []

    def contestant(name: str):
        def run() -> dict:
            ran.append(name)
            if len(ran) == 4:
                raise KeyboardInterrupt
            return {"ms": float(len(ran))}

        return run

    contestants = {name: contestant(name) for name in "ab"}
    with pytest.raises(KeyboardInterrupt):
        benchmark.alternate(contestants, 3, {"threads": 1})
    samples = benchmark.alternate(contestants, 3, {"threads": 1})
    assert "".join(ran) == "abab" + "abab"  # the round that was cut off is run anew
    assert [run["ms"] for run in samples["a"]] == [1, 5, 7]
    assert benchmark.alternate(contestants, 2, {"threads": 1})["b"] == samples["b"][:2]
    assert len(ran) == 8  # nothing ran again
    benchmark.alternate(contestants, 1, {"threads": 2})
    benchmark.alternate(contestants, 1, {"threads": 2}, again=True)
    assert len(ran) == 12


@pytest.mark.slow
def test_a_run_that_others_disturb_is_made_again(benchmark, monkeypatch):
    clock = iter([0.0, 100.0, 100.0, 100.1, 100.1, 900.0])  # others' seconds before and after
    monkeypatch.setattr(measure, "_busy", lambda: next(clock))
    figures = iter([{"ms": 9.0}, {"ms": 2.0}])

    def contestant() -> dict:
        time.sleep(0.7)
        return next(figures)

    (run,) = benchmark.alternate({"a": contestant}, 1, {})["a"]
    assert run["ms"] == 2
    assert 0 < run["others"] < 0.1 / 0.7  # of the second run, which took 0.7 s or more


def test_disturbed_runs_count_only_where_there_are_no_others():
    samples = {
        "a": [{"s": 1.0, "others": 0.0}, {"s": 8.0, "others": 0.9}],
        "b": [{"s": 3.0, "others": 0.1}, {"s": 4.0, "others": 0.0}],
        "c": [{"s": 5.0, "others": 1.0}, {"s": 7.0, "others": 1.0}],
    }
    rows = [row.split("|")[2].strip() for row in compare(samples, {"s": "s"}).splitlines()[2:]]
    assert rows == ["1 (1 – 1) ×1.00", "3.5 (3 – 4) ×3.00", "6 (5 – 7) ×2.94"]


@pytest.mark.slow
def test_what_this_machine_does_beside_us_is_seen():
    code = "import time; end = time.time() + 1.5\nwhile time.time() < end: pass"
    before = measure._busy()
    other = subprocess.Popen([sys.executable, "-c", code])
    time.sleep(1)
    assert measure._busy() - before > 0.3  # not yet waited for, it is not our child's time
    other.wait()


def test_a_record_is_all_that_its_table_and_figure_need(benchmark, tmp_path):
    samples = {"llmkg-lab": [{"ms": 1.0}, {"ms": 3.0}], "a peer": [{"ms": 4.0}, {"ms": 6.0}]}
    benchmark.publish(samples, {"threads": 1}, "A note.", ("ms",), {"ms": 0.5})
    record = json.loads((tmp_path / "some.json").read_text())
    assert (record["samples"], record["rounds"], record["conditions"]) == (
        samples,
        2,
        {"threads": 1},
    )
    assert (tmp_path / "some.md").read_text() == render(record)
    assert "5 (4 – 6) ×3.00" in render(record)
    figure = (tmp_path / "some.svg").read_text()
    assert all(f"<!-- {text} -->" in figure for text in ("llmkg-lab", "a peer", "a step, ms", "5"))


OTHERS = ("quality", "travel", "encoders", "tasks")  # records of another form
RECORDS = [p for p in sorted(common.RESULTS.glob("*.json")) if p.stem not in OTHERS]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_tables_are_those_of_the_records(path):
    record = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == render(record)


@pytest.mark.parametrize(("name", "module"), [("quality", quality), ("encoders", encoders)])
def test_tables_of_points_are_those_of_their_records(name, module):
    path = common.RESULTS / f"{name}.json"
    table = module.table(json.loads(path.read_text())["points"])
    assert path.with_suffix(".md").read_text().startswith(f"{table}\n\n")


def test_the_table_over_kinds_of_text_is_that_of_its_record():
    path = common.RESULTS / "travel.json"
    record = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == travel.table(record["points"], record["protocol"])


@pytest.mark.slow
def test_operators_account_for_the_whole_of_a_token(tiny_llama, tmp_path):
    artifact = convert(
        open_checkpoint(tiny_llama[1]), Scheme.parse("int8-rtn"), tmp_path / "int8-rtn"
    )
    found = profile(artifact, 1)
    layers = artifact.config["num_hidden_layers"]
    for name in ("down product", "output projection", "attention, rotation and cache"):
        assert found[name]["times"] == pytest.approx(layers)
        assert found[name]["token_ms"] > 0 < found[name]["prompt_ms"]
    assert found["LM head"]["times"] == pytest.approx(1)
    for metric in ("times", "token_ms", "prompt_ms"):
        parts = sum(row[metric] for name, row in found.items() if name != "all")
        assert found["all"][metric] == pytest.approx(parts)


def test_artifacts_are_kept_by_all_the_code_that_makes_them():
    package = Path(llmkg_lab.__file__).parent
    assert [part for part in contestants.MAKING if not (package / part).exists()] == []


@pytest.mark.slow
def test_a_point_holds_what_was_measured(tiny_llama, tmp_path):
    """Two tiny models for two seeds: sizes and divergences are their means."""
    checkpoint = open_checkpoint(tiny_llama[1])
    windows = np.random.default_rng(0).integers(0, 131, (2, 200))
    reference = decoder_reference(checkpoint, windows, [], 0)
    runs = []
    for name in ("int4-rtn", "int8-rtn"):
        artifact = convert(checkpoint, Scheme.parse(name), tmp_path / name)
        files = tuple(artifact.model_path.parent.iterdir())
        entrant = Contestant("tiny", "llmkg-lab", artifact.folder, files, artifact.nbytes)
        assert entrant.file_bytes == entrant.nbytes
        with entrant.opened() as decoder:
            runs.append((entrant, score_windows(decoder, reference)))
    point = quality.point(runs, reference)
    parameters = sum(p.numel() for p in tiny_llama[0].parameters())
    assert point["bytes"] == round(np.mean([entrant.nbytes for entrant, _ in runs]))
    assert point["bits_per_weight"] == pytest.approx(8 * point["bytes"] / parameters)
    assert point["kl"]["value"] == pytest.approx(np.mean(point["kl_by_seed"]))
    assert point["kl_by_seed"][0] > 5 * point["kl_by_seed"][1] > 0
    ratios = np.log(point["perplexity_ratio_by_seed"])
    assert np.log(point["perplexity_ratio"]["value"]) == pytest.approx(ratios.mean())
    assert point["kl"]["low"] < point["kl"]["value"] < point["kl"]["high"]
    assert point["kl"]["n"] == 2 * 199
    assert json.loads(json.dumps(point)) == point


def test_the_table_marks_what_nothing_smaller_beats():
    def entry(name: str, megabytes: int, kl: float) -> dict:
        interval = {"value": kl, "low": kl, "high": kl, "n": 9}
        point = {"name": name, "runtime": "x", "bytes": megabytes * 10**6, "bits_per_weight": 4.0}
        point |= {"kl_by_seed": [kl] * 2, "perplexity_ratio_by_seed": [1.01, 1.03], "seeds": [0, 1]}
        return point | dict.fromkeys(quality.METRICS, interval)

    table = quality.table([entry("a", 1, 0.2), entry("b", 2, 0.3), entry("c", 3, 0.1)])
    assert ["**`" in line for line in table.splitlines()[2:]] == [True, False, True]
    assert "| 0.200, 0.200 |" in table
    assert "| +1.0, +3.0 |" in table


def test_rows_of_earlier_runs_stay_where_the_protocol_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    assert quality.earlier({"corpus": "a"}) == {}
    row = {"runtime": "llama.cpp", "name": "Q4_0", "seeds": [0]}
    record = {"protocol": {"corpus": "a"}, "points": [row]}
    (tmp_path / "quality.json").write_text(json.dumps(record))
    assert quality.earlier({"corpus": "a"}) == {("llama.cpp", "Q4_0"): row}
    assert quality.earlier({"corpus": "b"}) == {}


def test_an_encoders_change_is_paired():
    """Spearman's interval is of all texts; that of the change, of the same pairs both times."""
    from llmkg_lab.artifact import StoredScheme
    from llmkg_lab.measure.values import Estimate

    metrics = {
        "cosine_mean": Estimate(0.99, 0.98, 1.0, 9, "texts"),
        "cosine_min": Estimate(0.9, None, None, 9, "texts"),
        "spearman": Estimate(0.81, 0.78, 0.84, 9, "pairs"),
        "spearman_reference": Estimate(0.82, 0.79, 0.85, 9, "pairs"),
        "spearman_ratio": Estimate(0.81 / 0.82, 0.98, 1.0, 9, "pairs"),
    }
    artifact = SimpleNamespace(
        manifest=SimpleNamespace(scheme=StoredScheme(name="int4-rtn")),
        nbytes=14_000_000,
        bits_per_weight=5.0,
    )
    point = encoders.point(artifact, metrics)
    change = point["spearman_change"]
    assert change["value"] == pytest.approx(-0.01)
    assert change["low"] == pytest.approx(0.82 * -0.02)
    assert change["high"] == 0
    assert "| `int4-rtn` | 14.00 | 0.9900 (0.9800 to 1.0000) | 0.900 |" in encoders.table([point])


def test_an_answers_likelihood_is_pytorchs():
    logits = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    targets = np.array([3, 0, 10, 3, 7])
    expected = torch.log_softmax(torch.tensor(logits).double(), 1)[range(5), targets].sum()
    assert log_likelihood(logits, targets) == pytest.approx(float(expected), rel=1e-6)
    mean, error = share(np.array([True] * 30 + [False] * 70))
    assert (mean, error) == (0.3, pytest.approx((0.3 * 0.7 / 100) ** 0.5))
    _, paired = share(np.array([1] * 5 + [-1] * 5 + [0] * 90))  # ten answers flip, five each way
    assert paired == pytest.approx(0.1**0.5 / 10)


def test_what_travels_less_is_told_by_pairs():
    """Two models whose losses vary far more from token to token than from one to the other."""
    random = np.random.default_rng(0)
    loss = random.lognormal(size=2 * (travel.WINDOW - 1))

    def point(row: travel.Row, kl: np.ndarray) -> dict:
        interval = {"value": float(kl.mean()), "low": 0.0, "high": 9.0, "n": len(kl)}
        kind = {"kl": interval, "perplexity_ratio": interval, "kl_by_seed": [1.0, 2.0]}
        names = {"name": row.name, "runtime": row.runtime, "how": row.how, "bytes": 10**8}
        return {**names, "seeds": [0, 1], "kinds": {"news": {**kind, "tokens": kl.tolist()}}}

    ours = point(travel.ROWS[1], loss - 0.02 + 0.01 * random.normal(size=len(loss)))
    found, peer = travel.with_differences([ours, point(travel.PEER, loss)])
    less = found["kinds"]["news"]["less"]
    assert -0.022 < less["low"] < less["value"] < less["high"] < -0.018
    assert "less" not in peer["kinds"]["news"]
    protocol = {"kinds": {"news": {"tokens_scored": len(loss)}}, "weights": "some"}
    text = travel.table([found, peer], {**protocol, "importance_tokens": 5})
    assert "1,022 of news" in text
    assert "; -0.020 (-0.02" in text
    assert len({line.count("|") for line in text.splitlines()[:4]}) == 1


@pytest.mark.slow
def test_kinds_of_text_are_what_they_say(tiny_llama_of_numbers, tmp_path):
    artifact = convert(tiny_llama_of_numbers, Scheme.parse("fp32"), tmp_path / "float")
    plain = Tokenizer.from_folder(artifact.folder)
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    chatting = Tokenizer(plain.core, {**plain.config, "chat_template": template})
    said = kinds.KINDS["chat"](chatting)
    assert said.startswith("user: ")
    assert said.count("\nuser: ") >= 23
    assert said.count("assistant: ") == said.count("user: ")  # whoever asks is answered
    code = kinds.KINDS["code"](plain)
    assert "def test_" not in code
    assert "def convert(" in code
    assert "\n\nclass " in code
