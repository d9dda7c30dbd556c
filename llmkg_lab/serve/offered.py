"""Which models a server offers, and under what names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llmkg_lab.base.errors import LabError
from llmkg_lab.results.registry import Entry, Registry
from llmkg_lab.results.verdict import Verdict

Names = tuple[tuple[str, str], ...]  # (a name, a folder or another name)


def of_folders(given: Sequence[str]) -> tuple[Names, Names]:
    """Models of ``FOLDER`` or ``NAME=FOLDER``; a folder's name is its own and its parent's.

    Returns (id, folder) for each, and no other names. Raises LabError where two have one name.
    """
    models = []
    for entry in given:
        name, equals, folder = entry.partition("=")
        path = Path(folder if equals else entry)
        models.append((name if equals else "/".join(path.resolve().parts[-2:]), str(path)))
    for name, count in Counter(name for name, _ in models).items():
        if count > 1:
            raise LabError(f"two models are named {name}", "give names, as in NAME=FOLDER")
    return tuple(models), ()


def of_registry(outputs: Path) -> tuple[Names, Names]:
    """What held its limits, as ``VARIANT/SCHEME``.

    Returns (id, folder) for each, and other names: a variant, or a model's Hub id, is the
    artifact that is recommended of it. Raises LabError where there is no registry.
    """
    models, aliases = [], []
    for model in Registry.read(outputs).models.values():
        if not model.artifacts:
            continue
        entries = sorted(model.artifacts, key=_goodness)
        models += [(_name(entry), str(outputs / entry.path)) for entry in entries]
        names = {entry.variant: None for entry in entries} | {model.huggingface_id: None}
        for name in names:
            best = next((e for e in entries if e.variant == name), entries[0])
            aliases.append((name, _name(best)))
    taken = dict(models)  # of one artifact from several sources, the first counts
    return tuple(taken.items()), tuple((a, b) for a, b in aliases if a not in taken)


def _name(entry: Entry) -> str:
    return f"{entry.variant}/{entry.scheme}"


def _goodness(entry: Entry) -> tuple[int, int]:
    """As results.choice has it: what reaches its targets first, then the smaller."""
    return -list(Verdict).index(entry.verdict), entry.bytes
