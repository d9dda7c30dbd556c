"""Progress: the arithmetic of time left, steps that do not mix, and the bar in its three places."""

import itertools
import os
import re
import subprocess
import sys
import threading
import time

import nbformat
import pytest
from nbclient import NotebookClient
from support.terminal import on_a_terminal, without_escapes

from llmkg_lab.base.progress import (
    Counter,
    Pace,
    Snapshot,
    Step,
    clock,
    inside,
    seconds_left,
    track,
)


def pace_of(*moments, unit="layers", total=30):
    """The pace of a step whose units were done at ``moments`` (seconds, units in all)."""
    pace = Pace(Step("work", unit, 0, total), 0.0)
    for now, done in moments:
        pace.reach(Step("work", unit, done, total), now)
    return pace


def test_a_step_says_what_it_is_and_how_far():
    step = Step("calibration", "layers", 12, 30, within=("int4-gptq",))
    assert str(step) == "int4-gptq · calibration: 12 of 30 layers"
    assert str(Step("writing", "bytes", 4_100_000, 98_000_000)) == "writing: 4.1 of 98.0 MB"
    assert str(Step("writing", "bytes", 98_000_000, 98_000_000)) == "writing: 98.0 MB"
    assert str(Step("reading", "bytes", 700, 1_500)) == "reading: 0.7 of 1.5 kB"
    assert str(Step("opening")) == "opening"


def test_steps_of_parts_keep_their_names_apart():
    seen = []
    progress = inside(inside(seen.append, "report"), "int8")
    for _ in track("ab", progress, "scoring", "windows"):
        list(track("xyz", inside(progress, "window"), "rows", "rows"))
    titles = [step.title for step in seen if step.done == step.total]
    inner = "report · int8 · window · rows"
    assert titles == [inner, inner, "report · int8 · scoring"]
    assert [step.done for step in seen if step.name == "scoring"] == [0, 1, 2]


def test_what_progress_raises_stops_the_loop():
    done = []

    def stop(step):
        if step.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done.extend(track(range(10), stop, "counting", "numbers"))
    assert done == [0, 1, 2]


def test_of_nothing_nothing_is_told():
    seen = []
    assert list(track([], seen.append, "counting", "numbers")) == []
    assert seen == []


