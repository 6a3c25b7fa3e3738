import errno
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
from conftest import synthetic
from PIL import Image

from raysr import prepare as preparing
from raysr import storage
from raysr.describe import check_set, summary
from raysr.folders import walk
from raysr.images import Geometry, make_pairs
from raysr.manifest import MANIFEST, SCHEMA, Manifest
from raysr.pairs import PairSet
from raysr.prepare import Advance, PrepareConfig, PrepareError, _plan, prepare
from raysr.shards import READ_TRIES, UNFINISHED, write_shard
from raysr.sheet import CAPTION_PX, CELL_PX, CONTACT_SHEET, GAP_PX
from raysr.sources import find_photographs

ROOT = Path(__file__).parents[1]
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


def test_nothing_but_shards_manifest_and_contact_sheet_is_left_in_the_folder(horrors: tuple) -> None:
    _, out, _ = horrors
    assert {path.name for path in out.iterdir()} == {
        *("train-00000.parquet", "val-00000.parquet"),
        *(MANIFEST, CONTACT_SHEET),
    }


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


def test_the_same_command_leaves_a_finished_set_alone_and_another_one_is_refused(horrors: tuple) -> None:
    source, out, _ = horrors
    before = {path: path.read_bytes() for path in out.iterdir()}
    config = PrepareConfig(source=str(source), out=str(out), geometry=GEOMETRY)
    assert prepare(config) == Manifest.read(str(out))
    for other in (replace(config, seed=1), replace(config, geometry=replace(GEOMETRY, scale=3))):
        only = r"--seed 0 then, 1 now" if other.seed else r"--geometry\.scale 2 then, 3 now"
        reason = rf"asked for otherwise \({only}\); give another folder, or remove it"
        with pytest.raises(FileExistsError, match=reason):
            prepare(other)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_workers_refuse_photographs_above_the_limit_that_is_asked_for(horrors: tuple, tmp_path: Path) -> None:
    source, out, _ = horrors
    large = Image.fromarray(synthetic(3, 300, 200))
    folder = shutil.copytree(source, tmp_path / "source")
    large.save(folder / "train" / "large.png")
    config = PrepareConfig(source=str(folder), out=str(tmp_path / "set"), geometry=GEOMETRY, max_megapixels=0.01)
    manifest = prepare(config)
    assert manifest.content_sha256 == Manifest.read(str(out)).content_sha256
    refused = {refusal.image_id: refusal.reason for refusal in manifest.refused}
    assert refused["train/large.png"] == "more than 10,000 pixels (300 x 200); --max-megapixels 1 takes it"
    # A set is another one with another limit, and can be mended with its own alone.
    with pytest.raises(FileExistsError, match=r"\(--max-megapixels 0\.01 then, 1\.0 now\)"):
        prepare(replace(config, max_megapixels=1.0))
    shard = tmp_path / "set" / manifest.shards[0].name
    whole = shard.read_bytes()
    shard.write_bytes(b"")
    assert prepare(config) == manifest
    assert shard.read_bytes() == whole
    taken = prepare(replace(config, out=str(tmp_path / "all"), max_megapixels=1.0))
    assert taken.pairs["train"] == manifest.pairs["train"] + 1


def test_a_set_from_before_there_was_a_limit_to_set_has_the_usual_one(horrors: tuple, tmp_path: Path) -> None:
    source, out, _ = horrors
    config = PrepareConfig(source=str(source), out=str(shutil.copytree(out, tmp_path / "set")), geometry=GEOMETRY)
    raw = json.loads((tmp_path / "set" / MANIFEST).read_text())
    del raw["request"]["max_megapixels"]
    (tmp_path / "set" / MANIFEST).write_text(json.dumps(raw))
    assert "max_megapixels" not in prepare(config).request
    with pytest.raises(FileExistsError, match=r"\(--max-megapixels 89\.478485 then, 200\.0 now\)"):
        prepare(replace(config, max_megapixels=200.0))


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

    def on_advance(advance: Advance) -> None:
        calls.append(advance)
        assert not (out / MANIFEST).exists()

    config = PrepareConfig(source=str(picture_folder(6)), out=str(out), geometry=GEOMETRY, val_share=0.3)
    manifest = prepare(config, on_advance)
    assert calls == [Advance(2, 6, 2, 0, 1), Advance(4, 6, 4, 0, 1), Advance(6, 6, 6, 0, 1)]
    assert json.loads((out / MANIFEST).read_text())["content_sha256"] == manifest.content_sha256


