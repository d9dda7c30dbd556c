"""The explorer: its parts by themselves, and the notebook in a real JupyterLab and Chromium."""

import json
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from support.lab_browser import browser, needs_chromium, run_all_cells, server

from llmkg_lab.base import paths, records
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Step
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.bench.jobs import CANCELLED, DONE, FAILED, Job, Worker, describe
from llmkg_lab.explorer.bench.state import State
from llmkg_lab.explorer.panels.own_text import ADDED, KL, shade, strip
from llmkg_lab.explorer.questions import grid, points, tensors
from llmkg_lab.explorer.questions.duel import Duel
from llmkg_lab.explorer.questions.peers import OURS_THERE, peers_of
from llmkg_lab.explorer.questions.points import Point
from llmkg_lab.explorer.questions.tokens import TokenScores, _pieces
from llmkg_lab.explorer.view import charts
from llmkg_lab.models import published as shapes
from llmkg_lab.models.llama import TABLE
from llmkg_lab.quantize.budget import allocate
from llmkg_lab.quantize.budget.options import Option, Sensitivities
from llmkg_lab.report import labels
from llmkg_lab.results.result import Result
from llmkg_lab.scheme import Layout

NARROW, WIDE = Layout(4, 32, True), Layout(8, 32, True)
VOILA = ["voila", "explore.ipynb", "--template=offline"]
NAMES = [f"model.layers.{i}.mlp.{part}_proj.weight" for i in range(3) for part in ("up", "down")]

DATA = Path(__file__).parents[1] / "results" / "data"


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def sensitivities():
    """Six matrices that take 1 or 2 MB each; every one matters ten times less than the last."""
    matrices = {
        name: (Option(NARROW, 1_000_000, 0.1 / 10**i), Option(WIDE, 2_000_000, 0.001 / 10**i))
        for i, name in enumerate(NAMES)
    }
    return Sensitivities(matrices, 500_000, {"parameters": 12_000_000})


# Jobs


def test_a_job_is_cancelled_where_it_reports_and_the_next_one_runs(worker):
    reached, go = threading.Event(), threading.Event()

    def endless(job):
        for i in range(10**9):
            job.progress(Step("counting", "numbers", i, 10**9))
            reached.set()
            go.wait(10)

    seen = []
    job = worker.start(Job("counting", endless, lambda job: seen.append(describe(job))))
    after = worker.start(Job("after", lambda job: 42, lambda job: None))
    assert reached.wait(10)
    job.cancel()
    go.set()
    assert job.wait(10).state == CANCELLED
    assert (after.wait(10).state, after.result) == (DONE, 42)
    assert "cancelled" in seen[-1]


def test_a_waiting_job_that_is_cancelled_never_begins(worker):
    hold, began = threading.Event(), []
    worker.start(Job("first", lambda job: hold.wait(10), lambda job: None))
    waiting = worker.start(Job("second", lambda job: began.append(1), lambda job: None))
    waiting.cancel()
    hold.set()
    worker.close()
    assert (waiting.state, began) == (CANCELLED, [])


def test_a_failure_says_what_to_do(worker):
    def fail(job):
        raise LabError("it broke", "mend it")

    job = worker.start(Job("failing", fail, lambda job: None)).wait(10)
    assert job.state == FAILED
    assert "mend it" in describe(job)


def test_time_left_is_of_the_present_step():
    job = Job("work", lambda job: None, lambda job: None)
    job.state = "running"
    job.progress(Step("reading", "windows", 0, 10))
    time.sleep(0.1)
    job.progress(Step("reading", "windows", 4, 10))
    assert job.seconds_left == pytest.approx(0.15, abs=0.08)
    assert describe(job) == "reading: 40 %, about 0 s left"
    job.progress(Step("writing", "bytes", 0, 10))
    assert job.seconds_left is None
    assert describe(job) == "writing: 0 %"


def test_a_cell_waits_for_what_the_opening_starts():
    """Opening a model ends by starting its sensitivities: both are done when a panel is shown."""
    bench = Bench(wait=True)

    def weigh(job):
        time.sleep(0.1)
        return "weighed"

    def open_model(job):
        bench.weighing = bench.worker.start(Job("weighing", weigh, lambda job: None))

    bench.opening = bench.worker.start(Job("opening", open_model, lambda job: None))
    bench.wait_until_open(10)
    assert (bench.opening.state, bench.weighing.result) == (DONE, "weighed")
    bench.close()


