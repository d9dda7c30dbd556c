"""The batch: the notebooks of many variants, checked beforehand, run, and summed up.

Snakemake runs them, each by papermill in a process of its own: it decides what has to run,
keeps going when a variant fails, and resumes what was interrupted.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import yaml

from llmkg_lab.artifact import Artifact, ArtifactError
from llmkg_lab.base import files
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.nearest import nearest
from llmkg_lab.batch import notebook, workflow
from llmkg_lab.batch.states import RunState
from llmkg_lab.results import registry
from llmkg_lab.results.result import Result, ResultError
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster import catalog
from llmkg_lab.roster.catalog import Variant
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import SOURCES

PACKAGE = Path(__file__).parents[1]
# What a report depends on: the rooms and modules that notebooks import, and what executes them.
# A report is stale when any of them was edited. A test compares the list with the imports.
BEHIND_REPORTS = (
    *("artifact.py", "scheme.py", "base", "browser", "checkpoint", "data", "graph", "measure"),
    *("models", "presets", "quantize", "reference", "report", "roster", "sources"),
    *("batch/execute.py", "batch/notebook.py"),
    *("conversion/encoder_table.py", "conversion/folder.py", "conversion/genai.py"),
    *("conversion/own_text.py", "conversion/stored_tensors.py", "conversion/tensor_table.py"),
    *("conversion/to_onnx.py", "conversion/to_web.py", "conversion/web_graph.py"),
    *("results/choice.py", "results/collect.py", "results/result.py", "results/verdict.py"),
    *("runtime/text/chat.py", "runtime/text/cleanup.py", "runtime/text/cutting.py"),
    *("runtime/text/sampling.py", "runtime/text/tokenizer.py"),
    *("runtime/ort/batch_decoder.py", "runtime/ort/decoder.py", "runtime/ort/encoder.py"),
    "runtime/ort/ranker.py",
    *("runtime/ort/packed.py", "runtime/ort/packed_cache.py", "runtime/ort/segments.py"),
    *("runtime/ort/session.py", "runtime/sequence.py"),
)
FREE = "free some space there, or choose another --out"
OWN_OPTIONS = {"variant": "name it", "out": "--out", "schemes": "--scheme", "source": "--source"}


class BatchError(LabError):
    """A batch that cannot be run as asked."""


@dataclass(frozen=True)
class Job:
    """One variant's notebook and the folder that its report goes to."""

    variant: Variant
    template: Path
    outputs: Path
    name: str  # the report's folder relative to the outputs
    parameters: Mapping[str, object]

    @property
    def folder(self) -> Path:
        """Where the report lies."""
        return self.outputs / self.name

    @property
    def work(self) -> Path:
        """Where it is made."""
        return self.outputs / notebook.WORK / self.name


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its result, or the failure that left it without one."""

    job: Job
    state: RunState
    result: Result | None = None
    failure: notebook.Failure | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of the schemes' verdicts; FAIL where there is none."""
        return self.result.verdict if self.result else Verdict.FAIL


def select(
    names: Sequence[str] = (),
    family: str | None = None,
    tier: int | None = None,
    everything: bool = False,
) -> list[Variant]:
    """The variants with these names, and those of a family, a tier, or both.

    Raises CatalogError or BatchError where a name or family is unknown or nothing is chosen.
    """
    roster = catalog.roster()
    if family and family not in (families := {v.family for v in roster.values()}):
        raise BatchError(f"unknown family {family!r}", nearest(family, families))
    chosen = {name: catalog.find_variant(name) for name in names}
    if everything or family or tier:
        chosen |= {
            name: variant
            for name, variant in roster.items()
            if family in (None, variant.family) and tier in (None, variant.tier)
        }
    if not chosen:
        raise BatchError("no variant is chosen", "name some of `llmkg-lab list`, or give --all")
    return list(chosen.values())


