"""The JSON Schemas of the files for programs: ``python -m llmkg_lab.results.schemas FOLDER``.

They are made from the types by which the same files are read here; docs/reference holds them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from llmkg_lab.artifact import Manifest
from llmkg_lab.base.records import Record
from llmkg_lab.results.registry import Registry
from llmkg_lab.results.result import Result

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES: dict[str, type[Record]] = {"manifest": Manifest, "result": Result, "registry": Registry}


def schema(form: type[Record]) -> dict[str, Any]:
    """The JSON Schema of a file."""
    return {"$schema": DIALECT, **msgspec.json.schema(form)}


def write(folder: Path) -> None:
    """Write all schemas into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, form in FILES.items():
        content = json.dumps(schema(form), indent=2, ensure_ascii=False) + "\n"
        (folder / f"{name}.schema.json").write_text(content)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