# What the panels show


def test_a_budget_buys_the_most_sensitive_matrix_first(sensitivities):
    state = State()
    state.sensitivities = sensitivities
    state.budget = 7_500_000
    prediction = state.predict()
    wide = [name for name, layout in prediction.layouts.items() if layout.bits == 8]
    assert wide == NAMES[:1]
    assert prediction.kl == pytest.approx(0.001 + 0.01111, rel=1e-3)
    state.budget = 1_000_000  # nothing fits: shown all the same, with the reason
    assert state.predict().refusal
    assert state.predict().layouts == {}


def test_the_map_orders_matrices_and_its_shades_their_losses(sensitivities):
    units = shapes.known()["smollm_135m"].reduced().form.units()
    cells = {cell.name: cell for cell in grid.cells_of(sensitivities, units)}
    assert (cells[NAMES[3]].kind, cells[NAMES[3]].layer) == ("down", 1)
    everything = Sensitivities(dict.fromkeys([*NAMES, TABLE], ()), 0, {})
    units = shapes.known()["smollm_135m"].reduced().form.units()
    assert grid.cells_of(everything, units)[0] == grid.Cell(TABLE, "table", grid.OUTSIDE)
    levels = grid.levels(grid.losses(sensitivities, NARROW))
    assert [levels[name] for name in NAMES] == [8, 7, 5, 3, 1, 0]
    assert grid.layouts_of(sensitivities) == [NARROW, WIDE]


def test_the_cursor_lies_where_the_figure_has_the_point():
    predicted = [(1_000_000, 0.2), (2_000_000, 0.02), (3_000_000, 0.002)]
    chart = charts.frontier(predicted, [], 0.3)
    left, top, right, bottom = chart.box
    (x1, y1), (x2, y2) = chart.place(1.0, 0.2), chart.place(3.0, 0.002)
    assert left < x1 < x2 < right
    assert top < y1 < y2 < bottom
    assert f'cx="{chart.place(2.0, 0.02)[0]:.1f}"' in chart.cursor(2.0, 0.02, "here")
    assert "http" not in chart.html()


def test_names_cover_neither_points_nor_each_other():
    """Forty points of which many lie together: what has no room is left out, and is told."""
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    places = np.random.default_rng(0).normal(size=(40, 2)).round(1)
    axes.plot(*places.T, linestyle="", marker="o", markersize=6)
    names = [labels.Label(x, y, f"point {i}", "k") for i, (x, y) in enumerate(places)]
    left_out = labels.place(axes, names)
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) == 40 - left_out > 20
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    points_there = axes.transData.transform(places)
    assert not any(box.contains(x, y) for box in boxes for x, y in points_there)


def test_unbeaten_points_are_those_that_no_smaller_one_is_better_than():
    def point(nbytes, kl):
        return Point("x", points.OURS, nbytes, kl, None, None, 1)

    best = points.front([point(3, 0.1), point(1, 0.3), point(2, 0.4), point(4, 0.2)])
    assert [(p.nbytes, p.kl) for p in best] == [(1, 0.3), (3, 0.1)]