def parse_settings(pairs: Sequence[str]) -> dict[str, object]:
    """``key=value`` pairs, each value typed as YAML: 3, true, [small, int8], text."""
    parsed = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise BatchError(f"--set {pair}: there is no value", "write KEY=VALUE")
        try:
            parsed[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BatchError(f"--set {pair}: the value is not YAML: {error}") from error
    return parsed


def plan(
    variants: Sequence[Variant],
    outputs: Path,
    schemes: Sequence[str] = (),
    source: str = "",
    settings: Mapping[str, object] | None = None,
) -> list[Job]:
    """The jobs for ``variants``, checked before anything runs; nothing is written.

    settings: further parameters of the notebooks.
    Raises SchemeError, BatchError, or NotebookError where a notebook lacks a parameter.
    """
    settings = dict(settings or {})
    for name in settings:
        if name in OWN_OPTIONS:
            raise BatchError(f"{name} is not set this way", f"use: {OWN_OPTIONS[name]}")
    asked = [scheme.name for scheme in Scheme.parse_all(schemes)]
    shared = {
        "source": str(Path(source).resolve()) if source and Path(source).exists() else source,
        "quick": False,
        **settings,
    }
    jobs = []
    for variant in variants:
        apart = apart_of(str(shared["source"]), shared["quick"])
        name = "/".join([*apart, variant.family, variant.id])
        folder = outputs.resolve() / name
        parameters = {
            "variant": variant.id,
            "out": str(folder),
            "schemes": _schemes(folder, asked, variant, shared["quick"]),
            **shared,
        }
        template = notebook.template(variant.family)
        jobs.append(Job(variant, template, outputs.resolve(), name, parameters))
    for template in {job.template for job in jobs}:
        notebook.check_parameters(template, ["variant", "out", "schemes", *shared])
    return jobs


def apart_of(source: str, quick: object) -> tuple[str, ...]:
    """The folders between the outputs and a family's, of reports that do not compare with others.

    They are ``quick`` for smoke runs, and a name for each source that was asked for: ``synthetic``,
    ``hub``, ``package``, or of a path its last part and a hash of the whole.
    """
    name = source.removesuffix(":full").replace(":", "-")  # synthetic, synthetic-reduced
    if source and source.partition(":")[0] not in SOURCES:
        digest = hashlib.sha256(source.encode()).hexdigest()[:8]
        name = f"{Path(source).name}-{digest}"
    return (*(["quick"] if quick is not False else []), *([name] if name else []))


def apart(outputs: Path, variant: Variant) -> dict[str, Verdict | RunState]:
    """How the runs of a variant's other reports ended, by the folder that they lie apart in."""
    name = f"{variant.family}/{variant.id}"
    found = sorted({*outputs.glob(f"*/{name}"), *outputs.glob(f"quick/*/{name}")})
    states = {path: last_state(path) for path in found}
    return {
        path.relative_to(outputs).parents[1].as_posix(): state
        for path, state in states.items()
        if state is not RunState.NOT_RUN
    }


def _schemes(folder: Path, asked: Sequence[str], variant: Variant, quick: object) -> list[str]:
    """What a report is to hold: what it held, and what is asked for, by default the variant's own.

    A smoke run leaves the variant's calibrated schemes out: they take minutes.
    """
    own = [s for s in variant.schemes if quick is False or not variant.scheme(s).calibrates]
    try:
        earlier = Result.find(folder)
    except ResultError:
        earlier = None
    held = [entry.scheme.asked for entry in earlier.schemes.values()] if earlier else []
    return list(dict.fromkeys([*held, *(asked or own)]))


def run(
    jobs: Sequence[Job],
    outputs: Path,
    *,
    force: bool = False,
    parallel: int = 1,
    follow: Callable[[], object] = lambda: None,
) -> list[Outcome]:
    """Run what is not done yet, ``parallel`` notebooks at a time, and refresh the registry.

    force: run what is done already, too.
    follow: called twice a second while the batch runs.
    Raises WorkflowError where ``outputs`` cannot be used, BatchError where Snakemake itself
    failed. On Ctrl-C all children are ended and KeyboardInterrupt goes on; the next run takes
    up what is missing.
    """
    names = {job.name: job.template for job in jobs}
    code = _code_hash()
    with workflow.locked(outputs) as lock:
        for job in jobs:
            _write_plan(job, code)
        before = {job.name: stamps(job) for job in jobs}
        forced = [job.name for job in jobs if force or not _is_whole(job)]
        try:
            whole = workflow.run(
                names, outputs, forced=forced, parallel=parallel, lock=lock, follow=follow
            )
        finally:  # reports that were finished count, however the batch ended
            _save_registry(outputs)
    outcomes = [_outcome(job, before[job.name], outputs) for job in jobs]
    if not whole and all(outcome.result for outcome in outcomes):
        raise BatchError("Snakemake failed beside the notebooks", f"see {outputs / workflow.LOG}")
    return outcomes


def _save_registry(outputs: Path) -> None:
    try:
        registry.build(outputs)[0].save(outputs)
    except OSError as error:
        raise BatchError(f"{outputs / registry.NAME}: {error.strerror}", FREE) from error


def stamps(job: Job) -> dict[str, int | None]:
    """When a job's notebooks were last written, by file name; None where there is none."""
    return {
        notebook.RUNNING: _stamp(job.work / notebook.RUNNING),
        notebook.FAILED: _stamp(job.folder / notebook.FAILED),
        notebook.REPORT: _stamp(job.folder / notebook.REPORT),
    }


def last_state(folder: Path) -> Verdict | RunState:
    """How a variant's last run ended: the verdict where it came to one, else its state."""
    try:
        if result := Result.find(folder):
            return result.verdict
    except ResultError:
        return RunState.UNREADABLE
    return RunState.FAILED if (folder / notebook.FAILED).exists() else RunState.NOT_RUN


def as_json(outcome: Outcome) -> dict:
    """An outcome for a program."""
    schemes = msgspec.to_builtins(outcome.result.schemes) if outcome.result else {}
    shown = ("artifact", "bytes", "bits_per_weight", "quality", "speed", "verdict", "reasons")
    return {
        "variant": outcome.job.variant.id,
        "family": outcome.job.variant.family,
        "folder": str(outcome.job.folder),
        "state": outcome.state,
        "verdict": outcome.verdict,
        "schemes": {name: {key: entry[key] for key in shown} for name, entry in schemes.items()},
        "failure": asdict(outcome.failure) if outcome.failure else None,
    }


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _code_hash() -> str:
    """Return the SHA-256 of the code that reports depend on."""
    digest = hashlib.sha256()
    for path in _code_behind_reports():
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _code_behind_reports() -> list[Path]:
    """Return the files of BEHIND_REPORTS, and of the packages that they are in."""
    files = set()
    for place in map(PACKAGE.joinpath, BEHIND_REPORTS):
        files |= {path for path in place.rglob("*") if path.suffix in (".py", ".yaml")}
        files |= {place} if place.is_file() else set()
        inside = place.relative_to(PACKAGE).parents
        files |= {PACKAGE / folder / "__init__.py" for folder in inside}
    return sorted(files)


def _write_plan(job: Job, code: str) -> None:
    """Write run.yaml where it changed, and clear what a killed run left to be followed."""
    what = {"parameters": dict(job.parameters), "variant": asdict(job.variant), "code": code}
    content = yaml.safe_dump(what, sort_keys=False)
    path = job.work / notebook.PLAN
    try:
        job.work.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != content:
            files.write(path, content)
        for name in (notebook.RUNNING, notebook.PROGRESS):
            (job.work / name).unlink(missing_ok=True)
    except OSError as error:
        raise BatchError(f"{path}: {error.strerror}", FREE) from error


def _is_whole(job: Job) -> bool:
    """Whether the report is there, its artifacts and its stamp.

    Snakemake knows of the stamp alone, and misses none while the registry is newer than all else:
    a run that was killed as it made a report again leaves the old report without one.
    """
    needed = [job.folder / notebook.REPORT, job.folder / "report.html", job.work / notebook.DONE]
    if not all(path.is_file() for path in needed):
        return False
    try:
        result = Result.find(job.folder)
        for scheme in result.schemes.values() if result else ():
            Artifact.open(job.folder / scheme.artifact)
    except (ResultError, ArtifactError):
        return False
    return result is not None


def _outcome(job: Job, before: Mapping[str, int | None], outputs: Path) -> Outcome:
    now = stamps(job)
    if now[notebook.FAILED] and now[notebook.FAILED] != before[notebook.FAILED]:
        failure = notebook.failure(job.folder / notebook.FAILED)
        return Outcome(job, RunState.FAILED, None, failure)
    try:
        result = Result.find(job.folder)
    except ResultError as error:
        return Outcome(job, RunState.UNREADABLE, None, notebook.Failure(0, "", error.message))
    if result and (job.work / notebook.DONE).exists():
        same = now[notebook.REPORT] == before[notebook.REPORT]
        return Outcome(job, RunState.UP_TO_DATE if same else RunState.DONE, result)
    return Outcome(job, RunState.NOT_RUN, None, _no_end(job, outputs / workflow.LOG))


def _no_end(job: Job, log: Path) -> notebook.Failure:
    """Say of a run that came to no end whether it began: of one that is killed, that much is left.

    What ends otherwise, by Ctrl-C too, leaves no running notebook.
    """
    run = notebook.run_of(job.work / notebook.RUNNING)
    if run is None:
        return notebook.Failure(0, "", f"it did not run: see {log}")
    error = f"its process was killed, perhaps because memory was short: see {log}"
    return notebook.Failure(run.at + 1, run.step, error)
