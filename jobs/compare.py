"""Which architecture gives the best picture for the same money? `python jobs/compare.py --help` tells how to ask."""

import sys

from raysr.cli import fail, make_console, parse_preset
from raysr.compare import compare
from raysr.presets import PRESETS
from raysr.report import show


def main() -> None:
    config = parse_preset(PRESETS, "demo", sys.argv[1:])
    console = make_console()
    try:
        outcome = compare(config, console)
    except (ValueError, OSError, RuntimeError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("stopped before the first trial; a run that has begun goes on with --resume", code=130)
    try:
        show(outcome.run, console)
    except OSError as error:
        fail(error)
    if len(sys.argv) == 1:
        console.print("This was the demo. For the real thing: python jobs/compare.py paper --data DIR (see README.md).")
    if outcome.interrupted:
        fail("stopped before the end; what was reached is in the report", code=130)
    if outcome.error is not None:
        fail(f"a trial failed, the others' results are in the report. The first error:\n{outcome.error}")


if __name__ == "__main__":
    main()
