"""What a matrix is solved from: sums over streams on the disk, and the ridge that they choose."""

import numpy as np
import pytest
import torch

from llmkg_lab.data import texts
from llmkg_lab.data.texts import Text, TextError
from llmkg_lab.quantize.solve import decoder
from llmkg_lab.quantize.solve.decoder import calibrate
from llmkg_lab.quantize.solve.effort import tokens_of
from llmkg_lab.quantize.solve.streams import Spilled, chunks
from llmkg_lab.quantize.solve.sums import (
    BLOCK,
    RIDGES,
    Moments,
    Sums,
    add_squares,
    best_ridge,
    whole,
)
from llmkg_lab.quantize.solve.text import OWN_ALONE, calibration_text
from llmkg_lab.scheme import Scheme, SchemeError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


def test_spilled_windows_come_back_as_they_were_written():
    values = torch.randn(7, 5, 3)
    spilled = Spilled(5, 3)
    parts = list(chunks(7, 5, 10))
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    for part in reversed(parts):
        spilled.write(part, values[part])
    spilled.write(slice(1, 3), values[1:3].transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(spilled.read(slice(0, 7)), values)
    with pytest.raises(EOFError):
        spilled.read(slice(6, 8))
    spilled.close()


@pytest.mark.parametrize("width", [5, BLOCK, 2 * BLOCK + 3])
def test_squares_are_summed_by_halves(width):
    values = torch.randn(70, width, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(width, width)
    for part in values.split(30):
        add_squares(total, part)
    torch.testing.assert_close(whole(total), values.T @ values, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole(total), total)


@pytest.mark.parametrize("of_outputs", [False, True])
def test_a_goal_gives_the_originals_output(of_outputs):
    """Against least squares over all tokens at once; and its error, against the outputs."""
    random = torch.Generator().manual_seed(0)
    weight, x, noise, gap = (
        torch.randn(*shape, generator=random) for shape in ((4, 6), (90, 6), (90, 6), (90, 4))
    )
    disturbed = x + 0.3 * noise
    wanted = x @ weight.T + of_outputs * gap
    lacking = wanted - disturbed @ weight.T if of_outputs else x - disturbed
    sums = Sums(of_outputs)
    for start in range(0, 90, 25):  # the sums do not see where the text is cut
        part = slice(start, start + 25)
        sums.add(disturbed[part, None], lacking[part, None])
    exact = torch.linalg.lstsq(disturbed, wanted).solution.T
    moments = sums.done(weight)
    found = weight + moments.move(1e-6)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)
    empty = Sums(of_outputs)
    empty.add(x[:0, None], lacking[:0, None])
    assert not empty.done(weight).move(0.1).any()

    def outputs(found: torch.Tensor) -> float:
        return float((wanted - disturbed @ found.T).square().sum())

    held = weight + moments.move(0.3)
    assert outputs(exact) < outputs(held) < outputs(weight)
    difference = moments.error(held - weight) - moments.error(exact - weight)
    assert difference == pytest.approx(outputs(held) - outputs(exact), rel=1e-3)


def test_the_ridge_is_what_serves_the_other_kind_of_text():
    random = torch.Generator().manual_seed(0)

    weight = torch.randn(8, 40, generator=random)

    def kind(tokens: int, shift: float) -> Moments:
        x, noise = torch.randn(2, tokens, 40, generator=random)
        sums = Sums(of_outputs=True)
        gap = torch.randn(tokens, 8, generator=random)
        sums.add(x + shift * noise, gap - shift * noise @ weight.T)
        return sums.done(weight)

    few, many = ([kind(n, 0.5) for _ in range(2)] for n in (60, 20_000))
    ridges = [best_ridge(*kinds) for kinds in (few, many)]
    assert ridges[0] > ridges[1]  # what 60 tokens say of 40 columns is chance
    assert set(ridges) <= set(RIDGES)
    twice = [Moments(one.hessian, one.missing.repeat(100, 1)) for one in many]
    assert best_ridge(*twice) == ridges[1]  # some of the rows tell


@pytest.mark.slow
def test_the_walk_is_the_same_however_it_is_cut(tiny_llama_of_numbers, monkeypatch):
    scheme = Scheme.parse("int4-s16-gptq")
    windows = np.random.default_rng(0).integers(0, 131, (6, 64))
    whole = calibrate(tiny_llama_of_numbers, scheme, windows)
    monkeypatch.setattr(decoder, "AT_ONCE", 64)
    monkeypatch.setattr(decoder, "METHOD", "not from the cache")
    cut = calibrate(tiny_llama_of_numbers, scheme, windows)
    for name, one in whole.items():
        difference = np.abs(one.dequantize() - cut[name].dequantize())
        assert np.median(difference) < 0.1 * np.abs(one.scales).mean(), name  # sums round otherwise


def written(checkpoint, window, tokens, progress):
    return np.full((-(-tokens // window) + 3, window), 130)


@pytest.mark.parametrize(("length", "given", "own"), [(5000, 2, 2), (1000, 1, 3), (0, 0, 4)])
def test_texts_are_read_by_turns(tiny_llama_of_numbers, length, given, own):
    text = Text("t", "here", "0" * 64, "1 2 3\n" * (length // 3)) if length else OWN_ALONE
    found = calibration_text(tiny_llama_of_numbers, text, 1200, written)
    kinds = (found.windows == 130).all(1).tolist()
    assert kinds == [False, True] * given + [True] * (own - given)
    assert found.record["own_tokens"] == own * 300
    assert found.record.get("corpus") == ("t" if given else None)
    assert found.head(600).record["tokens"] == 600


def test_without_a_text_or_a_writer_there_is_nothing_to_solve_on(
    tiny_llama_of_numbers, monkeypatch
):
    def load(corpora):
        raise TextError("no text is here", "install one")

    monkeypatch.setattr(texts, "load", load)
    alone = calibration_text(tiny_llama_of_numbers, None, 1200, written)
    assert alone.record["own_tokens"] == alone.windows.size
    with pytest.raises(TextError, match="no text is here"):
        calibration_text(tiny_llama_of_numbers, None, 1200)
    with pytest.raises(SchemeError, match="no effort 'huge'"):
        tokens_of("huge", 1536)
    assert tokens_of("quick", 384) < tokens_of("normal", 384) < tokens_of("normal", 1536)
    assert tokens_of("normal", 1536) < tokens_of("normal", 1536, alone=True)
    assert tokens_of("high", 1536) == tokens_of("high", 9999, alone=True)
