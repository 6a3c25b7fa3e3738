import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
from conftest import synthetic
from PIL import Image

from raysr import prepare as preparing
from raysr.images import Geometry
from raysr.manifest import MANIFEST, SCHEMA, Manifest
from raysr.pairs import PairSet
from raysr.prepare import PrepareConfig, prepare

BSDS = Path(__file__).parents[2] / "shared" / "data" / "bsds500"
GEOMETRY = Geometry(hr_px=48, fit="pad")
REFUSED = {
    "train/animated.gif": "animated or multi-page (3 frames)",
    "train/empty.png": "the file is empty",
    "train/text.png": "not a picture in any of JPEG, PNG, WEBP, TIFF, BMP, PPM, GIF",
    "train/truncated.jpg": "damaged: image file is truncated",
    "val/text.jpg": "not a picture in any of JPEG, PNG, WEBP, TIFF, BMP, PPM, GIF",
}

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def opened(path: Path) -> np.ndarray:
    """The stored samples as RGB, not turned, by Pillow alone."""
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))


def padded(picture: np.ndarray) -> np.ndarray:
    """The 48-pixel target of an upright picture of 60 x 40 or 40 x 60 pixels, written down a second time."""
    y = Image.fromarray(picture)
    y = y if y.mode == "L" else y.convert("YCbCr").getchannel("Y")
    width, height = (48, 32) if y.width > y.height else (32, 48)
    square = np.zeros((48, 48), np.uint8)
    top, left = (48 - height) // 2, (48 - width) // 2
    square[top : top + height, left : left + width] = y.resize((width, height), Image.Resampling.BICUBIC)
    return square


