"""Which files of a folder hold the weights: a single one, or shards named by an index."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from llmkg_lab.base.files import is_beside
from llmkg_lab.checkpoint.base import CheckpointError, read_json

T = TypeVar("T")


def found_in(folder: Path, single: str) -> bool:
    """Whether the weights are there as the file ``single`` or its shards."""
    return (folder / single).exists() or _index(folder, single).exists()


def read_all(
    folder: Path, single: str, read: Callable[[Path], Mapping[str, T]]
) -> tuple[dict[str, T], list[Path]]:
    """``read`` applied to every weight file: what it found by the stored name, and the files.

    Raises CheckpointError where the index and the shards disagree.
    """
    files = _files(folder, single)
    found: dict[str, T] = {}
    for path, promised in files.items():
        tensors = read(path)
        if missing := [name for name in promised if name not in tensors]:
            raise CheckpointError(
                f"{path} lacks the tensor {missing[0]}, which its index names", "fetch both again"
            )
        for name, tensor in tensors.items():
            if name in found:
                raise CheckpointError(f"{path} holds the tensor {name} a second time")
            found[name] = tensor
    return found, list(files)


def _files(folder: Path, single: str) -> dict[Path, list[str]]:
    """The weight files, each with the tensors that the index promises of it."""
    if (folder / single).exists():
        return {folder / single: []}
    index = _index(folder, single)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map", "fetch it again")
    files: dict[Path, list[str]] = {}
    for name, shard in sorted(weight_map.items(), key=lambda item: str(item[1])):
        # A hostile index may point anywhere. Where a shard is a link, as in the Hub's cache, it
        # is the folder's maker who points, and he may.
        if not is_beside(shard):
            raise CheckpointError(f"{index} names {shard!r}, which is not a file beside it")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder} lacks the shard {shard}", "fetch it again")
        files.setdefault(folder / shard, []).append(name)
    return files


def _index(folder: Path, single: str) -> Path:
    return folder / f"{single}.index.json"
