"""Parameter files that are no YAML, or YAML made to take all memory: an error that names them."""

import time

import pytest

from llmkg_lab.roster import catalog
from llmkg_lab.roster.strict_yaml import CatalogError, Node

BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)  # 9^11 entries, for whoever writes it out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 5000, "no YAML"),
        ("title: 2001-99-99", "no YAML"),
        ("title: !!int x", "no YAML"),
        ("title: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("title: \x00", "no YAML"),
        (BOMB + "title: *a11\n", "unknown key"),
    ],
)
def test_what_is_no_parameter_file(content, message, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    start = time.process_time()
    with pytest.raises(CatalogError, match=message) as raised:
        catalog.load_variant(path)
    assert str(path) in raised.value.message
    assert time.process_time() - start < 5


def test_a_bomb_in_a_value_is_not_written_out(tmp_path):
    path = tmp_path / "own.yaml"
    nested = BOMB.replace("\n", "\n  ").rstrip()
    rest = "tier: 1\ntask: text-generation\narchitecture: llama\nlicense: x\ndescription: x\n"
    path.write_text(f"title:\n  {nested}\n{rest}sources: [{{local: x}}]\n")
    with pytest.raises(CatalogError, match=r"title: .* is not text") as raised:
        catalog.load_variant(path)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("read", [Node.number, Node.integer, Node.text])
@pytest.mark.parametrize("value", ["1" + 400 * "0", "0x" + 5000 * "f", "-0x" + 5000 * "f", ".nan"])
def test_numbers_that_no_computer_holds(read, value, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"key: {value}\n")
    node = Node.read(path).fields(("key",))["key"]
    with pytest.raises(CatalogError, match=r"is not (a finite|a whole|text)") as raised:
        read(node)
    assert len(str(raised.value)) < 1000
