"""`python -m benchmarks [NAMES] [--quick] [--json FILE]`: run benchmarks, print their figures.

The exit status is 1 if a benchmark could not run to its end. A requirement that is missed is a
result, not a failure: it is printed as MISSED and counted in the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import pkgutil
import platform
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks._figures import Figure, table
from edgeseq.errors import EdgeseqError

_SUMMARY = "Measure what edgeseq claims, beside what it is compared with. See docs/numbers.md."
_PACKAGES = ("numpy", "numba", "torch", "onnxruntime", "ai-edge-litert", "unicorn")


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    found = pkgutil.iter_modules(benchmarks.__path__)
    known = [m.name for m in found if not m.name.startswith("_")]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=_SUMMARY)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, fewer models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}")

    machine = _machine()
    print("  ".join(f"{k}: {v}" for k, v in machine.items()), flush=True)
    if options.quick:
        print("--quick: fewer repetitions; not for publication")
    record: dict[str, Any] = {"machine": machine, "quick": options.quick, "benchmarks": {}}
    figures: list[Figure] = []
    failed = []
    for name in options.names or known:
        module = import_module(f"benchmarks.{name}")
        print(f"\n== {name}: {(module.__doc__ or name).splitlines()[0]}", flush=True)
        start = time.perf_counter()
        try:
            made: list[Figure] = module.measure(options.quick)
        except EdgeseqError as error:
            print(f"could not be measured: {error}", flush=True)
            failed.append(name)
            continue
        print(f"{table(made)}\n({time.perf_counter() - start:.0f} s)", flush=True)
        figures += made
        record["benchmarks"][name] = [figure.record() for figure in made]
    results = [figure.met for figure in figures]
    print(f"\n{results.count(True)} requirements met, {results.count(False)} missed", end="")
    print(f"; could not run: {', '.join(failed)}" if failed else "")
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _machine() -> dict[str, str]:
    """What the figures depend on."""
    facts = {"cpu": _cpu(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    if hasattr(os, "getloadavg"):
        # Well above zero before anything runs here: times are those of a busy machine.
        facts["load before"] = f"{os.getloadavg()[0]:.1f}"
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
