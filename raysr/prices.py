"""What an hour of an accelerator costs, by name: a small table to start from, each row with its source and date."""

from difflib import get_close_matches

from raysr.cost import DEFAULT_PRICE, Price

_LAMBDA = "Lambda's list as reported by techbytes.app, GPU pricing matrix"
_MODAL = "Modal's list as reported by techbytes.app, GPU pricing matrix"

PRICES: dict[str, Price] = {
    "rtx-a5000-runpod": DEFAULT_PRICE,
    "h100-sxm-runpod": Price(
        usd_per_hour=2.69,
        accelerator="H100 SXM",
        provider_kind="on demand",
        source="RunPod Secure Cloud as reported by spheron.network",
        date="2026-05-22",
    ),
    "a10g-aws": Price(
        usd_per_hour=1.006,
        accelerator="A10G",
        provider_kind="on demand",
        source="AWS g5.xlarge, us-east-1, as reported by factualminds.com",
        date="2026-06-17",
    ),
    **{
        f"{name}-lambda": Price(
            usd_per_hour=usd, accelerator=card, provider_kind="on demand", source=_LAMBDA, date="2026-05-07"
        )
        for name, card, usd in (
            ("a10", "A10", 0.86),
            ("a100-40gb", "A100 40 GB", 1.48),
            ("h100-pcie", "H100 PCIe", 2.86),
            ("h100-sxm", "H100 SXM", 3.78),
        )
    },
    **{
        f"{name}-modal": Price(
            usd_per_hour=usd, accelerator=card, provider_kind="serverless", source=_MODAL, date="2026-05-07"
        )
        for name, card, usd in (
            ("t4", "T4", 0.5904),
            ("l4", "L4", 0.7992),
            ("l40s", "L40S", 1.9512),
            ("a100-80gb", "A100 80 GB", 2.4984),
            ("h100", "H100", 3.9492),
        )
    },
}
"""Prices by the name that --price takes. They move: look yours up, and give the number."""

DEFAULT_PRICE_NAME = "rtx-a5000-runpod"


def find_price(price: str, today: str) -> Price:
    """The price of that name, or the number of dollars an hour that the user gave on the day `today` (ISO 8601).

    Raises ValueError for a number that is not above 0, and for a name that is unknown, with the closest one.
    """
    if price in PRICES:
        return PRICES[price]
    try:
        usd_per_hour = float(price)
    except ValueError:
        closest = get_close_matches(price.lower(), PRICES, n=1, cutoff=0.3)
        hint = f"; did you mean {closest[0]!r}?" if closest else ";"
        known = ", ".join(f"{name} (${row.usd_per_hour:g})" for name, row in PRICES.items())
        raise ValueError(f"--price takes dollars an hour or a name, got {price!r}{hint} known: {known}") from None
    return Price(usd_per_hour=usd_per_hour, source="given with --price", date=today)
