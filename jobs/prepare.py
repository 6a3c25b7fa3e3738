"""Turn photographs into checksummed Parquet luminance pairs."""

import time

import tyro

from raysr.archives import ArchiveError
from raysr.cli import fail, make_console
from raysr.describe import check_set, summary
from raysr.manifest import ManifestError
from raysr.plain import say
from raysr.prepare import PrepareError, prepare
from raysr.preparing import PrepareConfig, PrepareDisplay


def main() -> None:
    console, start = make_console(), time.monotonic()
    try:
        config = tyro.cli(PrepareConfig)
        if config.describe is not None:
            manifest = check_set(config.describe)
        else:
            with PrepareDisplay(console) as display:
                manifest = prepare(config, display.update, display.fetched)
    except (ValueError, OSError, ManifestError, ArchiveError, PrepareError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("stopped; give the same command again and it goes on from here", code=130)
    for line in summary(manifest):
        say(console, line)
    if config.describe is not None:
        say(console, f"{config.describe}: every hash is right")
    else:
        say(console, f"{config.out}: prepared in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
