"""The models that are served: opened when they are asked for, within a memory budget.

What was not used for longest makes room. A model that answers at the moment stays.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import psutil

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.machine import memory_limit
from llmkg_lab.serve.engine.models import KINDS, Card, Model
from llmkg_lab.serve.engine.scheduler import Observer
from llmkg_lab.serve.settings import Settings

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Model)


class UnknownModelError(LabError):
    """No model of this name is served."""


class WrongModelError(LabError):
    """The model does something else."""


class CrowdedError(LabError):
    """The memory is taken by models that answer at the moment."""


class ModelStore:
    """Models by id. For programs of asyncio; one loop alone.

    observe: what is told of a model's scheduler, by the model's id.
    """

    def __init__(self, settings: Settings, observe: Callable[[str], Observer]) -> None:
        self._settings, self._observe = settings, observe
        self.cards = {
            name: Card.of(name, Path(folder), settings.context) for name, folder in settings.models
        }
        self.aliases = dict(settings.aliases)
        self.budget = settings.memory or _half_of_memory()
        self._loaded: OrderedDict[str, Model] = OrderedDict()  # the oldest use first
        self._users: dict[str, int] = {}
        self._loading = asyncio.Lock()

    @property
    def loaded(self) -> dict[str, Model]:
        """The models in memory, by id."""
        return dict(self._loaded)

    def card(self, name: str) -> Card:
        """The card of a model. Raises UnknownModelError."""
        card = self.cards.get(self.aliases.get(name, name))
        if card is None:
            raise UnknownModelError(f"The model `{name}` does not exist")
        return card

    @contextlib.asynccontextmanager
    async def lease(self, name: str, kind: type[M]) -> AsyncIterator[M]:
        """A model for the time of a request; opened if it is not in memory.

        Raises UnknownModelError, WrongModelError, CrowdedError, and what opening raises.
        """
        card = self.card(name)
        if not issubclass(KINDS[card.task], kind):
            raise WrongModelError(f"{name} is a {card.task} model, and none that {kind.does}")
        model = self._loaded.get(card.id) or await self._load(card)
        assert isinstance(model, kind)
        self._loaded.move_to_end(card.id)
        self._users[card.id] = self._users.get(card.id, 0) + 1
        try:
            yield model
        finally:
            self._users[card.id] -= 1

    async def preload(self) -> None:
        """Open models in their order while there is room, so that nobody waits for them."""
        for card in self.cards.values():
            if self._taken() + card.nbytes > self.budget:
                break
            await self._load(card)

    async def close(self) -> None:
        """Unload everything; what still runs fails with StoppedError."""
        while self._loaded:
            _, model = self._loaded.popitem()
            await asyncio.to_thread(model.close)

    def _taken(self) -> int:
        return sum(model.nbytes for model in self._loaded.values())

    async def _load(self, card: Card) -> Model:
        async with self._loading:
            if card.id in self._loaded:  # somebody else asked first
                return self._loaded[card.id]
            await self._make_room(card)
            kind = KINDS[card.task]
            model = await asyncio.to_thread(kind, card, self._settings, self._observe(card.id))
            log.info("model loaded", extra={"model": card.id, "bytes": model.nbytes})
            self._loaded[card.id] = model
            if self._taken() > self.budget:  # by its caches, which the card does not know
                await self._make_room(card, keep=card.id)
            return model

    async def _make_room(self, card: Card, keep: str = "") -> None:
        needed = 0 if keep else card.nbytes
        while self._taken() + needed > self.budget:
            idle = (name for name in self._loaded if not self._users.get(name) and name != keep)
            name = next(idle, None)
            if name is None:
                if self._loaded.keys() - {keep} and not keep:
                    raise CrowdedError(f"no memory for {card.id}: other models are answering")
                return  # nothing to be had: alone, a model may take what it takes
            log.info("model unloaded", extra={"model": name})
            await asyncio.to_thread(self._loaded.pop(name).close)


def _half_of_memory() -> int:
    total = psutil.virtual_memory().total
    return min(total, memory_limit() or total) // 2
