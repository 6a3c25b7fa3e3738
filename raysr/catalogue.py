"""Public data sets: which archives they are published in, and what vouches for these."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A published archive of photographs."""

    name: str
    url: str
    size: int | None = None
    """Bytes, where published."""
    sha256: str | None = None
    md5: str | None = None
    members: str
    """Pattern of the files in it that are photographs of the set."""
    folder: str
    """Where they go in the set."""
    count: int
    """How many there are."""


_DIV2K = "http://data.vision.ee.ethz.ch/cvl/DIV2K"

ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "df2k": (
        Archive(
            name="DIV2K_valid_HR.zip",
            url=f"{_DIV2K}/DIV2K_valid_HR.zip",
            size=448_993_893,
            sha256="20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
            members="DIV2K_valid_HR/*.png",
            folder="val/DIV2K_valid_HR",
            count=100,
        ),
        Archive(
            name="DIV2K_train_HR.zip",
            url=f"{_DIV2K}/DIV2K_train_HR.zip",
            size=3_530_603_713,
            sha256="9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
            members="DIV2K_train_HR/*.png",
            folder="train/DIV2K_train_HR",
            count=800,
        ),
        Archive(
            name="Flickr2K.tar",
            url="https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar",
            md5="5d3f39443d5e9489bff8963f8f26cb03",
            members="Flickr2K/Flickr2K_HR/*.png",
            folder="train/Flickr2K_HR",
            count=2650,
        ),
    ),
    # Its home publishes no hash: gzip's own checksum and the number of photographs vouch for it.
    "bsds500": tuple(
        Archive(
            name="BSR_bsds500.tgz",
            url="http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
            members=f"BSR/BSDS500/data/images/{split}/*.jpg",
            folder=split,
            count=count,
        )
        for split, count in (("train", 200), ("val", 100))
    ),
}
"""Sets by name: DF2K as in the paper's Figure 1, and BSDS500, which it tried first (its test photographs left out)."""
