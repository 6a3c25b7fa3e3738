"""Train one architecture on this machine, without Ray: `python jobs/train.py espcn --data DIR`.

`python jobs/train.py --list` prints the architectures and what they cost.
"""

import sys

import tyro

from raysr.cli import fail, make_console, plainly
from raysr.field import ListConfig, print_field
from raysr.report import show
from raysr.train_one import TrainOneConfig, train_one


def main() -> None:
    console = make_console()
    with plainly("stopped; a run that has begun goes on with --resume RUN, the folder that is named above"):
        if "--list" in sys.argv[1:]:
            print_field(tyro.cli(ListConfig), console)
            return
        outcome = train_one(tyro.cli(TrainOneConfig, description=__doc__), console)
        show(outcome.run, console)
    if outcome.interrupted:
        fail("stopped before the end; what was reached is in the report, and --resume RUN goes on", code=130)
    if outcome.error is not None:
        fail(outcome.error)


if __name__ == "__main__":
    main()
