"""The README's Python runs as written."""

import re
from pathlib import Path

readme = Path(__file__).resolve().parents[3] / "README.md"


def test_readme(capsys):
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)
    assert "chosen" in capsys.readouterr().out
