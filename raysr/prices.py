"""What an hour of an accelerator costs, by name: a small table to start from, each row with its source and date."""

from difflib import get_close_matches

from raysr.cost import DEFAULT_PRICE, Price

_LAMBDA = {
    "provider_kind": "on demand",
    "source": "Lambda's list as reported by techbytes.app, GPU pricing matrix",
    "date": "2026-05-07",
}
_MODAL = {
    "provider_kind": "serverless",
    "source": "Modal's list as reported by techbytes.app, GPU pricing matrix",
    "date": "2026-05-07",
}

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
    "a10-lambda": Price(usd_per_hour=0.86, accelerator="A10", **_LAMBDA),
    "a100-40gb-lambda": Price(usd_per_hour=1.48, accelerator="A100 40 GB", **_LAMBDA),
    "h100-pcie-lambda": Price(usd_per_hour=2.86, accelerator="H100 PCIe", **_LAMBDA),
    "h100-sxm-lambda": Price(usd_per_hour=3.78, accelerator="H100 SXM", **_LAMBDA),
    "t4-modal": Price(usd_per_hour=0.5904, accelerator="T4", **_MODAL),
    "l4-modal": Price(usd_per_hour=0.7992, accelerator="L4", **_MODAL),
    "l40s-modal": Price(usd_per_hour=1.9512, accelerator="L40S", **_MODAL),
    "a100-80gb-modal": Price(usd_per_hour=2.4984, accelerator="A100 80 GB", **_MODAL),
    "h100-modal": Price(usd_per_hour=3.9492, accelerator="H100", **_MODAL),
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
