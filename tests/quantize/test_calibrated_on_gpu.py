"""Calibration on a GPU, where there is one: the same as on the processor, but for last digits."""

from contextlib import closing
from dataclasses import asdict

import numpy as np
import pytest
import torch
from support.gpu import needs_gpu

from llmkg_lab.base import machine
from llmkg_lab.quantize.solve import decoder, device
from llmkg_lab.quantize.solve.curvature import Curvature
from llmkg_lab.quantize.solve.device import CPU, GPU, device_of
from llmkg_lab.scheme import Scheme

SCHEME = Scheme.parse("int4-s16-gptq")


def test_without_a_gpu_or_with_a_small_one_the_processor_is_taken(
    tiny_llama_of_numbers, monkeypatch, request
):
    request.addfinalizer(device._fits.cache_clear)
    device._fits.cache_clear()
    monkeypatch.setattr(machine, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(tiny_llama_of_numbers) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    needed = 4 * tiny_llama_of_numbers.parameters + device.SPARE_BYTES
    for free, expected in ((needed - 1, CPU), (needed, GPU)):
        device._fits.cache_clear()
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 1 << 40))
        assert device_of(tiny_llama_of_numbers) == expected


@needs_gpu
def test_both_solve_alike(tiny_llama_of_numbers, monkeypatch, tmp_path):
    """The codes of the first matrix; those of later ones are for what earlier ones came to."""
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    windows = np.random.default_rng(0).integers(0, 131, (6, 64))
    assert device_of(tiny_llama_of_numbers) == GPU
    found, errors = [], []
    with closing(Curvature(tiny_llama_of_numbers.form, windows)) as slopes:
        for own in (CPU, GPU):
            monkeypatch.setattr(decoder, "device_of", lambda _, own=own: own)
            found.append(
                decoder.calibrate(tiny_llama_of_numbers, SCHEME, windows, curvature=slopes)
            )
            errors.append(sum(q.squared_error for q in found[-1].values()))
    one, other = (own["model.layers.0.self_attn.q_proj.weight"] for own in found)
    assert asdict(one.layout) == asdict(other.layout)
    assert np.mean(one.codes == other.codes) > 0.98
    assert errors[1] == pytest.approx(errors[0], rel=0.02)
