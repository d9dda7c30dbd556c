"""What programs registered and unregistered: one small file in the outputs folder.

Readers take no lock: a file is replaced whole, so that they see the old one or the new one.
Writers take turns across threads and processes, and each reads the file again before it writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmkg_lab.base import files, records
from llmkg_lab.base.records import Record, RecordError
from llmkg_lab.llmkg.metadata import ModelMetadata
from llmkg_lab.results.registry import RegistryError

FORMAT = "llmkg-lab/registered/1"
NAME = "registered.json"


class Registered(Record, frozen=True, tag_field="format", tag=FORMAT):
    """The content of registered.json: models that were added, ids that were taken away."""

    models: dict[str, ModelMetadata]
    removed: list[str]

    def register(self, model: ModelMetadata) -> "Registered":
        """The same with one more model, in the place of another of its id."""
        name = model.huggingface_id
        return Registered(self.models | {name: model}, [id for id in self.removed if id != name])

    def unregister(self, name: str, is_known: bool) -> "Registered":
        """The same without a model; ``is_known``: it has to be taken from the roster's, too."""
        kept = {id: model for id, model in self.models.items() if id != name}
        removed = dict.fromkeys([*self.removed, name] if is_known else self.removed)
        return Registered(kept, list(removed))


def read(outputs: Path) -> Registered:
    """Read the file; an empty one where there is none. Raises RegistryError on a broken one."""
    path = outputs / NAME
    try:
        return records.parse(path.read_bytes(), Registered)
    except FileNotFoundError:
        return Registered({}, [])
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}") from None
    except RecordError as error:
        raise RegistryError(f"{path}: {error}", "remove it and register anew") from None


@contextmanager
def changing(outputs: Path) -> Iterator[list[Registered]]:
    """Give what is stored, in a list; what the block puts in its place is written.

    Raises RegistryError where the folder takes no file.
    """
    try:
        with files.locked(outputs / f".{NAME}.lock"):
            held = [read(outputs)]
            before = held[0]
            yield held
            if held[0] != before:
                files.write(outputs / NAME, records.text(held[0]))
    except OSError as error:
        raise RegistryError(f"{outputs} takes no {NAME}: {error.strerror}") from error
