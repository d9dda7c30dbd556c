"""Files changed at random: reading ends well, or in an error of ours, soon and in little memory.

Cases run in processes of their own (``program``), which the system holds to SECONDS of computing
and to MEMORY beyond what the libraries take. LLMKG_LAB_MUTATIONS says how many of each format
there are, LLMKG_LAB_MUTATIONS_FIRST the number of the first: a case depends on its number alone.
"""

import json
import os
import sys
import traceback
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from fuzz.formats import FORMATS

from llmkg_lab.base.bounded import Bounded, BoundsError

COUNT = int(os.environ.get("LLMKG_LAB_MUTATIONS", "2000"))
FIRST = int(os.environ.get("LLMKG_LAB_MUTATIONS_FIRST", "0"))
PROGRAM = Path(__file__).with_name("program.py")
SECONDS, MEMORY = 5, 500 << 20
SHOWN = 5  # broken cases of which more than their number is told
WORKERS = 2


class Cases:
    """The cases of one format, one after another in a process that goes on until one ends it."""

    def __init__(self, name: str, work: Path) -> None:
        self._name, self._work = name, work
        self._program = Bounded(PROGRAM, idle=60)
        self._memory = 0

    def run(self, numbers: range) -> tuple[Counter[str], list[str]]:
        """Return how many ended in each way, and what was said of those that are broken."""
        ended: Counter[str] = Counter()
        broken = []
        try:
            for number in numbers:
                outcome = self._outcome(number)
                ended[outcome["ended"]] += 1
                if outcome["ended"] == "broken":
                    broken.append(f"case {number}: {outcome['said']}")
        finally:
            self._program.close()
        return ended, broken

    def _outcome(self, number: int) -> dict[str, str]:
        try:
            if not self._memory:
                self._memory = self._ask(None, 60, 1 << 40)["memory"] + MEMORY
            return self._ask(number, SECONDS, self._memory)
        except BoundsError as error:
            self._memory = 0
            return {"ended": "broken", "said": f"{error}\n{traceback.format_exc()}"}

    def _ask(self, number: int | None, seconds: int, memory: int) -> dict:
        asked = {"format": self._name, "case": number, "work": str(self._work)}
        return json.loads(
            self._program.ask(json.dumps(asked).encode(), seconds=seconds, memory=memory)
        )


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """The cases of the formats that were asked for: running, two formats at a time."""
    names = [item.callspec.params["name"] for item in request.session.items if _is_ours(item)]
    work = tmp_path_factory.mktemp("fuzz")
    numbers = range(FIRST, FIRST + COUNT)
    with ThreadPoolExecutor(WORKERS) as pool:
        started: dict[str, Future] = {
            name: pool.submit(Cases(name, work / name).run, numbers) for name in names
        }
        yield started
        for future in started.values():
            future.cancel()


def _is_ours(item) -> bool:
    return item.path == Path(__file__) and "name" in getattr(item, "callspec", item).__dict__.get(
        "params", {}
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no other system bounds address space")
@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_end_well_or_in_an_error_of_ours(name, runs):
    ended, broken = runs[name].result()
    told = "\n\n".join(broken[:SHOWN])
    assert not broken, f"{len(broken)} of {COUNT} cases of {name}: {dict(ended)}\n{told}"
    assert ended["works"] > 0  # the changes are small enough to matter
    assert ended["refused"] > COUNT // 10