def test_an_interrupted_preparation_leaves_no_manifest_and_can_be_run_again(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    config = PrepareConfig(source=str(picture_folder(4)), out=str(tmp_path / "set"), geometry=GEOMETRY)

    def stop(advance: Advance) -> None:
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
    manifest = prepare(PrepareConfig(source="bundled", out=str(tmp_path), geometry=Geometry(hr_px=96), val_share=0.25))
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


def test_a_run_that_was_killed_goes_on_with_what_is_missing(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "PHOTOGRAPHS_PER_SHARD", 1)
    config = PrepareConfig(source=str(picture_folder(8)), out=str(tmp_path / "set"), geometry=GEOMETRY)
    whole = prepare(replace(config, out=str(tmp_path / "whole")))

    def stop(advance: Advance) -> None:
        if advance.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, stop)
    out = tmp_path / "set"
    finished = sorted(path.name.removesuffix(".json") for path in (out / UNFINISHED).glob("*.json"))
    assert 4 <= len(finished) < 9
    untouched, cut = out / finished[0], out / finished[1]
    cut.write_bytes(cut.read_bytes()[:-10])  # as no run of ours leaves it: done again all the same
    (out / f".{finished[2]}.0123abcd.part").write_bytes(b"half of a shard")  # as a killed worker leaves it
    written = untouched.stat().st_mtime_ns
    assert prepare(config) == whole
    assert untouched.stat().st_mtime_ns == written
    names = {path.name for path in out.iterdir()}
    assert names == {*(shard.name for shard in whole.shards), MANIFEST, CONTACT_SHEET}
    assert check_set(str(out)).content_sha256 == whole.content_sha256


