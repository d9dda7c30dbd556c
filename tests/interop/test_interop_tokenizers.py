"""llama.cpp tokenizes an exported tokenizer as ours does, and what is refused it would not.

`make interop` builds it; the files hold nothing but the tokenizers.
"""

import pytest
from support.gguf_tokenizers import TEXTS, exact, refused
from test_interop import PEERS, ask

from llmkg_lab.conversion import gguf_tokenizer

pytestmark = pytest.mark.skipif(not PEERS.exists(), reason="`make interop` installs the peers")


def ids(case, texts, special=True):
    return [case.tokenizer.encode(text, add_special_tokens=special).ids for text in texts]


@pytest.mark.parametrize("name", exact())
def test_llama_cpp_tokenizes_what_is_exported_alike(name, tmp_path):
    case, path = exact()[name], tmp_path / "model.gguf"
    case.write(path)
    told = ask("llama_cpp_tokens", path=str(path), texts=TEXTS)
    assert told["whole"] == ids(case, TEXTS)
    if case.architecture != "bert":
        assert told["parts"] == ids(case, TEXTS, special=False)


@pytest.mark.parametrize("name", [name for name, case in refused().items() if case.witness])
def test_llama_cpp_tokenizes_what_is_refused_otherwise(name, tmp_path, monkeypatch):
    """So that nothing is refused that need not be: each by a text, where a file can be forced."""
    case, path = refused()[name], tmp_path / "model.gguf"
    monkeypatch.setattr(gguf_tokenizer, "_refuse", lambda *refusal: None)
    case.write(path)
    told = ask("llama_cpp_tokens", path=str(path), texts=[case.witness])
    assert told["whole"] != ids(case, [case.witness])


@pytest.mark.parametrize("ends", [[], [2], [2, 260], [260, 2, 261]])
def test_llama_cpp_stops_at_all_ends_of_a_text(ends, tmp_path):
    """EOS, and those of a turn."""
    case, path = exact()["Llama"], tmp_path / "model.gguf"
    case.write(path, ends)
    assert ask("llama_cpp_tokens", path=str(path), texts=[])["ends"] == sorted({2, *ends})
