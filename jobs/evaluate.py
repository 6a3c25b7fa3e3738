"""Score a network, or every network of a run, on test sets: `python jobs/evaluate.py --model RUN --sets Set5 Set14`."""

import sys

import tyro

from raysr.benchmark import EvaluateConfig, evaluate_sets, is_run
from raysr.cli import fail, make_console, plainly, telling
from raysr.judge_run import evaluate_run, print_run_evaluation, write_run_json
from raysr.scoresheet import print_evaluation, write_json
from raysr.selfcheck import print_findings, self_check


def main() -> None:
    console = make_console()
    with plainly("stopped before the first picture was scored"):
        config = tyro.cli(EvaluateConfig, description=__doc__)
        whole_run = is_run(config.model)
        with telling(console) as tell:
            if config.self_check:
                sys.exit(not print_findings(self_check(config, tell), console))
            found = (evaluate_run if whole_run else evaluate_sets)(config, tell)
        show, write = (print_run_evaluation, write_run_json) if whole_run else (print_evaluation, write_json)
        show(found, console)
        if config.json is not None:
            write(found, config.json)
    if found.interrupted:
        fail("stopped before the end; what was scored stands above", code=130)
    sys.exit(not found.complete)


if __name__ == "__main__":
    main()
