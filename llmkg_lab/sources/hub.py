"""The Hugging Face Hub, through its own client."""

from pathlib import Path

from llmkg_lab.catalog import SourceSpec
from llmkg_lab.sources.base import Fetched, Progress, UnavailableError, source

PATTERNS = ["*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja"]


@source("hub")
class HubSource:
    """A repository on the Hub, in the client's own cache."""

    def missing(self, spec: SourceSpec, cache: Path | None) -> str:
        from huggingface_hub import HfApi

        try:
            HfApi().model_info(spec.options["repo"], timeout=4)
        except Exception as error:
            return str(error)
        return ""

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress | None) -> Fetched:
        from huggingface_hub import snapshot_download

        repo, revision = spec.options["repo"], spec.options.get("revision")
        try:
            path = Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS))
        except Exception as error:
            raise UnavailableError(f"the Hub gave no {repo}", "try again later") from error
        return Fetched(path, "hub", str(spec), revision=path.name)
