"""How near a result comes to the exact one."""

import torch


def sqnr(result, exact):
    """Signal to quantisation noise in dB, as docs/eval.md defines it."""
    noise = (result.double() - exact.double()).square().sum()
    return float(10 * torch.log10(exact.double().square().sum() / noise))
