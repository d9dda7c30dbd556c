"""A queue in which clients take turns: one with a hundred requests does not stop the others."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out for each client; of several clients, one item each in turn."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def put(self, client: str, item: T) -> None:
        """Add an item behind the client's others."""
        self._lanes.setdefault(client, deque()).append(item)

    def pop(self) -> T:
        """Take the next item; its client's turn comes again behind all others."""
        client, lane = self._lanes.popitem(last=False)
        item = lane.popleft()
        if lane:
            self._lanes[client] = lane
        return item

    def remove(self, client: str, item: T) -> bool:
        """Take an item out; whether it was there."""
        lane = self._lanes.get(client, deque())
        if item not in lane:
            return False
        lane.remove(item)
        if not lane:
            del self._lanes[client]
        return True
