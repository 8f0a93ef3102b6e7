"""The package's tests run on the CPU, and again on a Hopper GPU where there is one."""

import pytest
import torch


def has_hopper() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


DEVICES = ["cpu", "cuda"] if has_hopper() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request):
    torch.manual_seed(1)
    return torch.device(request.param)


@pytest.fixture
def randn(device):
    """Normal numbers on the device, in a dtype that every backend takes."""

    def make(*shape, dtype=torch.bfloat16):
        return torch.randn(shape, device=device).to(dtype)

    return make


@pytest.fixture
def ints(device):
    """int32 on the device: lengths, page tables, positions."""

    def make(values):
        return torch.tensor(values, dtype=torch.int32, device=device)

    return make
