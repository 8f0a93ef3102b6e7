"""The compiled library: loading it registers the ops ``torch.ops.sotto.*``."""

from pathlib import Path

import torch

_path = Path(__file__).with_name("libsotto_torch.so")
torch.ops.load_library(str(_path))  # type: ignore[no-untyped-call]

ops = torch.ops.sotto
