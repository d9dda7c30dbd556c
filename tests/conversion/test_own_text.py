"""Text that a model writes itself: whose distribution, how it begins, and the same each time."""

import numpy as np
import pytest

from llmkg_lab.base import paths
from llmkg_lab.conversion import own_text
from llmkg_lab.conversion.own_text import Draw, chat_opening, write
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme

WINDOW = 48


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


def test_draws_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.25, 0.2, 0.05, 0.0], np.float32) + 1e-30)
    draw, history = Draw(7), np.empty(0, np.int64)
    shares = np.bincount([draw(logits, history) for _ in range(20_000)], minlength=5) / 20_000
    assert np.abs(shares - [0.5, 0.25, 0.2, 0.05, 0]).max() < 0.012  # 3.4 standard errors
    assert shares[4] == 0


def test_a_model_writes_what_it_finds_likely(tiny_llama_of_numbers, tmp_path):
    """Its own text has the likelihood that the model's entropy says, tokens at random have not."""
    told = []
    ids = write(convert, tiny_llama_of_numbers, WINDOW, 20 * WINDOW, told.append)
    assert ids.shape == (2 * own_text.BATCH, WINDOW)  # whole batches
    assert told[-1].done == told[-1].total == ids.size
    decoder = Decoder(convert(tiny_llama_of_numbers, Scheme.parse("fp32"), tmp_path / "float"))

    def surprise(rows: np.ndarray) -> tuple[float, float]:
        """Mean -log p of the tokens, and the mean entropy of what they were drawn from."""
        logits = np.concatenate([decoder.logits(row[None]) for row in rows])[:, :-1]
        logits = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        chosen = np.take_along_axis(log_p, rows[:, 1:, None], 2)
        return float(-chosen.mean()), float(-(np.exp(log_p) * log_p).sum(-1).mean())

    own, entropy = surprise(ids)
    assert own == pytest.approx(entropy, rel=0.05)
    random = np.random.default_rng(0).integers(0, 131, ids.shape)
    assert surprise(random)[0] > 1.05 * own
    assert len(set(ids[:, 0])) > own_text.BATCH  # many first tokens


def test_the_same_text_each_time_and_more_of_it_begins_with_less(tiny_llama_of_numbers):
    few = write(convert, tiny_llama_of_numbers, WINDOW, WINDOW, print)
    kept = list((paths.cache() / "own-text").iterdir())
    assert len(kept) == 1
    kept[0].unlink()
    more = write(convert, tiny_llama_of_numbers, WINDOW, 17 * WINDOW, print)
    np.testing.assert_array_equal(more[: len(few)], few)

    def refuse(*_: object) -> None:
        raise AssertionError("what the cache has is not written again")

    again = write(refuse, tiny_llama_of_numbers, WINDOW, 17 * WINDOW, print)
    np.testing.assert_array_equal(again, more)


def test_a_chat_begins_where_the_user_speaks(tiny_llama_of_numbers, tmp_path):
    artifact = convert(tiny_llama_of_numbers, Scheme.parse("fp32"), tmp_path / "float")
    plain = Tokenizer.from_folder(artifact.folder)
    assert not chat_opening(plain)
    template = "{% for m in messages %}{{ '7 8 ' + m['content'] + ' 9' }}{% endfor %}"
    chatting = Tokenizer(plain.core, {**plain.config, "chat_template": template})
    assert list(chat_opening(chatting)) == plain.encode("7 8", special=False)
    deaf = Tokenizer(plain.core, {**plain.config, "chat_template": "{{ '7 8' }}"})
    assert not chat_opening(deaf)  # it shows nothing of what a user says
