"""A finished run at another price."""

from dataclasses import asdict, replace

from raysr.cost import Price
from raysr.runs import Run


def repriced(run: Run, price: Price) -> Run:
    """What the run would have cost at another price: the same seconds, other dollars. Its files stay as they are."""
    factor = price.usd_per_hour / run.info["price"]["usd_per_hour"]

    def times(usd: float | None) -> float | None:
        return None if usd is None else usd * factor

    trials = [
        replace(
            trial,
            budget_usd=times(trial.budget_usd),
            charged_usd=trial.charged_usd * factor,
            billed_usd=trial.billed_usd * factor,
            metered_usd=times(trial.metered_usd),
            usd_per_epoch=times(trial.usd_per_epoch),
        )
        for trial in run.trials
    ]
    curves = run.curves.assign(charged_usd=run.curves["charged_usd"] * factor)
    new = {"price": asdict(price), "charged_price": run.info["price"], "budget_usd": times(run.info["budget_usd"])}
    if run.info.get("search"):
        config = run.info["config"]
        new["config"] = config | {"search": config["search"] | {"usd": times(config["search"]["usd"])}}
        new["search"] = {
            arch: one | {name: times(one[name]) for name in ("charged_usd", "billed_usd")}
            for arch, one in run.info["search"].items()
        }
    return replace(run, info=run.info | new, trials=trials, curves=curves)
