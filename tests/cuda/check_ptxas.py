"""Registers and spills of every kernel, from the logs that cmake/ptxas-log.sh leaves in a build
folder. Fails where a kernel spills registers to local memory, or where ptxas warns that it
serialises wgmma or ignores setmaxnreg (C75xx)."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

PROPERTIES = re.compile(r"Function properties for (\S+)")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def read(log: Path):
    """(name, registers, stack, spilled bytes) of each function, and the warnings."""
    functions, warnings = [], []
    name, stack, spilled = None, 0, 0
    for line in log.read_text().splitlines():
        if match := PROPERTIES.search(line):
            name = match[1]
        elif match := SPILLS.search(line):
            stack, spilled = int(match[1]), int(match[2]) + int(match[3])
        elif (match := REGISTERS.search(line)) and name:
            functions.append((name, int(match[1]), stack, spilled))
            name = None
        elif "(C75" in line:
            warnings.append(line.strip())
    return functions, warnings


def demangled(names):
    if not names or not shutil.which("c++filt"):
        return names
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True)
    return text.stdout.splitlines()


def main():
    # Logs of objects that are gone say nothing.
    logs = [log for log in sorted(Path(sys.argv[1]).rglob("*.ptxas")) if log.with_suffix("").exists()]
    functions, faults = [], []
    for log in logs:
        found, warnings = read(log)
        source = log.name.removesuffix(".o.ptxas")
        functions += [(source, *function) for function in found]
        faults += [f"{source}: {warning}" for warning in warnings]
    if not functions:
        sys.exit(f"no kernel in {len(logs)} logs under {sys.argv[1]}: was the library built?")
    names = demangled([function[1] for function in functions])
    print("registers  stack  spilled  source and kernel")
    for name, (source, _, registers, stack, spilled) in zip(names, functions):
        print(f"{registers:9}  {stack:5}  {spilled:7}  {source}: {name.split('(sotto::')[0][:100]}")
        if spilled > 0:
            faults.append(f"{source}: {name} spills {spilled} bytes")
    if faults:
        sys.exit("\n".join(faults))
    print(f"{len(functions)} kernels, none spills")


if __name__ == "__main__":
    main()
