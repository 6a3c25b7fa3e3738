"""Turn photographs into checksummed Parquet luminance pairs."""

import tyro
from rich.console import Console
from rich.progress import Progress

from raysr.cli import fail
from raysr.prepare import PrepareConfig, prepare


def main() -> None:
    config = tyro.cli(PrepareConfig)
    console = Console()
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("shards", total=None)
            manifest = prepare(config, lambda done, total: bar.update(task, completed=done, total=total))
    except (ValueError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped; no manifest was written, so the same command can be given again", code=130)
    for split, count in manifest.pairs.items():
        console.print(f"{split}: {count} pairs of {manifest.photographs[split]} photographs")
    for refusal in manifest.refused:
        console.print(f"refused {refusal.image_id}: {refusal.reason}", soft_wrap=True, markup=False)
    console.print(f"{config.out}: content sha256 {manifest.content_sha256}", soft_wrap=True)


if __name__ == "__main__":
    main()
