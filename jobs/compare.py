"""Which architecture gives the best picture for the same money? `python jobs/compare.py --help` tells how to ask."""

import sys

from raysr.cli import fail, make_console, parse_preset, plainly
from raysr.compare import compare
from raysr.presets import PRESETS
from raysr.report import show


def main() -> None:
    config = parse_preset(PRESETS, "demo", sys.argv[1:])
    console = make_console()
    with plainly("stopped; a run that has begun goes on with --resume RUN, the folder that is named above"):
        outcome = compare(config, console)
        show(outcome.run, console)
    if len(sys.argv) == 1:
        console.print("This was the demo. For the real thing: python jobs/compare.py paper --data DIR (see README.md).")
    if outcome.interrupted:
        fail("stopped before the end; what was reached is in the report", code=130)
    if outcome.error is not None:
        fail(f"a trial failed, the others' results are in the report. The first error:\n{outcome.error}")


if __name__ == "__main__":
    main()
