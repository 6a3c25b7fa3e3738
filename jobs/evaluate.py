"""Score a network on test sets by a protocol: `python jobs/evaluate.py --model CHECKPOINT --sets Set5 Set14`."""

import sys

import tyro

from raysr.benchmark import EvaluateConfig, evaluate_sets
from raysr.cli import fail, make_console
from raysr.scoresheet import print_evaluation, write_json
from raysr.selfcheck import self_check


def main() -> None:
    console = make_console()
    try:
        config = tyro.cli(EvaluateConfig, description=__doc__)
        with console.status("reading") as status:
            findings = self_check(config, status.update) if config.self_check else None
            evaluation = evaluate_sets(config, status.update) if findings is None else None
        if evaluation is not None:
            print_evaluation(evaluation, console)
            if config.json is not None:
                write_json(evaluation, config.json)
    except (ValueError, OSError, RuntimeError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped before the first picture was scored", code=130)
    if evaluation is not None:
        if evaluation.interrupted:
            fail("stopped before the end; what was scored stands above", code=130)
        sys.exit(0 if all(result.scored for result in evaluation.sets) else 1)
    for finding in findings or ():
        console.print(finding.message, soft_wrap=True, markup=False, highlight=False)
    sys.exit(0 if all(finding.right for finding in findings or ()) else 1)


if __name__ == "__main__":
    main()
