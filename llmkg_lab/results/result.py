"""The result of one variant: what was measured of each of its schemes, in result.json.

The report's last cell writes it, beside the artifacts. All that tells of measurements reads it
here: the registry, the batch, the explorer, recommendations.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from msgspec import UNSET, UnsetType

from llmkg_lab.artifact import Group, StoredScheme
from llmkg_lab.base import files, records
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.records import Count, Record, RecordError, Scalar, Size
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.results.verdict import Verdict

FORMAT = "llmkg-lab/result/1"
NAME = "result.json"
Protocol = dict[str, Scalar | list[Scalar]]
Conditions = dict[str, Scalar]


class ResultError(LabError):
    """A result that cannot be read or written."""


class Subject(Record, frozen=True):
    """The variant that was measured."""

    id: str
    title: str
    family: str


class Origin(Record, frozen=True):
    """Where its weights came from."""

    kind: str
    detail: str
    revision: str | None
    synthetic: bool
    fingerprint: str  # SHA-256 of the checkpoint's files


class SchemeResult(Record, frozen=True):
    """One artifact, and what was measured of it."""

    scheme: StoredScheme
    bytes: Count  # of the graph and its weights
    bits_per_weight: Size
    artifact: str  # its folder, relative to that of result.json
    groups: list[Group]
    quality: dict[str, Estimate]  # by metric
    protocol: Protocol  # on what the quality was measured
    speed: dict[str, Measurement]  # by metric
    conditions: Conditions  # on what machine, with what prompt, the speed was measured
    verdict: Verdict
    reasons: list[str]


class Result(Record, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """The content of result.json."""

    variant: Subject
    source: Origin
    environment: dict[str, str | int | None]  # the machine and the versions
    schemes: dict[str, SchemeResult]  # by name
    verdict: Verdict  # the worst
    quick: bool | UnsetType = UNSET  # a smoke run: its figures are far too few to judge by

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Read the result in a variant's folder, None where there is none.

        Raises ResultError where one is there and cannot be read.
        """
        path = folder / NAME
        try:
            result = records.parse(path.read_bytes(), cls)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ResultError(f"{path}: {error.strerror}") from None
        except RecordError as error:
            raise ResultError(f"{path}: {error}", "run the variant again") from None
        for name, scheme in result.schemes.items():
            if not files.is_inside(scheme.artifact):
                message = f"{path} names {scheme.artifact!r}, outside its folder"
                raise ResultError(f"{message}, at schemes.{name}.artifact", "run the variant again")
        return result

    def save(self, folder: Path) -> Path:
        """Write result.json into ``folder``, whole or not at all.

        Raises ResultError for a number that is not finite, by its key.
        """
        path = folder / NAME
        try:
            content = records.text(self)
        except RecordError as error:
            raise ResultError(f"{path} {error}") from None
        files.write(path, content)
        return path


def results(outputs: Path, variant: str = "*") -> Iterator[tuple[Path, Result]]:
    """Every result below an outputs folder that can be read, with its path.

    Half-written ones and those of another version have no say and are passed over.
    """
    for path in sorted(outputs.glob(f"*/{variant}/{NAME}")):
        try:
            result = Result.find(path.parent)
        except ResultError:
            continue
        if result:
            yield path, result
