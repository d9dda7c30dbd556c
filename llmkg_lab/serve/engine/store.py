"""The models that are served, by name: opened when they are asked for, within a memory budget."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import psutil

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.machine import memory_limit
from llmkg_lab.llmkg import Loader, LoadingError, ModelRegistry
from llmkg_lab.llmkg.artifacts import Target
from llmkg_lab.llmkg.memory import of_artifact
from llmkg_lab.llmkg.pool import Use
from llmkg_lab.serve.engine.models import KINDS, Card, Model
from llmkg_lab.serve.engine.scheduler import Observer
from llmkg_lab.serve.settings import Settings

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Model)


class UnknownModelError(LabError):
    """No model of this name is served."""


class WrongModelError(LabError):
    """The model does something else."""


class ServingLoader(Loader[Model]):
    """LLMKG's loader, which opens models as a server runs them."""

    def __init__(
        self, settings: Settings, cards: dict[Path, Card], observe: Callable[[str], Observer]
    ) -> None:
        nothing = ModelRegistry(models=())  # all are opened by their folders
        super().__init__(registry=nothing, memory_budget=settings.memory or _half_of_memory())
        self._settings, self._cards, self._observe = settings, cards, observe

    def open(self, target: Target, artifact: Artifact, use: Use) -> Model:
        card = self._cards[artifact.folder]
        model = KINDS[card.task](card, self._settings, self._observe(card.id))
        log.info("model loaded", extra={"model": card.id, "bytes": model.memory_usage()})
        return model


class ModelStore:
    """Models by id, for programs of asyncio.

    observe: what is told of a model's scheduler, by the model's id.
    """

    def __init__(self, settings: Settings, observe: Callable[[str], Observer]) -> None:
        self.cards = {
            name: Card.of(name, Path(folder), settings.context) for name, folder in settings.models
        }
        for card in self.cards.values():
            if card.task not in KINDS:
                raise WrongModelError(f"{card.folder} is a {card.task} model, which is not served")
        self.aliases = dict(settings.aliases)
        folders = {card.folder.resolve(): card for card in self.cards.values()}
        self._loader = ServingLoader(settings, folders, observe)
        self._opened: dict[str, tuple[Model, Use]] = {}  # some may have been closed since

    @property
    def loaded(self) -> dict[str, Model]:
        """The models in memory, by id."""
        return {name: model for name, (model, use) in self._opened.items() if not use.is_over}

    def card(self, name: str) -> Card:
        """The card of a model. Raises UnknownModelError."""
        card = self.cards.get(self.aliases.get(name, name))
        if card is None:
            raise UnknownModelError(f"The model `{name}` does not exist")
        return card

    @contextlib.asynccontextmanager
    async def lease(self, name: str, kind: type[M]) -> AsyncIterator[M]:
        """A model for the time of a request; opened if it is not in memory.

        Raises UnknownModelError, WrongModelError, MemoryBudgetError, and what opening raises.
        """
        card = self.card(name)
        if not issubclass(KINDS[card.task], kind):
            raise WrongModelError(f"{name} is a {card.task} model, and none that {kind.does}")
        model, use = await self._used(card)
        assert isinstance(model, kind)
        try:
            yield model
        finally:
            use.__exit__()

    async def preload(self) -> None:
        """Open models in their order while there is room, so that nobody waits for them."""
        budget = self._loader.memory_budget or 0
        for card in self.cards.values():
            expected = of_artifact(Artifact.open(card.folder), None).nbytes
            if self._opened and self._loader.loaded_bytes() + expected > budget:
                break
            await self._open(card)

    async def close(self) -> None:
        """Unload everything; what still runs fails with StoppedError."""
        opened, self._opened = self._opened, {}
        for model, use in opened.values():
            if not use.is_over:
                await asyncio.to_thread(model.close)
        await asyncio.to_thread(self._loader.close)

    async def _used(self, card: Card) -> tuple[Model, Use]:
        """The model, in use from now on."""
        while True:
            model, use = self._opened.get(card.id) or await self._open(card)
            try:
                return model, use.__enter__()
            except LoadingError:  # it was unloaded for another one
                self._opened.pop(card.id, None)

    async def _open(self, card: Card) -> tuple[Model, Use]:
        opened = await asyncio.to_thread(self._loader.get, card.folder.resolve())
        self._opened[card.id] = opened
        return opened


def _half_of_memory() -> int:
    total = psutil.virtual_memory().total
    return min(total, memory_limit() or total) // 2
