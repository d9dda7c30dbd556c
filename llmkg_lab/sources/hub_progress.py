"""The Hub client's downloads on our own channel: the client knows of progress bars alone."""

from typing import Any

from huggingface_hub.utils import tqdm

from llmkg_lab.base.progress import Counter


class Silenced(tqdm):
    """A progress bar of the client that draws nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def bars_of(download: Counter) -> type[Silenced]:
    """Return the class of bars to hand to the client, which tell ``download`` the bytes that came.

    The client has two bars for the same bytes, received and written: the farther one counts.
    """

    class Told(Silenced):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._counts_bytes = kwargs.get("unit") == "B"

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0  # below zero where a cut transfer starts anew
            if self._counts_bytes:
                download.reach(min(int(self.n), download.step.total))

    return Told