def test_a_photograph_that_was_changed_since_the_run_was_killed_is_prepared_again(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = picture_folder(4)
    config = PrepareConfig(source=str(folder), out=str(tmp_path / "set"), geometry=GEOMETRY)

    def stop(advance: Advance) -> None:
        if advance.done == advance.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, stop)
    Image.fromarray(synthetic(77, 40, 30)).save(folder / "00.png")
    prepare(config)
    fresh = prepare(replace(config, out=str(tmp_path / "fresh")))
    assert Manifest.read(str(tmp_path / "set")).content_sha256 == fresh.content_sha256


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Three photographs that train and three that validate: one twice, one again as a small JPEG."""
    train, val = tmp_path / "leaky" / "train", tmp_path / "leaky" / "val"
    train.mkdir(parents=True)
    val.mkdir()
    photos = [Image.fromarray(np.asarray(skimage_photo(name))) for name in ("astronaut", "coffee", "chelsea", "rocket")]
    photos[0].save(train / "own.png")
    photos[1].save(train / "same.bmp")
    photos[2].resize((300, 200)).save(train / "small.jpg", quality=60)
    photos[1].save(val / "b.png")
    photos[2].save(val / "c.png")
    photos[3].save(val / "d.png")
    return tmp_path / "leaky"


def skimage_photo(name: str) -> Image.Image:
    found = find_photographs("bundled", val_share=0.1, seed=0).photographs
    return Image.open(next(photo.location for photo in found if photo.image_id.startswith(name))).convert("RGB")


def test_a_photograph_whose_pixels_validate_is_refused_in_training_and_one_that_looks_alike_is_told_of(
    leaky: Path, tmp_path: Path
) -> None:
    config = PrepareConfig(source=str(leaky), out=str(tmp_path / "set"), geometry=GEOMETRY)
    manifest = prepare(config)
    assert [(one.image_id, one.reason) for one in manifest.refused] == [
        ("train/same.bmp", "its pixels validate, as val/b.png")
    ]
    assert [(one.train, one.val) for one in manifest.near_duplicates] == [("train/small.jpg", "val/c.png")]
    assert any("train/small.jpg trains and val/c.png validates" in line for line in summary(manifest))
    assert {row.image_id for row in PairSet(str(tmp_path / "set"), "train").rows()} == {
        "train/own.png",
        "train/small.jpg",
    }
    assert check_set(str(tmp_path / "set")) == manifest


def test_near_duplicates_are_left_out_of_training_when_asked_for(leaky: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    manifest = prepare(PrepareConfig(source=str(leaky), out=out, geometry=GEOMETRY, drop_near_duplicates=True))
    assert {one.image_id for one in manifest.refused} == {"train/same.bmp", "train/small.jpg"}
    rows = [row for row in pq.read_table(Path(out, "train-00000.parquet")).to_pylist() if row["error"]]
    assert {row["image_id"]: row["source_sha256"] for row in rows} == {
        name: hashlib.sha256((leaky / name).read_bytes()).hexdigest() for name in ("train/same.bmp", "train/small.jpg")
    }
    assert manifest.refused[1].reason.startswith("looks like val/c.png, which validates (")
    assert manifest.near_duplicates == ()
    assert manifest.pairs == {"train": 1, "val": 3}
    assert check_set(out) == manifest


def test_strict_stops_at_a_photograph_that_cannot_be_used(horrors: tuple, leaky: Path, tmp_path: Path) -> None:
    for source, reason in ((horrors[0], "(train|val)/"), (leaky, r"train/same\.bmp: its pixels validate")):
        config = PrepareConfig(source=str(source), out=str(tmp_path / "set"), geometry=GEOMETRY, strict=True)
        with pytest.raises(ValueError, match=rf"^{reason}.*without --strict it would be listed"):
            prepare(config)
        assert not (tmp_path / "set" / MANIFEST).exists()


def test_photographs_and_set_may_lie_in_a_bucket(picture_folder: Callable[..., Path], s3: str, tmp_path: Path) -> None:
    folder, remote = picture_folder(6), storage.join(s3, tmp_path.name)
    (folder / "notes.txt").write_text("not a picture")
    for file in folder.iterdir():
        storage.write_bytes(storage.join(remote, "photographs", file.name), file.read_bytes())
    here = prepare(PrepareConfig(source=str(folder), out=str(tmp_path / "set"), geometry=GEOMETRY))
    config = PrepareConfig(
        source=storage.join(remote, "photographs"), out=storage.join(remote, "set"), geometry=GEOMETRY
    )
    there = prepare(config)
    assert there.content_sha256 == here.content_sha256
    assert there.shards == here.shards
    assert there.passed_over == {".txt": 1}
    assert check_set(storage.join(remote, "set")) == there
    assert set(storage.children(storage.join(remote, "set"))) == {
        *(shard.name for shard in there.shards),
        *(MANIFEST, CONTACT_SHEET),
    }
    assert prepare(config) == there


def test_photographs_in_a_bucket_may_have_any_name(
    picture_folder: Callable[..., Path], s3: str, tmp_path: Path
) -> None:
    folder, remote = picture_folder(6), storage.join(s3, tmp_path.name, "my pics")
    names = ["my photo.png", "übung.png", "a#b.png", "a?b.png", "a%20b.png", "100%.png"]
    for file, name in zip(sorted(folder.iterdir()), names, strict=True):
        storage.write_bytes(storage.join(remote, name), file.read_bytes())
        file.rename(folder / name)
    here = prepare(PrepareConfig(source=str(folder), out=str(tmp_path / "here"), geometry=GEOMETRY))
    plain = f"{s3}/{tmp_path.name}/my pics"
    there = prepare(PrepareConfig(source=plain, out=str(tmp_path / "there"), geometry=GEOMETRY))
    assert there.refused == ()
    assert there.content_sha256 == here.content_sha256
    rows = [row for split in ("train", "val") for row in PairSet(str(tmp_path / "there"), split).rows()]
    assert sorted(row.image_id for row in rows) == sorted(names)


def test_pipes_devices_and_names_that_are_no_text_are_listed(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = picture_folder(4)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "endless.jpg").symlink_to("/dev/zero")
    Path(os.fsdecode(bytes(folder) + b"/bad\xff.png")).write_bytes((folder / "00.png").read_bytes())
    (folder / "red\x1b[31m\n.png").write_bytes(b"no picture")
    manifest = prepare(PrepareConfig(source=str(folder), out=str(tmp_path / "set"), geometry=GEOMETRY))
    assert {one.image_id: one.reason[:16] for one in manifest.refused} == {
        "bad\\xff.png": "its name is not ",
        "endless.jpg": "no plain file: a",
        "pipe.jpg": "no plain file: a",
        "red\x1b[31m\n.png": "not a picture in",
    }
    assert sum(manifest.pairs.values()) == 4
    lines = summary(manifest)
    assert all(line.isprintable() for line in lines)
    assert "4 photographs refused" in lines
    assert check_set(str(tmp_path / "set")) == manifest


def test_a_summary_lists_twenty_and_counts_all(horrors: tuple) -> None:
    manifest = Manifest.read(str(horrors[1]))
    many = tuple(replace(manifest.refused[0], image_id=f"{index}.png") for index in range(57))
    lines = summary(replace(manifest, refused=many, passed_over={".txt": 2, "beside train/ and val/": 3}))
    assert "files passed over: 2 .txt, 3 beside train/ and val/" in lines
    assert "57 photographs refused (manifest.json lists all; the first 20:)" in lines
    assert sum(line.startswith("refused ") for line in lines) == 20


@pytest.mark.parametrize("harm", ["removed", "cut", "flipped", "manifest cut", "manifest empty"])
def test_the_same_command_mends_a_finished_set(leaky: Path, tmp_path: Path, harm: str) -> None:
    config = PrepareConfig(source=str(leaky), out=str(tmp_path / "set"), geometry=GEOMETRY, drop_near_duplicates=True)
    whole = prepare(config)
    before = {path: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    shard, manifest = tmp_path / "set" / "train-00000.parquet", tmp_path / "set" / MANIFEST
    if harm == "removed":
        shard.unlink()
    elif harm.startswith("manifest"):
        manifest.write_bytes(manifest.read_bytes()[: 0 if harm.endswith("empty") else 300])
        (tmp_path / "set" / "train-00007.parquet").write_bytes(b"of other photographs")
    else:
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data[:-1] if harm == "cut" else data)
    assert prepare(config) == whole
    assert {path: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before
    assert check_set(str(tmp_path / "set")) == whole


def test_facts_that_are_damaged_are_not_trusted(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    config = PrepareConfig(source=str(picture_folder(4)), out=str(tmp_path / "set"), geometry=GEOMETRY)

    def stop(advance: Advance) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, stop)
    for facts in (tmp_path / "set" / UNFINISHED).glob("*.json"):
        facts.write_bytes(facts.read_bytes()[:50])
    assert prepare(config).pairs == {"train": 3, "val": 1}


CHANGES = {
    "added": "1 added, the first is 'new.png'",
    "removed": "1 no longer among them, the first is '00.png'",
    "changed": "'00.png' was changed",
    "renamed": "1 added, the first is 'new.png'; 1 no longer among them, the first is '00.png'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_has_changed_since_is_told_of_and_files_are_read_only_where_their_names_are_the_same(
    picture_folder: Callable[..., Path], tmp_path: Path, change: str
) -> None:
    folder = picture_folder(4)
    config = PrepareConfig(source=str(folder), out=str(tmp_path / "set"), geometry=GEOMETRY)
    prepare(config)
    (folder / "notes.txt").write_text("no photograph: does not matter")
    prepare(config)
    if change == "removed":
        (folder / "00.png").unlink()
    elif change == "renamed":
        (folder / "00.png").rename(folder / "new.png")
    else:
        Image.fromarray(synthetic(9, 40, 30)).save(folder / ("00.png" if change == "changed" else "new.png"))
    read: list[int] = []
    told = re.escape(f"({CHANGES[change]}): give another folder, or remove it to prepare all")
    with pytest.raises(FileExistsError, match=rf"has changed since .*{told}"):
        prepare(config, on_fetch=lambda name, done, total: read.append(done))
    assert bool(read) == (change == "changed")


def touched(source: str) -> None:
    """Give every photograph another time of change, as a copy has it, and nothing else."""
    before = [one.stamp for one in walk(source).files]
    while any(one.stamp in before for one in walk(source).files if one.problem is None):
        for one in walk(source).files:
            if one.problem is None:
                storage.write_bytes(one.location, storage.read_bytes(one.location))


def test_photographs_that_were_only_touched_are_the_same_and_are_compared_once(leaky: Path, place: str) -> None:
    source, out = storage.join(place, "source"), storage.join(place, "set")
    for file in (file for file in leaky.rglob("*") if file.is_file()):
        storage.write_bytes(storage.join(source, *file.relative_to(leaky).parts), file.read_bytes())
    for name in ("damaged.png", "raw.heic"):
        storage.write_bytes(storage.join(source, "train", name), b"no picture")
    if "://" not in source:
        Path(source, "train", "lost.png").symlink_to("nothing")
    config = PrepareConfig(source=source, out=out, geometry=replace(GEOMETRY, fit="tiles"))
    whole = prepare(config)
    assert any(one.dropped for one in whole.refused)
    touched(source)
    read: list[int] = []
    again = prepare(config, on_fetch=lambda name, done, total: read.append(done))
    assert again != whole
    assert replace(again, source_digest=whole.source_digest) == whole
    assert read[-1] == sum(storage.size(one.location) for one in walk(source).files if one.name.endswith(READABLE))
    read.clear()
    assert prepare(config, on_fetch=lambda name, done, total: read.append(done)) == again == check_set(out)
    assert read == []


READABLE = ("own.png", "same.bmp", "small.jpg", "b.png", "c.png", "d.png", "damaged.png")


def test_a_set_that_cannot_be_written_is_the_same_all_the_same(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    config = PrepareConfig(source=str(picture_folder(4)), out=str(tmp_path / "set"), geometry=GEOMETRY)
    whole = prepare(config)
    touched(config.source)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        again = prepare(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert again.content_sha256 == whole.content_sha256
    assert Manifest.read(config.out) == whole
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        *(shard.name for shard in whole.shards),
        *(MANIFEST, CONTACT_SHEET),
    }


@pytest.mark.parametrize("harm", ["removed", "image_id", "source_sha256", "all"])
def test_a_set_is_mended_whose_photographs_were_touched(
    picture_folder: Callable[..., Path], tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "PHOTOGRAPHS_PER_SHARD", 2)
    config = PrepareConfig(source=str(picture_folder(6)), out=str(tmp_path / "set"), geometry=GEOMETRY)
    whole = prepare(config)
    shard = tmp_path / "set" / "train-00001.parquet"
    before = shard.read_bytes()
    if harm == "removed":
        shard.unlink()
    elif harm != "all":
        text = next(row[harm] for row in pq.read_table(shard).to_pylist()).encode()
        shard.write_bytes(before.replace(text, text.translate(bytes([*range(48), *b"9876543210", *range(58, 256)]))))
    else:
        shard.write_bytes(bytes(255 - byte for byte in before))
    assert not shard.exists() or shard.read_bytes() != before
    touched(config.source)
    mended = prepare(config)
    assert (
        replace(mended, source_digest=whole.source_digest)
        == whole
        == replace(check_set(config.out), source_digest=whole.source_digest)
    )
    assert shard.read_bytes() == before


def test_a_source_may_be_spelled_in_another_way(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(picture_folder(4).parent)
    Path("val.txt").write_text("00.png\n")
    config = PrepareConfig(source="photographs", val="val.txt", out="set", geometry=GEOMETRY)
    whole = prepare(config)
    for source in ("photographs/", "./photographs", str(tmp_path / "photographs")):
        assert prepare(replace(config, source=source, val=str(tmp_path / "val.txt"))) == whole
    Path("bundled").symlink_to("photographs")
    with pytest.raises(FileExistsError, match=r"\(--source photographs then, \./bundled now\)"):
        prepare(replace(config, source="./bundled"))


def test_photographs_that_have_changed_sides_are_told_of(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, listed = picture_folder(4), tmp_path / "val.txt"
    listed.write_text("00.png\n")
    config = PrepareConfig(source=str(folder), val=str(listed), out=str(tmp_path / "set"), geometry=GEOMETRY)
    prepare(config)
    listed.write_text("01.png\n")
    with pytest.raises(FileExistsError, match=r"\(2 of the other split, the first is '00\.png'\)"):
        prepare(config)


def test_hidden_and_system_files_neither_train_nor_stop_a_strict_run(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = picture_folder(4)
    clean = prepare(PrepareConfig(source=str(folder), out=str(tmp_path / "clean"), geometry=GEOMETRY, strict=True))
    for name in ("._00.png", "._01.png", "Thumbs.db", "@eaDir/00.png", ".Trash-1000/files/old.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no picture")
    Image.fromarray(synthetic(9, 40, 30)).save(folder / ".Trash-1000" / "files" / "old.png")
    (tmp_path / "set" / "lost+found").mkdir(parents=True)  # as on a fresh disk
    manifest = prepare(PrepareConfig(source=str(folder), out=str(tmp_path / "set"), geometry=GEOMETRY, strict=True))
    assert manifest.shards == clean.shards
    assert manifest.passed_over == {"hidden or system files": 3, "hidden or system folders": 2}
    assert "files passed over: 3 hidden or system files, 2 hidden or system folders" in summary(manifest)


def test_unusable_files_leave_no_split_empty(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "PHOTOGRAPHS_PER_SHARD", 4)
    folder = picture_folder(9)
    config = PrepareConfig(source=str(folder), out=str(tmp_path / "set"), geometry=GEOMETRY, val_share=0.25)
    drawn = find_photographs(str(folder), val_share=0.25, seed=0).photographs
    first, second = (Path(photo.location) for photo in drawn if photo.split == "val")
    first.write_text("no picture, by its bytes")
    second.write_bytes(second.read_bytes()[:-100])
    manifest = prepare(config)
    assert {one.image_id for one in manifest.refused} == {first.name, second.name}
    assert manifest.pairs == {"train": 5, "val": 2}
    before = {path: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    assert prepare(config) == manifest == check_set(config.out)
    (tmp_path / "set" / "val-00000.parquet").unlink()
    touched(str(folder))
    assert prepare(config).content_sha256 == manifest.content_sha256
    (tmp_path / "set" / MANIFEST).write_text(manifest.to_json())
    assert {path: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before


def test_a_finished_set_that_was_downloaded_needs_its_photographs_no_more(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    unpacked = tmp_path / "cache" / "bsds500"
    for split in ("train", "val"):
        (unpacked / split).mkdir(parents=True)
    for index, photo in enumerate(sorted(picture_folder(4).iterdir())):
        photo.rename(unpacked / ("val" if index == 3 else "train") / photo.name)
    for split in ("train", "val"):
        names = [photo.name for photo in (unpacked / split).iterdir()]
        (unpacked / f".{split}.json").write_text(json.dumps({"photographs": names}))
    config = PrepareConfig(
        source="bsds500", out=str(tmp_path / "set"), geometry=GEOMETRY, cache=str(tmp_path / "cache")
    )
    whole = prepare(config)
    (unpacked.parent).rename(tmp_path / "gone")
    assert prepare(replace(config, mirror="http://127.0.0.1:9")) == whole
    assert not unpacked.exists()


def test_a_folder_with_something_else_in_it_is_left_alone(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    config = PrepareConfig(source=str(picture_folder(4)), out=str(tmp_path / "mine"), geometry=GEOMETRY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds 'thesis\.tex' and no prepared set.*give an empty folder"):
        prepare(config)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_set_must_not_lie_among_its_photographs(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = picture_folder(4)
    (tmp_path / "link").symlink_to(folder)
    for source, out in ((folder, folder / "set"), (folder, folder), (tmp_path / "link", folder / "set")):
        with pytest.raises(ValueError, match=r"lies inside --source .*: give a folder outside of it"):
            prepare(PrepareConfig(source=str(source), out=str(out), geometry=GEOMETRY))
    assert len(list(folder.iterdir())) == 4


def test_a_set_of_another_raysr_is_not_overwritten(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    config = PrepareConfig(source=str(picture_folder(4)), out=str(tmp_path / "set"), geometry=GEOMETRY)
    prepare(config)
    manifest = tmp_path / "set" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"schema_version": 3', '"schema_version": 2'))
    with pytest.raises(FileExistsError, match=r"schema version 2.*: remove it, or give another folder"):
        prepare(config)


def test_strict_does_not_stop_at_what_was_asked_to_be_dropped(leaky: Path, tmp_path: Path) -> None:
    config = PrepareConfig(source=str(leaky), out=str(tmp_path / "set"), geometry=GEOMETRY, drop_near_duplicates=True)
    strict = prepare(replace(config, strict=True))
    assert {one.image_id for one in strict.refused} == {"train/same.bmp", "train/small.jpg"}
    assert strict.content_sha256 == prepare(replace(config, out=str(tmp_path / "lax"))).content_sha256


def test_what_fails_in_a_worker_is_told_in_a_few_lines(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    found = find_photographs(str(picture_folder(2)), val_share=0.5, seed=0)
    (task, *_) = preparing._plan(found)
    undecided = Geometry(hr_px=48)  # an invariant of ours that is broken: no fit
    with pytest.raises(PrepareError, match=r"^a worker failed: ValueError: geometry\.fit must be pad") as caught:
        list(preparing._run([task], undecided, str(tmp_path / "set")))
    assert "images.py" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 12


def test_the_lines_of_the_readme_read_a_whole_split(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preparing, "PHOTOGRAPHS_PER_SHARD", 2)
    folder = picture_folder(8)
    (folder / "00.png").write_bytes(b"no picture")
    manifest = prepare(PrepareConfig(source=str(folder), out="data/mine", geometry=GEOMETRY))
    block = next(one for one in (ROOT / "README.md").read_text().split("```") if "import glob" in one)
    found: dict[str, Any] = {}
    exec(block.removeprefix("python\n"), found)  # noqa: S102
    assert len(found["table"]) == len(found["frame"]) == manifest.pairs["train"] == 6
    first = PairSet("data/mine", "train").rows()[0]
    assert np.array_equal(found["hr"], first.hr)
    assert np.array_equal(found["lr"], first.lr)


def test_a_place_that_cannot_be_written_is_told_without_rays_traceback(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    config = PrepareConfig(source=str(picture_folder(2)), out=str(tmp_path / "file" / "set"), geometry=GEOMETRY)
    with pytest.raises(NotADirectoryError) as caught:
        prepare(config)
    assert "Traceback" not in str(caught.value)


def test_two_folders_and_a_list_split_as_they_say(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = picture_folder(6)
    (folder / "held").mkdir()
    for name in ("04.png", "05.png"):
        (folder / name).rename(folder / "held" / name)
    (tmp_path / "val.txt").write_text("# these validate\nheld/04.png\n./held/05.png\n\n")
    for index, val in enumerate((folder / "held", tmp_path / "val.txt")):
        config = PrepareConfig(source=str(folder), val=str(val), out=str(tmp_path / f"{index}"), geometry=GEOMETRY)
        assert prepare(config).pairs == {"train": 4, "val": 2}
        names = {Path(row.image_id).name for row in PairSet(str(tmp_path / f"{index}"), "val").rows()}
        assert names == {"04.png", "05.png"}


def test_a_contact_sheet_shows_twelve_pairs(bundled_set: str) -> None:
    with Image.open(Path(bundled_set) / CONTACT_SHEET) as sheet:
        picture = np.asarray(sheet).astype(int)
    rows, lr_px = list(PairSet(bundled_set, "train").rows()), CELL_PX // 2
    width, height = CELL_PX + lr_px + 3 * GAP_PX, CELL_PX + CAPTION_PX + GAP_PX
    assert picture.shape == (4 * height + GAP_PX, 3 * width + GAP_PX)
    found: list[int] = []
    for place in range(12):
        left, top = GAP_PX + place % 3 * width, GAP_PX + place // 3 * height + CAPTION_PX
        target = picture[top : top + CELL_PX, left : left + CELL_PX]
        given = picture[top : top + lr_px, left + CELL_PX + GAP_PX :][:, :lr_px]
        errors = [np.abs(target - resized(row.hr, CELL_PX)).mean() for row in rows]
        found.append(int(np.argmin(errors)))
        assert errors[found[-1]] < 1
        assert np.abs(given - resized(rows[found[-1]].lr, lr_px)).mean() < 1
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0, len(rows) - 1)  # from all over the set


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)).astype(int)


def test_a_thousand_damaged_pictures_are_each_prepared_or_listed(tmp_path: Path) -> None:
    rng, formats = np.random.default_rng(11), {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "gif": "GIF"}
    source = tmp_path / "damaged"
    (source / "val").mkdir(parents=True)
    (source / "train").mkdir()
    Image.fromarray(synthetic(1, 60, 40)).save(source / "val" / "good.png")
    for index in range(1000):
        suffix = list(formats)[index % len(formats)]
        buffer = io.BytesIO()
        Image.fromarray(synthetic(index, 60, 40)).save(buffer, formats[suffix])
        data = bytearray(buffer.getvalue())
        if index % 3 == 0:
            del data[int(rng.integers(len(data))) :]
        else:
            for place in rng.integers(0, len(data), 1 + index % 7):
                data[place] = int(rng.integers(256))
        (source / "train" / f"{index:04d}.{suffix}").write_bytes(data)
    manifest = prepare(PrepareConfig(source=str(source), out=str(tmp_path / "set"), geometry=GEOMETRY))
    rows = {row.image_id: row for row in PairSet(str(tmp_path / "set"), "train").rows()}
    listed = {one.image_id for one in manifest.refused}
    assert len(rows) + len(listed) == 1000
    assert not set(rows) & listed
    assert min(len(rows), len(listed)) > 100
    for image_id, row in rows.items():
        (pair,) = make_pairs((source / image_id).read_bytes(), GEOMETRY).pairs
        assert np.array_equal(row.hr, pair.hr)
        if image_id.endswith(".png"):  # a PNG vouches for its pixels: it is right, or it is not opened
            assert np.array_equal(row.hr, padded(synthetic(int(Path(image_id).stem), 60, 40)))


def test_a_full_disk_leaves_nothing_half_written_and_the_same_command_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    source, small = tmp_path / "source", tmp_path / "small"
    source.mkdir()
    small.mkdir()
    for index in range(40):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (200, 200), np.uint8)).save(
            source / f"{index:02d}.png"
        )
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        config = PrepareConfig(source=str(source), out=str(small / "set"), geometry=Geometry(hr_px=200))
        with pytest.raises(OSError, match=r"No space left on device.*the same command goes on from here") as caught:
            prepare(config)
        assert caught.value.errno == errno.ENOSPC
        assert not any(path.name.endswith(".part") for path in (small / "set").rglob("*"))
        assert not (small / "set" / MANIFEST).exists()
        for shard in (small / "set").glob("*.parquet"):
            pq.read_table(shard)
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        assert prepare(config).pairs == {"train": 36, "val": 4}
        check_set(config.out)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_write_that_fails_leaves_neither_the_file_nor_a_part_of_it(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    storage.write_bytes(str(tmp_path / "there"), b"before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for name in ("there", "new"):
            with pytest.raises(OSError, match="File too large"):
                storage.write_bytes(str(tmp_path / name), bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"there": b"before"}


def test_a_machine_that_does_not_see_the_photographs_says_so(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = picture_folder(2)
    (task, *_) = preparing._plan(find_photographs(str(folder), val_share=0.5, seed=0))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"does not see .*/photographs: .* for example in s3://BUCKET/FOLDER"):
        write_shard(str(tmp_path / "set"), task, GEOMETRY)
    assert not (tmp_path / "set").exists()


def test_a_shard_that_only_its_writer_sees_stops_the_run(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    config = PrepareConfig(source=str(picture_folder(2)), out=str(tmp_path / "set"), geometry=GEOMETRY)
    (task, *_) = preparing._plan(find_photographs(config.source, val_share=0.5, seed=0))
    facts = write_shard(str(tmp_path / "of another machine"), task, GEOMETRY)
    with pytest.raises(FileNotFoundError, match=r"wrote train-00000\.parquet .*not to be seen here: .*share"):
        preparing._check_seen(config, config.out, facts)


def test_a_link_that_leads_nowhere_is_listed(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = picture_folder(3)
    (folder / "lost.png").symlink_to(tmp_path / "nothing")
    manifest = prepare(PrepareConfig(source=str(folder), out=str(tmp_path / "set"), geometry=GEOMETRY))
    (lost,) = manifest.refused
    assert lost.image_id == "lost.png"
    assert re.match("cannot be read: .*No such file or directory", lost.reason)


def test_a_picture_that_is_gone_when_its_turn_comes_is_listed(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = picture_folder(4)
    (task, *_) = _plan(find_photographs(str(folder), val_share=0.25, seed=0))
    gone = task.photographs[1]
    Path(gone.location).unlink()
    facts = write_shard(str(tmp_path / "set"), task, replace(GEOMETRY, fit="pad"))
    assert {one.image_id: one.reason for one in facts.photographs if one.reason is not None} == {
        gone.image_id: "cannot be read: No such file or directory"
    }
    (row,) = [
        row for row in pq.read_table(tmp_path / "set" / task.name).to_pylist() if row["image_id"] == gone.image_id
    ]
    assert row["source_sha256"] == ""  # never read


@pytest.mark.parametrize("failures", [2, 9])
def test_storage_that_fails_is_tried_again_and_no_photograph_is_left_out_for_it(
    failures: int, picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raysr.shards.READ_PAUSE_S", 0.0)
    (task, *_) = _plan(find_photographs(str(picture_folder(4)), val_share=0.25, seed=0))
    plain, left = storage.read_bytes, [failures]

    def stale(location: str) -> bytes:
        if location == task.photographs[1].location and left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return plain(location)

    monkeypatch.setattr(storage, "read_bytes", stale)
    geometry = replace(GEOMETRY, fit="pad")
    if failures > READ_TRIES:
        with pytest.raises(OSError, match=r"cannot be read: .*Stale file handle"):
            write_shard(str(tmp_path / "set"), task, geometry)
    else:
        facts = write_shard(str(tmp_path / "set"), task, geometry)
        assert [one.reason for one in facts.photographs] == [None] * 3


def test_a_picture_that_kills_its_worker_ends_the_job_and_the_suspects_are_named(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        os._exit(1)

    monkeypatch.setattr("raysr.prepare.write_shard", die)
    config = PrepareConfig(source=str(picture_folder(4)), out=str(tmp_path / "set"), geometry=GEOMETRY)
    with pytest.raises(PrepareError, match=r"photographs killed its worker, each of 3 times: from .*png to .*png"):
        prepare(config)


def test_a_folder_that_cannot_be_used_is_refused_before_gigabytes_are_downloaded(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"holds 'thesis\.tex' and no prepared set"):
        prepare(PrepareConfig(source="df2k", out=str(tmp_path), mirror="http://127.0.0.1:9", cache=str(tmp_path / "c")))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"source": "x"}, "give --source and --out, or --describe alone"),
        ({}, "give --source and --out, or --describe alone"),
        ({"source": "x", "out": "y", "describe": "z"}, "--describe stands alone: it does not go with --source, --out"),
        ({"describe": "z", "strict": True}, "--describe stands alone: it does not go with --strict"),
        ({"describe": "z", "geometry": GEOMETRY}, "--describe stands alone: it does not go with --geometry"),
        ({"source": "x", "out": "y", "seed": -1}, "--seed must be 0 or more, got -1"),
        ({"source": "x", "out": "y", "max_megapixels": 0.0}, "--max-megapixels must be a number above 0, got 0.0"),
        ({"source": "x", "out": "y", "max_megapixels": float("nan")}, "--max-megapixels must be .* above 0, got nan"),
        ({"describe": "z", "max_megapixels": 200.0}, "--describe stands alone: it does not go with --max-megapixels"),
        ({"source": "df2k", "out": "y", "mirror": "nonsense"}, "--mirror must be an address .* got 'nonsense'"),
    ],
)
def test_what_is_asked_for_must_make_sense(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PrepareConfig(**settings)


def many_photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(synthetic(index, 900, 700)).save(folder / f"{index:03d}.png", compress_level=1)
    return folder


@pytest.mark.slow
@pytest.mark.chaos
def test_a_job_that_is_killed_goes_on_and_ends_with_the_set_of_an_undisturbed_one(tmp_path: Path) -> None:
    source, out = many_photographs(tmp_path / "source", 200), tmp_path / "set"
    command = [sys.executable, str(ROOT / "jobs" / "prepare.py"), "--source", str(source), "--geometry.hr-px", "256"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for finished in (1, 4, 8):
        job = subprocess.Popen(
            [*command, "--out", str(out)], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        while len(list((out / UNFINISHED).glob("*.json"))) < finished:
            assert job.poll() is None
            time.sleep(0.01)
        os.killpg(job.pid, signal.SIGKILL)  # the driver, Ray and all of its workers
        job.wait()
        assert not (out / MANIFEST).exists()
    for place in (out, tmp_path / "undisturbed"):
        done = subprocess.run([*command, "--out", str(place)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "train: 180 pairs of 180 photographs" in done.stdout
    assert check_set(str(out)) == check_set(str(tmp_path / "undisturbed"))
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "undisturbed").iterdir()}
    described = subprocess.run([*command[:2], "--describe", str(out)], capture_output=True, text=True, check=True)
    assert "every hash is right" in described.stdout
    shard = next(out.glob("train-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    described = subprocess.run([*command[:2], "--describe", str(out)], capture_output=True, text=True)
    assert described.returncode == 1
    assert shard.name in described.stderr


TWO_NODES = """
import os, sys
import ray
from ray.cluster_utils import Cluster
from raysr import prepare as preparing
from raysr.images import Geometry

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
preparing.PHOTOGRAPHS_PER_SHARD = 4
lost = False

def on_advance(advance):
    global lost
    print(advance, flush=True)
    if advance.nodes == 2 and not lost and advance.done < advance.total:
        lost = True
        cluster.remove_node(second, allow_graceful=False)
        print("removed", flush=True)

config = preparing.PrepareConfig(source=sys.argv[1], out=sys.argv[2], geometry=Geometry(hr_px=256))
print("hash", preparing.prepare(config, on_advance).content_sha256, flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.fleet
@pytest.mark.smoke
def test_two_nodes_share_the_work_and_the_loss_of_one_is_survived(tmp_path: Path) -> None:
    source = many_photographs(tmp_path / "source", 160)
    alone = prepare(PrepareConfig(source=str(source), out=str(tmp_path / "one"), geometry=Geometry(hr_px=256)))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", TWO_NODES, str(source), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "nodes=2" in done.stdout
    assert "removed" in done.stdout
    assert f"hash {alone.content_sha256}" in done.stdout
    assert check_set(str(tmp_path / "two")).photographs == {"train": 144, "val": 16}
