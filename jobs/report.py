"""Write the tables and the report of a run again from what stands in its folder."""

from typing import Annotated

import tyro

from raysr.cli import make_console, plainly
from raysr.prices import find_price
from raysr.provenance import now
from raysr.report import show
from raysr.reprice import repriced
from raysr.runs import Run


def main(run: Annotated[str, tyro.conf.Positional], price: str | None = None) -> None:
    """Report on the run in folder RUN.

    Args:
        run: Folder of a run.
        price: Dollars an accelerator-hour, or a name of raysr/prices.py: what the run would have cost at that price.
            Its report stands beside the run's own.
    """
    console = make_console()
    with plainly("stopped; the run is as it was"):
        found = Run.read(run)
        if price is not None:
            found = repriced(found, find_price(price, now().date().isoformat()))
        show(found, console)


if __name__ == "__main__":
    tyro.cli(main)
