"""Train one architecture on this machine, without Ray: `python jobs/train.py espcn --data DIR`.

`python jobs/train.py --list` prints the architectures and what they cost.
"""

import sys

import tyro

from raysr.cli import fail, make_console
from raysr.field import ListConfig, print_field
from raysr.report import show
from raysr.train_one import TrainOneConfig, train_one


def main() -> None:
    console = make_console()
    try:
        if "--list" in sys.argv[1:]:
            print_field(tyro.cli(ListConfig), console)
            return
        outcome = train_one(tyro.cli(TrainOneConfig, description=__doc__), console)
    except (ValueError, OSError, RuntimeError) as error:
        fail(error)
    try:
        show(outcome.run, console)
    except OSError as error:
        fail(error)
    if outcome.interrupted:
        fail("stopped before the end; what was reached is in the report", code=130)


if __name__ == "__main__":
    main()