def folder_of_horrors(folder: Path) -> dict[str, np.ndarray]:
    """Writes good and bad files into train/ and val/; returns the target that each usable one must become."""
    train, val = folder / "train", folder / "val"
    train.mkdir(parents=True)
    val.mkdir()
    photos = [Image.fromarray(synthetic(seed, 60, 40)) for seed in range(5)]
    large = Image.fromarray(synthetic(9, 400, 300))
    photos[0].save(train / "good.png")
    photos[1].save(train / "good.webp", lossless=True)
    photos[2].save(val / "good.bmp")
    photos[0].quantize(16).save(train / "palette.png")
    photos[1].convert("CMYK").save(train / "cmyk.jpg", quality=95)
    grey = synthetic(6, 60, 40, channels=1)
    Image.fromarray(grey.astype(np.uint16) * 257).save(train / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photos[3].save(train / "turned.jpg", exif=exif, quality=95)
    photos[0].save(train / "animated.gif", save_all=True, append_images=photos[1:3])
    large.save(train / "truncated.jpg")
    (train / "truncated.jpg").write_bytes((train / "truncated.jpg").read_bytes()[:-500])
    for text in (train / "text.png", val / "text.jpg"):
        text.write_text("the camera ate my photograph\n" * 50)
    (train / "empty.png").touch()
    return {
        "train/good.png": padded(np.asarray(photos[0])),
        "train/good.webp": padded(np.asarray(photos[1])),
        "val/good.bmp": padded(np.asarray(photos[2])),
        "train/palette.png": padded(opened(train / "palette.png")),
        "train/cmyk.jpg": padded(opened(train / "cmyk.jpg")),
        "train/deep.png": padded(grey),
        "train/turned.jpg": padded(np.ascontiguousarray(np.rot90(opened(train / "turned.jpg"), -1))),
    }


@pytest.fixture(scope="module")
def horrors(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """The source folder, the set prepared from it, and the targets it must hold."""
    root = tmp_path_factory.mktemp("horrors")
    expected = folder_of_horrors(root / "source")
    prepare(PrepareConfig(source=str(root / "source"), out=str(root / "set"), geometry=GEOMETRY))
    return root / "source", root / "set", expected


def test_every_usable_horror_is_prepared_right(horrors: tuple) -> None:
    _, out, expected = horrors
    rows = {row.image_id: row for split in ("train", "val") for row in PairSet(str(out), split).rows()}
    assert set(rows) == set(expected)
    for image_id, target in expected.items():
        assert np.array_equal(rows[image_id].hr, target), image_id
        assert np.array_equal(rows[image_id].lr, Image.fromarray(target).resize((24, 24), Image.Resampling.BICUBIC))
    assert rows["train/turned.jpg"].content_box == (8, 0, 40, 48)
    assert rows["train/good.png"].content_box == (0, 8, 48, 40)


def test_every_unusable_horror_is_refused_with_its_reason_in_manifest_and_parquet(horrors: tuple) -> None:
    _, out, _ = horrors
    manifest = Manifest.read(str(out))
    listed = {refusal.image_id: refusal.reason for refusal in manifest.refused}
    assert set(listed) == set(REFUSED)
    assert all(listed[image_id].startswith(reason) for image_id, reason in REFUSED.items())
    rows = [row for shard in manifest.shards for row in pq.read_table(out / shard.name).to_pylist()]
    assert {row["image_id"]: row["error"] for row in rows if row["error"] is not None} == listed
    for row in rows:
        pixels = [row["hr"], row["lr"], row["content_box"]]
        assert pixels == [None] * 3 if row["error"] else None not in pixels


def test_the_manifest_counts_what_the_shards_hold(horrors: tuple) -> None:
    source, out, _ = horrors
    manifest = Manifest.read(str(out))
    assert manifest.pairs == manifest.photographs == {"train": 6, "val": 1}
    assert manifest.geometry == GEOMETRY
    assert manifest.source == str(source)
    assert [(shard.name, shard.rows) for shard in manifest.shards] == [
        ("train-00000.parquet", 10),
        ("val-00000.parquet", 2),
    ]
    for shard in manifest.shards:
        data = (out / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_nothing_but_shards_and_manifest_is_left_in_the_folder(horrors: tuple) -> None:
    _, out, _ = horrors
    assert {path.name for path in out.iterdir()} == {"train-00000.parquet", "val-00000.parquet", MANIFEST}


def test_the_hash_of_each_source_file_is_kept(horrors: tuple) -> None:
    source, out, _ = horrors
    rows = [row for shard in sorted(out.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    assert len(rows) == 12
    for row in rows:
        assert row["source_sha256"] == hashlib.sha256((source / row["image_id"]).read_bytes()).hexdigest()


def test_shards_have_exactly_the_columns_of_the_schema(horrors: tuple) -> None:
    _, out, _ = horrors
    for shard in out.glob("*.parquet"):
        assert pq.read_schema(shard).equals(SCHEMA)


def test_pandas_reads_pixels_as_bytes(horrors: tuple) -> None:
    _, out, expected = horrors
    frame = pandas.read_parquet(out / "train-00000.parquet")
    assert list(frame.columns) == SCHEMA.names
    good = frame[frame["error"].isna()].set_index("image_id")
    assert set(good["hr_px"]) == {48}
    assert set(good["scale"]) == {2}
    assert good.loc["train/deep.png", "hr"] == expected["train/deep.png"].tobytes()
    assert {len(lr) for lr in good["lr"]} == {24 * 24}


def test_a_process_without_ray_reads_the_shards_with_pyarrow_alone(horrors: tuple) -> None:
    _, out, expected = horrors
    script = (
        "import sys, hashlib, pyarrow.parquet as pq;"
        "rows = pq.read_table(sys.argv[1]).to_pylist();"
        "print(hashlib.sha256(next(r['hr'] for r in rows if r['image_id'] == 'train/good.png')).hexdigest());"
        "assert not {'ray', 'raysr'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, str(out / "train-00000.parquet")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert found == hashlib.sha256(expected["train/good.png"].tobytes()).hexdigest()


def test_a_second_prepare_into_the_same_folder_is_refused_and_leaves_it_alone(horrors: tuple) -> None:
    source, out, _ = horrors
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(FileExistsError, match=r"already holds a prepared set; give another folder, or remove it"):
        prepare(PrepareConfig(source=str(source), out=str(out), geometry=GEOMETRY))
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_second_run_gives_the_same_bytes(horrors: tuple, tmp_path: Path) -> None:
    source, out, _ = horrors
    again = prepare(PrepareConfig(source=str(source), out=str(tmp_path / "again"), geometry=GEOMETRY))
    assert again == Manifest.read(str(out))
    for path in out.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_the_content_hash_does_not_depend_on_the_shards(
    horrors: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, _ = horrors
    monkeypatch.setattr(preparing, "PHOTOGRAPHS_PER_SHARD", 3)
    regrouped = prepare(PrepareConfig(source=str(source), out=str(tmp_path), geometry=GEOMETRY))
    assert len(regrouped.shards) == 5
    assert regrouped.content_sha256 == Manifest.read(str(out)).content_sha256
    assert len(PairSet(str(tmp_path), "train")) == 6


def test_another_geometry_gives_another_content_hash(horrors: tuple, tmp_path: Path) -> None:
    source, out, _ = horrors
    geometry = Geometry(hr_px=48, scale=3, fit="pad")
    other = prepare(PrepareConfig(source=str(source), out=str(tmp_path), geometry=geometry))
    assert other.content_sha256 != Manifest.read(str(out)).content_sha256


def test_the_manifest_is_written_after_the_last_shard(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "PHOTOGRAPHS_PER_SHARD", 2)
    out, calls = tmp_path / "set", []

    def on_shard(done: int, total: int) -> None:
        calls.append((done, total))
        assert not (out / MANIFEST).exists()

    config = PrepareConfig(source=str(picture_folder(6)), out=str(out), geometry=GEOMETRY, val_share=0.3)
    manifest = prepare(config, on_shard)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert json.loads((out / MANIFEST).read_text())["content_sha256"] == manifest.content_sha256


def test_an_interrupted_preparation_leaves_no_manifest_and_can_be_run_again(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    config = PrepareConfig(source=str(picture_folder(4)), out=str(tmp_path / "set"), geometry=GEOMETRY)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, stop)
    assert not (tmp_path / "set" / MANIFEST).exists()
    assert prepare(config).pairs == {"train": 3, "val": 1}


def test_a_split_without_a_usable_picture_fails_with_the_reasons_and_no_manifest(tmp_path: Path) -> None:
    folder_of_horrors(tmp_path / "source")
    (tmp_path / "source" / "val" / "good.bmp").unlink()
    config = PrepareConfig(source=str(tmp_path / "source"), out=str(tmp_path / "set"), geometry=GEOMETRY)
    with pytest.raises(ValueError, match=r"^no pair is left in the val split of .*val/text\.jpg: not a picture"):
        prepare(config)
    assert not (tmp_path / "set" / MANIFEST).exists()


def test_ray_prepares_what_one_process_prepares_and_bundled_is_cut_into_tiles(bundled_set: str, tmp_path: Path) -> None:
    manifest = prepare(PrepareConfig(source="bundled", out=str(tmp_path), geometry=Geometry(hr_px=96)))
    assert manifest == Manifest.read(bundled_set)
    assert manifest.geometry.fit == "tiles"
    assert manifest.photographs == {"train": 10, "val": 3}
    assert manifest.pairs == {"train": 345, "val": 49}
    assert manifest.refused == ()


def test_a_folder_is_padded_unless_told_otherwise(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    config = PrepareConfig(source=str(picture_folder(2)), out=str(tmp_path / "set"), geometry=Geometry(hr_px=32))
    assert prepare(config).geometry.fit == "pad"


@pytest.mark.skipif(not BSDS.is_dir(), reason="uses the photographs of ../shared/data, which is missing here")
def test_a_hundred_photographs_of_bsds500_are_prepared_without_a_refusal(tmp_path: Path) -> None:
    config = PrepareConfig(source=str(BSDS / "val"), out=str(tmp_path), geometry=Geometry(hr_px=64), val_share=0.1)
    manifest = prepare(config)
    assert manifest.refused == ()
    assert manifest.pairs == manifest.photographs == {"train": 90, "val": 10}
    boxes = {row.content_box for row in PairSet(str(tmp_path), "train").rows()}
    assert boxes == {(0, 10, 64, 53), (10, 0, 53, 64)}
