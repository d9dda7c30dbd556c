"""What the tools work with: a knowledge graph, and the models that were converted here."""

from pathlib import Path
from typing import Self

from llmkg_lab.artifact import MANIFEST
from llmkg_lab.base import files
from llmkg_lab.base.errors import LabError
from llmkg_lab.knowledge.knowledge import Knowledge
from llmkg_lab.knowledge.models import Models, surprise_by
from llmkg_lab.knowledge.vectors import Embedder
from llmkg_lab.llmkg import LoadedModel, ModelLoader, ModelRegistry
from llmkg_lab.llmkg.artifacts import resolve
from llmkg_lab.llmkg.picks import Pick

FOLDER = "knowledge"  # within the outputs


class Desk:
    """The graph and the models of one server. Models are opened when they are first needed.

    Args:
        outputs: the folder with registry.json.
        folder: the graph's; by default ``knowledge`` within the outputs.
        embedder, writer: an id of the registry, or the path of an artifact; by default what the
            registry recommends. "none": go without.
        memory: bytes that loaded models may take.
    """

    def __init__(
        self,
        outputs: Path,
        folder: Path | None = None,
        embedder: str = "",
        writer: str = "",
        memory: int | None = None,
    ) -> None:
        self.registry = ModelRegistry(outputs)
        self.loader = ModelLoader(registry=self.registry, memory_budget=memory)
        picks = self.registry.get_recommended_models()
        self.embedder = _chosen(embedder, picks.best_embeddings)
        self.writer = _chosen(writer, picks.best_chat)
        models = Models(
            self._embedder(self.embedder) if self.embedder else None,
            surprise_by(lambda: self.load(self.writer).backend) if self.writer else None,
        )
        self.knowledge = Knowledge(folder or outputs / FOLDER, models)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Save the indices and unload the models."""
        self.knowledge.close()
        self.loader.close()

    def load(self, name: str | Path | None) -> LoadedModel:
        """A model by id, loaded if it is not yet. Raises LabError where there is none."""
        if not name:
            raise LabError("no model of this kind was converted here", "llmkg-lab run; or name one")
        return self.loader.load(name)

    def _embedder(self, name: str | Path) -> Embedder:
        """The embedder under a name that changes with its bytes."""
        target = resolve(self.registry, name, self.loader.loading_config)
        if target.entry is not None:
            digest = target.entry.manifest_sha256
        elif target.folder is not None:
            digest = files.sha256(target.folder / MANIFEST)
        else:
            raise LabError(f"{name} is not on this machine", "name an artifact that is")
        label = target.key.rsplit("/", 1)[-1]
        return Embedder(f"{label}@{digest[:12]}", lambda texts: self.load(name).embed(texts))


def _chosen(named: str, pick: Pick | None) -> str | Path | None:
    """What the user named, or what is recommended and here; a path is told by its manifest."""
    if named == "none":
        return None
    if named:
        return Path(named) if (Path(named) / MANIFEST).is_file() else named
    return pick.model.huggingface_id if pick is not None and pick.model.artifacts else None
