"""Which models a server offers, and under what names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llmkg_lab.base.errors import LabError
from llmkg_lab.llmkg.picks import chosen
from llmkg_lab.results.registry import Registry

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
    """What held its limits, as LLMKG's loader names it: ``VARIANT:SCHEME``.

    Returns (id, folder) for each, and other names: the model's Hub id in the variant's place, and
    either without a scheme, for the artifact that is recommended. Raises LabError where there is
    no registry.
    """
    folders: dict[str, str] = {}  # of one artifact from several sources, the first counts
    others: dict[str, str] = {}
    for model in Registry.read(outputs).models.values():
        for entry in model.artifacts:
            folders.setdefault(f"{entry.variant}:{entry.scheme}", str(outputs / entry.path))
            hub = f"{model.huggingface_id}:{entry.scheme}"
            others.setdefault(hub, f"{entry.variant}:{entry.scheme}")
        for name in dict.fromkeys(entry.variant for entry in model.artifacts):
            if choice := chosen([entry for entry in model.artifacts if entry.variant == name]):
                best = f"{name}:{choice.entry.scheme}"
                others.setdefault(name, best)
                others.setdefault(model.huggingface_id, best)
    if not folders:
        raise LabError(f"{outputs} has no model that may be used", "make one with llmkg-lab run")
    return tuple(folders.items()), tuple((a, b) for a, b in others.items() if a not in folders)
