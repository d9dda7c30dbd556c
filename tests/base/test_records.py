"""Records: what is refused when a file is read or written, and whether the key is named."""

import numpy as np
import pytest
from msgspec import field

from llmkg_lab.base.records import Count, Record, RecordError, parse, text


class Entry(Record, frozen=True):
    bytes: Count
    share: float = 0.0


class Listing(Record, frozen=True, tag_field="format", tag="listing/1"):
    files: dict[str, Entry]
    lists: list[dict[str, Entry]] = field(default_factory=list)


def listing(inside):
    return f'{{"format": "listing/1", {inside}}}'.encode()


MANY = ", ".join(f'"{i}": {{"bytes": {i}}}' for i in range(1000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"format": "listing/1", "files": {"\xff": {}}}', "is not JSON"),
        (b'{"format": "listing/1", "files": {"a": ' + b"[" * 10**6, "is not JSON"),
        (listing('"files": {"a": {"bytes": 1, "share": NaN}}'), "is not JSON"),
        (b"[]", "expected object, got array"),
        (b'{"files": {}}', "is not of the format listing/1"),
        (b'{"format": "listing/2", "files": {}}', "is not of the format listing/1"),
        (listing('"lists": []'), "object missing required field files"),
        (listing('"files": [], "x": 1'), "expected object, got array, at files"),
        (listing('"files": {}, "file": {}'), "object contains unknown field file"),
        (listing(f'"files": {{{MANY}, "a b": {{"bytes": "1"}}}}'), "got str, at files.a b.bytes"),
        (listing('"files": {"a": {"bytes": -1}}'), "expected int >= 0, at files.a.bytes"),
        (listing('"files": {"a": {"bytes": true}}'), "expected int, got bool, at files.a.bytes"),
        (listing('"files": {"a": {"bytes": 1.0}}'), "expected int, got float, at files.a.bytes"),
        (listing('"files": {"a": {"bytes": 1e999}}'), "out of range, at files.a.bytes"),
        (listing(f'"files": {{"a": {{"bytes": {"9" * 5000}}}}}'), "out of range, at files"),
        (listing('"files": {"a": {"bytes": "1"}}, "files": 7'), "got str, at files[...].bytes"),
        (
            listing('"files": {}, "lists": [{}, {"a": {"bytes": 1}, "b": {}, "c": {}}]'),
            "object missing required field bytes, at lists.1.b",
        ),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_key(content, message):
    with pytest.raises(RecordError) as refused:
        parse(content, Listing)
    assert message in str(refused.value)


def test_what_is_written_is_what_json_writes_and_is_read_again():
    record = Listing({"ü": Entry(1, np.float64(1e-7)), "b": Entry(np.int64(2))})
    written = text(record)
    assert written.startswith('{\n  "format": "listing/1",\n  "files": {\n    "\\u00fc": {\n')
    assert '"share": 1e-07' in written
    assert parse(written.encode(), Listing) == record


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_number_that_is_not_finite_is_not_written(value):
    with pytest.raises(RecordError, match=r"not finite, at lists\.1\.b\.share"):
        text(Listing({}, [{}, {"a": Entry(1), "b": Entry(1, value)}]))


def test_a_value_that_the_reader_would_refuse_is_not_written():
    with pytest.raises(RecordError, match=r"expected int, got str, at files\.a\.bytes"):
        text(Listing({"a": Entry("1")}))
