"""One case after another: a program of ``base.bounded``, which holds each to time and memory.

A request is JSON: the format, the number of the case, a folder to work in. The answer is JSON: how
it ended (works, refused, or broken) and what was said. A case depends on its number alone.
"""

import json
import os
import shutil
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.formats import FORMATS

from llmkg_lab.base.errors import LabError

KEPT = 500  # entries of the cache
IN, OUT, TEMPORARY, CACHE = "in", "out", "tmp", "cache"


def answer(request: bytes) -> bytes:
    """Run a case. The answer to the case None is how much address space this process has."""
    asked = json.loads(request)
    name, work = asked["format"], Path(asked["work"])
    os.environ |= {"TMPDIR": str(work / TEMPORARY), "LLMKG_LAB_CACHE": str(work / CACHE)}
    tempfile.tempdir = None
    if asked["case"] is None:
        _prepared(name, work)
        return json.dumps({"memory": _address_space()}).encode()
    ended, said = _run(name, asked["case"], work)
    left = _left(name, work)
    if left:
        ended, said = "broken", f"left behind: {left}\n{said}"
    return json.dumps({"ended": ended, "said": said}).encode()


def _run(name: str, case: int, work: Path) -> tuple[str, str]:
    form, files = FORMATS[name], _prepared(name, work)
    chance = Random(f"{name}:{case}")
    changed = chance.choice(form.mutated)
    path = work / IN / changed
    path.write_bytes(form.mutate(chance, changed, files[changed]))
    try:
        form.use(work / IN, work / OUT, chance)
    except LabError as error:
        return "refused", str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "broken", f"{changed}: {traceback.format_exc()}"
    finally:
        path.write_bytes(files[changed])
    shutil.rmtree(work / OUT, ignore_errors=True)
    return "works", ""


@cache
def _prepared(name: str, work: Path) -> dict[str, bytes]:
    """Make the folder with whole files; the contents by name."""
    for folder in (IN, OUT, TEMPORARY):
        shutil.rmtree(work / folder, ignore_errors=True)
    for folder in (IN, TEMPORARY):
        (work / folder).mkdir(parents=True)
    FORMATS[name].make(work / IN)
    FORMATS[name].use(work / IN, work / OUT, Random(0))  # whole files work; what is lazy is loaded
    shutil.rmtree(work / OUT, ignore_errors=True)
    return {
        path.relative_to(work / IN).as_posix(): path.read_bytes()
        for path in (work / IN).rglob("*")
        if path.is_file()
    }


def _left(name: str, work: Path) -> list[str]:
    """What a case should not have left; it is removed."""
    whole = {work / IN / path for path in _prepared(name, work)}
    left = [path for path in (work / IN).rglob("*") if path.is_file() and path not in whole]
    left += [path for path in work.iterdir() if path.name not in (IN, TEMPORARY, CACHE)]
    left += list((work / TEMPORARY).iterdir())
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if len(list((work / CACHE).glob("*/*"))) > KEPT:
        shutil.rmtree(work / CACHE)
    return [path.relative_to(work).as_posix() for path in left]


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")