def test_a_counter_never_goes_back_and_loses_nothing_between_threads():
    seen = []
    counter = Counter(seen.append, "download", "bytes", 4_000)
    threads = [
        threading.Thread(target=lambda: [counter.advance() for _ in range(1_000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counter.reach(2_000)
    counter.finish()
    assert [step.done for step in seen] == list(range(4_001))


def test_the_time_left_is_of_the_step_at_hand():
    pace = pace_of((2.0, 1), (4.0, 2), (6.0, 3))
    assert pace.each == pytest.approx(2)
    assert pace.left(6.0) == pytest.approx(54)
    assert pace.left(7.5) == pytest.approx(52.5)  # a layer and a half of a second less
    assert pace.left(600.0) == pytest.approx(52)  # however long it takes, 26 are to come
    assert pace.rate == "2.0 s each"
    assert pace_of((0.1, 1_000_000), unit="bytes", total=10**8).rate == "10.0 MB/s"
    assert Pace(Step("work", "layers", 0, 30), 0.0).left(9.0) is None  # nothing is known yet
    assert Pace(Step("opening"), 0.0).left(9.0) is None


def test_layers_from_the_cache_tell_nothing_of_those_to_come():
    cached = [(i / 100, i) for i in range(1, 21)]  # twenty at once
    pace = pace_of(*cached, (4.2, 21))
    assert pace.left(4.2) == pytest.approx(9 * 4, rel=0.01)
    pace = pace_of(*cached, (4.2, 21), (8.2, 22), (12.2, 23))
    assert pace.left(12.2) == pytest.approx(7 * 4, rel=0.01)


def test_the_same_step_anew_is_another():
    pace = pace_of((1.0, 5))
    assert pace.is_of(Step("work", "layers", 6, 30))
    assert not pace.is_of(Step("work", "layers", 0, 30))
    assert not pace.is_of(Step("work", "layers", 6, 31))
    assert not pace.is_of(Step("work", "layers", 6, 30, within=("int8",)))


def test_another_process_reads_the_same_time_left(tmp_path):
    pace = Pace(Step("work", "layers", 0, 30), time.monotonic() - 10)
    pace.reach(Step("work", "layers", 5, 30), time.monotonic())
    path = tmp_path / "progress.json"
    assert Snapshot.load(path) is None
    path.write_text(Snapshot.of(pace).to_json()[:-9])
    assert Snapshot.load(path) is None
    path.write_text(Snapshot.of(pace).to_json())
    read = Snapshot.load(path)
    assert read.step == "work: 5 of 30 layers"
    assert read.left(time.time()) == pytest.approx(50, abs=0.2)
    assert seconds_left(2.0, 25, since=1000) == 48
    assert Snapshot.of(Pace(Step("opening"), 0.0)).left(time.time()) is None


def test_the_clock():
    assert [clock(seconds) for seconds in (6.6, 750, 3723)] == ["0:07", "12:30", "1:02:03"]


WORK = """
import time
from llmkg_lab.base import bar
from llmkg_lab.base.progress import inside, track
bar.LONG = 0.4
with bar.Bar() as progress:
    for _ in track(range(40), inside(progress, "int4-gptq"), "calibration", "layers"):
        time.sleep(0.02)
    for _ in track(range(5), inside(progress, "int4-gptq"), "writing", "bytes"):
        pass
print(sorted(progress.took))
"""


def run(code, **streams):
    return subprocess.Popen([sys.executable, "-c", code], text=True, **streams)


@pytest.mark.slow
def test_a_log_gets_a_line_at_the_start_and_one_at_the_end_of_a_long_step():
    process = run(WORK, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == "['calibration', 'writing']\n"
    start, end = stderr.splitlines()
    pattern = r"int4-gptq · calibration: \d+ of 40 layers …, [\d.]+ layers/s, 0:0[01] left"
    assert re.fullmatch(pattern, start)
    assert re.fullmatch(r"int4-gptq · calibration: 40 layers in 0:01", end)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_gets_one_line_that_goes(columns):
    drawn, stdout = on_a_terminal([sys.executable, "-c", WORK], columns)
    assert stdout == "['calibration', 'writing']\n"
    plain = without_escapes(drawn)
    assert re.search(r"int4-gptq · calibration .* of 40 layers, [\d.]+ layers/s, 0:00 left", plain)
    assert "\n" not in plain  # drawn over and over in one place, not line after line
    assert drawn.endswith("\r\x1b[2K\x1b[?25h\r")  # and wiped


@pytest.mark.slow
def test_a_notebook_keeps_one_output_a_cell_with_the_last_state_of_each_step():
    cells = [
        "from llmkg_lab.base.bar import Bar\n"
        "from llmkg_lab.base.progress import inside, track\n"
        "progress = Bar()",
        "for name in ('int8', 'int4'):\n"
        "    for _ in track(range(500), inside(progress, name), 'writing', 'bytes'): pass",
        "for _ in track(range(3), progress, 'scoring', 'windows'): pass",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [[output["data"]["text/plain"] for output in cell.outputs] for cell in notebook.cells]
    converted = "int8 · writing: 500 bytes in 0:00\nint4 · writing: 500 bytes in 0:00"
    assert outputs == [[], [converted], ["scoring: 3 windows in 0:00"]]


@pytest.mark.slow
def test_a_watched_process_tells_its_step_in_a_file_at_most_twice_a_second(tmp_path):
    path = tmp_path / "progress.json"
    code = WORK.replace("time.sleep(0.02)", "time.sleep(0.05)").replace("range(5)", "range(2000)")
    environment = {**os.environ, "LLMKG_LAB_PROGRESS": str(path)}
    process = run(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    seen = {}
    while process.poll() is None:
        if (snapshot := Snapshot.load(path)) and snapshot.step not in seen:
            seen[snapshot.step] = time.monotonic(), snapshot.left(time.time())
        time.sleep(0.01)
    process.communicate()
    times = [at for at, _ in seen.values()]
    assert 3 <= len(seen) <= 6
    assert all(later - earlier > 0.4 for earlier, later in itertools.pairwise(times))
    known = [left for _, left in seen.values() if left is not None]
    assert 0.5 < known[0] < 2.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step("speed", "processes", 1, 1), "1 process"),
        (Step("speed", "processes", 1, 3), "1 of 3 processes"),
        (Step("reading", "windows", 1, 1), "1 window"),
        (Step("reading", "bytes", 1000, 1000), "1.0 kB"),
    ],
)
def test_one_is_told_in_the_singular(step, text):
    assert step.amount == text
