"""Turn photographs into checksummed Parquet luminance pairs."""

import time

import tyro

from raysr.cli import make_console, plainly
from raysr.describe import check_set, summary
from raysr.plain import say
from raysr.prepare import prepare
from raysr.preparing import PrepareConfig, PrepareDisplay


def main() -> None:
    console, start = make_console(), time.monotonic()
    with plainly("stopped; give the same command again and it goes on from here"):
        config = tyro.cli(PrepareConfig)
        if config.describe is not None:
            manifest = check_set(config.describe)
        else:
            with PrepareDisplay(console) as display:
                manifest = prepare(config, display.update, display.fetched)
        for line in summary(manifest):
            say(console, line)
        if config.describe is not None:
            say(console, f"{config.describe}: every hash is right")
        else:
            say(console, f"{config.out}: prepared in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
