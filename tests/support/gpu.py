"""What runs on a GPU, where there is one."""

import pytest
import torch

from llmkg_lab.quantize.solve.device import CPU, GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = pytest.mark.parametrize("device", [CPU, pytest.param(GPU, marks=needs_gpu)])
