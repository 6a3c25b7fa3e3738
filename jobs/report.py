"""Write the tables and the report of a run again from what stands in its folder."""

from typing import Annotated

import tyro

from raysr.cli import fail, make_console
from raysr.report import print_table, write_report
from raysr.runs import Run


def main(run: Annotated[str, tyro.conf.Positional]) -> None:
    """Report on the run in folder RUN."""
    try:
        found = Run.read(run)
    except OSError as error:
        fail(str(error))
    console = make_console()
    print_table(found, console)
    console.print(f"report: {write_report(found)}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    tyro.cli(main)