def test_peers_are_read_where_the_benchmark_left_them(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    ask = partial(peers_of, fingerprint="of seed 1", text="of wikitext2")
    assert "make quality" in ask("smollm2_135m_instruct").note
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    kl = {"value": 0.1, "low": 0.09, "high": 0.11, "n": 2044}
    entries = [
        {"name": "Q4_0", "runtime": "llama.cpp", "bytes": 91_700_000, "kl": kl},
        {"name": "int4-rtn", "runtime": "llmkg-lab", "bytes": 98_000_000, "kl": kl},
    ]
    protocol = {"tokens_scored": 2044, "corpus": "wikitext2", "weights": "rescaled"}
    protocol |= {"sha256": "of wikitext2", "fingerprints": ["of seed 0", "of seed 1"]}
    entries = [{"seeds": [0, 1], **entry} for entry in entries]
    record = {"model": "smollm2_135m_instruct", "protocol": protocol, "points": entries}
    (folder / "quality.json").write_text(json.dumps(record))
    found = ask("smollm2_135m_instruct")
    assert [p.maker for p in found.points] == ["llama.cpp", OURS_THERE]
    assert "rescaled, seeds 0, 1" in found.note
    assert found.points[0] == Point("Q4_0", "llama.cpp", 91_700_000, 0.1, 0.09, 0.11, 2044)
    assert ask("smollm_135m").points == []
    for other in ({"fingerprint": "of the package"}, {"text": "of news"}):  # it would not compare
        found = ask("smollm2_135m_instruct", **other)
        assert found.points == []
        assert "Without peers" in found.note
    (folder / "quality.json").write_text("{")
    assert "cannot be read" in ask("smollm2_135m_instruct").note


def test_only_points_of_the_same_weights_and_text_stand_in_a_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_OUTPUTS", str(tmp_path))
    result = records.parse((DATA / "result-decoder.json").read_bytes(), Result)
    folder = tmp_path / "smollm" / result.variant.id
    folder.mkdir(parents=True)
    result.save(folder)
    text = next(iter(result.schemes.values())).protocol["sha256"]
    ask = partial(points.reported, result.variant.id)
    found = ask(result.source.fingerprint, text)
    assert len(found) == len(result.schemes)
    assert ask("f" * 64, text) == ask(result.source.fingerprint, "f" * 64) == []
    labels = {entry.scheme.recipe for entry in result.schemes.values()}
    assert {point.label for point in found} == labels


def test_what_is_exact_does_not_crush_the_front():
    exact = Point("fp32", points.OURS, 538_000_000, 1e-11, None, None, 1)
    near = [Point(f"{n}", points.OURS, n * 10**6, 5 / n, None, None, 1) for n in (90, 100, 150)]
    with_it, without = charts.pareto([exact, *near], []), charts.pareto(near, [])
    assert with_it.place(100, 0.05) == without.place(100, 0.05)


def test_the_line_is_the_optimizers_own_answers():
    """A step through the corners of the hull would lie above the answers between them."""
    options = [Option(NARROW, 10, 1.0), Option(WIDE, 20, 0.5), Option(WIDE, 40, 0.1)]
    weighed = Sensitivities({"a": tuple(options), "b": tuple(options)}, 0, {})
    for nbytes, kl in allocate.curve(weighed, 30):
        assert kl == allocate.mix(weighed, nbytes).kl
    sizes, _ = np.array(allocate.curve(weighed, 30)).T
    assert (sizes[0], sizes[-1]) == (20, 80)


def test_the_lens_tells_what_rounding_moved(tiny_llama):
    checkpoint = open_checkpoint(tiny_llama[1])
    name = "model.layers.0.mlp.down_proj.weight"
    weight = checkpoint.read(name)
    coarse, fine = (tensors.look(checkpoint, name, layout) for layout in (NARROW, WIDE))
    assert coarse.weights.sum() == coarse.errors.sum() == weight.size
    assert coarse.largest_weight == pytest.approx(np.abs(weight).max())
    assert fine.relative_error < coarse.relative_error / 10


def test_tokens_cover_the_text_once_and_tell_their_guesses():
    text = 'a <b> "naïve"\nend'
    offsets = [(0, 1), (2, 5), (6, 9), (9, 10), (9, 10), (10, 14), (14, 18)]
    pieces = _pieces(text, offsets)
    assert "".join(pieces) == text[:18]
    guesses = [[("<i>", 0.5)]] * 6
    kl = np.array([0.0, 0.5, 2.0, 0.1, 0.2, 0.3])
    scores = TokenScores(pieces, kl, kl + 1, kl + 0.5, guesses, guesses, False)
    html = strip(scores, KL)
    assert "<b>" not in html  # the text is escaped
    assert "KL 2.000 nats" in html
    assert "&#x27;&lt;i&gt;&#x27; 50%" in html
    assert shade(-0.5, 1) in strip(scores, ADDED)  # what became better is blue
    assert shade(2.0, 1) != shade(0.5, 1)


def test_a_side_that_lags_behind_does_not_differ():
    assert Duel("the cat sat", "the cat").common == len("the cat sat")
    assert Duel("the cat sat", "the cow").common == len("the c")


# In the browser


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """explore.ipynb as it comes, but measuring on demand; in a folder of its own."""
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    folder.mkdir()
    content = (paths.notebooks() / "explore.ipynb").read_text()
    assert "wait = True" in content
    (folder / "explore.ipynb").write_text(content.replace("wait = True", "wait = False"))
    return folder


def panel(page, title):
    return page.locator(".lab-panel", has=page.get_by_role("heading", name=title, exact=True))


@needs_chromium
def test_the_notebook_in_jupyterlab(notebook):
    environment = {"LLMKG_LAB_OUTPUTS": str(notebook.parent / "outputs"), "HF_HUB_OFFLINE": "1"}
    with (
        server(["jupyter", "lab"], notebook, environment) as (address, token),
        browser(notebook.parent / "chromium") as page,
    ):
        run_all_cells(page, address, token, "explore.ipynb")
        budget = panel(page, "Budget")
        _moves_the_slider(budget)
        _cancels_a_measurement(budget)
        _chooses_a_cell(panel(page, "Sensitivity"))
        assert page.strangers == []


@needs_chromium
def test_the_page_of_its_own_loads_nothing_from_elsewhere(notebook):
    """Voilà as `make app` starts it."""
    environment = {
        "LLMKG_LAB_OUTPUTS": str(notebook.parent / "outputs"),
        "JUPYTER_PATH": str(paths.notebooks()),
        "HF_HUB_OFFLINE": "1",
    }
    with (
        server(VOILA, notebook, environment) as (address, _),
        browser(notebook.parent / "chromium-voila") as page,
    ):
        page.goto(address)
        panel(page, "Budget").get_by_role("slider").first.wait_for(timeout=300_000)
        family = "e => getComputedStyle(e, '::before').fontFamily"
        assert "Awesome" in page.locator("i.fa").first.evaluate(family)  # it has its own icons
        assert page.strangers == []


def _moves_the_slider(budget):
    predicted = budget.locator(".lab-numbers b").first
    predicted.wait_for(timeout=300_000)  # the sensitivities have been measured
    handle = budget.get_by_role("slider").first
    handle.scroll_into_view_if_needed()
    cursor = budget.locator(".lab-overlay svg line")
    number, place = predicted.inner_text(), cursor.get_attribute("x1")
    picture = budget.locator(".lab-chart").screenshot()
    handle.focus()
    for _ in range(150):  # where one matrix is most of a tiny model, mixes are far apart
        handle.press("ArrowLeft")
        if predicted.inner_text() != number:
            break
    from playwright.sync_api import expect

    expect(predicted).not_to_have_text(number, timeout=60_000)
    before, after = (float(text.split()[0]) for text in (number, predicted.inner_text()))
    assert after > before  # fewer bytes diverge more
    expect(cursor).not_to_have_attribute("x1", place, timeout=60_000)
    assert budget.locator(".lab-chart").screenshot() != picture


def _cancels_a_measurement(budget):
    handle = budget.get_by_role("slider").first
    handle.focus()
    handle.press("End")  # the whole range of budgets is at hand, and this one fits every model
    budget.locator("button.mod-primary").click()
    budget.locator(".lab-job .progress").wait_for(timeout=120_000)
    budget.get_by_role("button", name="Cancel").click()
    budget.get_by_text("cancelled").wait_for(timeout=120_000)
    assert budget.get_by_text("measured KL").count() == 0


def _chooses_a_cell(sensitivity):
    sensitivity.scroll_into_view_if_needed()
    picture = sensitivity.locator(".lab-chart img")
    old, alt = picture.get_attribute("src"), picture.get_attribute("alt")
    cells = sensitivity.locator(".lab-map button:not(.lab-chosen)")
    name = cells.nth(3).get_attribute("title").partition(":")[0]
    assert name not in alt
    cells.nth(3).click()
    sensitivity.locator(f'.lab-chart img[alt*="{name}"]').wait_for(timeout=120_000)
    assert picture.get_attribute("src") != old
    assert sensitivity.locator("button.lab-chosen").count() == 1
