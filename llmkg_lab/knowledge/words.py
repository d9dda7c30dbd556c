"""Words to chunks: an index of tantivy's, derived from the store."""

import contextlib
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import tantivy

from llmkg_lab.base.errors import panics_raised
from llmkg_lab.knowledge.lexicon import word_set
from llmkg_lab.knowledge.store import Store, deriving

NAME = "words"
HEAP = 30_000_000  # bytes that a writer buffers
BATCH = 10_000
STOP_WORDS = word_set(
    "a an and are as at be been but by can did do does for from had has have he her his how i if "
    "in into is it its of on or s she that the their them they this to was we were what when "
    "where which who whom whose why will with would you"
)
WORDS = 24  # of a query that are searched


class Words:
    """The index of a store's chunks in a folder that several processes share.

    What it holds says itself up to which chunk it goes. An index that cannot be read, or that
    holds another number of chunks than the store, is made anew beside it.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._index: tantivy.Index | None = None
        self._place = ""

    def search(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Chunks with any word of the query and BM25 scores, the best first."""
        index = self.catch_up()
        words = dict.fromkeys(terms_of(query))
        if not words:
            return []
        any_word = tantivy.Query.boolean_query(
            [
                (
                    tantivy.Occur.Should,
                    tantivy.Query.boost_query(
                        tantivy.Query.term_query(index.schema, field, word), boost
                    ),
                )
                for word in words
                for field, boost in (("text", 1.0), ("title", 0.5))
            ]
        )
        searcher = index.searcher()
        found = searcher.search(any_word, limit, count=False).hits
        ids = searcher.fast_field_values("chunk", [address for _, address in found])
        return [
            (int(number), float(score))
            for number, (score, _) in zip(ids, found, strict=True)
            if number is not None
        ]

    def catch_up(self) -> tantivy.Index:
        """Index what the store has and the index has not."""
        index = self._opened()
        watermark = _watermark(index)
        while rows := self._store.chunks_after(watermark, BATCH):
            if not _append(index, rows):
                index.reload()  # another process is writing the same rows
                if _watermark(index) == watermark:
                    break
            else:
                index.reload()
            watermark = _watermark(index)
        return index

    def _opened(self) -> tantivy.Index:
        """The index that the store names, where it is whole; else a new one."""
        place = self._store.derived(NAME)
        if self._index is not None and place == self._place:
            self._index.reload()
            return self._index
        if not place or not self._is_taken(place):
            with deriving(self._folder):
                place = self._store.derived(NAME)  # another process may have made one meanwhile
                if not place or not self._is_taken(place):
                    self._make()
        assert self._index is not None
        return self._index

    def _is_taken(self, place: str) -> bool:
        """Whether the index there is whole; it is then ours."""
        index = self._sound(place)
        if index is not None:
            self._index, self._place = index, place
        return index is not None

    def _make(self) -> None:
        """Make an empty index; others go. Only one process may be at it."""
        self._place = uuid.uuid4().hex
        folder = self._folder / f"{NAME}.{self._place}"
        folder.mkdir(parents=True)
        self._index = tantivy.Index(_schema(), str(folder))
        self._store.note_derived(NAME, self._place)
        for old in self._folder.glob(f"{NAME}.*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def _sound(self, place: str) -> tantivy.Index | None:
        if not re.fullmatch(r"[0-9a-f]{32}", place):
            return None
        folder = self._folder / f"{NAME}.{place}"
        with contextlib.suppress(ValueError, OSError, RuntimeError), panics_raised():
            if folder.is_dir() and tantivy.Index.exists(str(folder)):
                index = tantivy.Index.open(str(folder))
                searcher = index.searcher()
                if searcher.num_docs == self._store.count("chunk", _watermark(index)):
                    return index
        return None


def terms_of(query: str) -> list[str]:
    """The words of a query that mean something, as the index has them."""
    words = [word.lower() for word in re.findall(r"\w+", query) if len(word) < 40]
    return [stem(word) for word in words if word not in STOP_WORDS][:WORDS]


def stem(word: str) -> str:
    """A word without its English ending, as the index's own analyzer cuts it."""
    cut = _ANALYZER.analyze(word)
    return cut[0] if cut else word


def _analyzer() -> tantivy.TextAnalyzer:
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(40))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )


_ANALYZER = _analyzer()


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("chunk", indexed=True, fast=True)
    for name in ("title", "text"):
        builder.add_text_field(name, tokenizer_name="en_stem", index_option="freq")
    return builder.build()


def _watermark(index: tantivy.Index) -> int:
    searcher = index.searcher()
    if not searcher.num_docs:
        return 0
    last = searcher.search(tantivy.Query.all_query(), 1, count=False, order_by_field="chunk").hits
    found = searcher.fast_field_values("chunk", [address for _, address in last])
    return int(found[0] or 0)


def _append(index: tantivy.Index, rows: Sequence[tuple[int, str, str]]) -> bool:
    """Whether rows were added; not where another process is at it."""
    try:
        writer = index.writer(HEAP, 1)
    except ValueError:  # the lock is taken
        return False
    index.reload()
    watermark = _watermark(index)  # the other may have finished meanwhile
    for number, title, text in rows:
        if number > watermark:
            document = tantivy.Document(title=title, text=text)
            document.add_unsigned("chunk", number)
            writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    return True
