import hashlib
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from raysr.batches import WINDOW_ROWS, ReadAhead, TrainingBatches, draw_patch, epoch_order
from raysr.images import Box, Geometry, Pair
from raysr.manifest import MANIFEST, Manifest, ManifestError, content_digest, pair_digest
from raysr.pairs import PairRow, PairSet, to_tensor, to_unit

GROUPS = [16, 16, 7, 16, 1, 16, 5] * 12  # 924 pairs: more than one window of shuffling


def whole_epoch(world_size: int, **which: int) -> list[tuple[int, int]]:
    ranks = (epoch_order(GROUPS, rank=rank, world_size=world_size, **which) for rank in range(world_size))
    return [pair for order in ranks for pair in pairs_of(order)]


def pairs_of(order: np.ndarray) -> list[tuple[int, int]]:
    return [(group, row) for group, row in order.tolist()]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_no_pair_comes_twice_in_an_epoch_over_all_ranks(world_size: int) -> None:
    order = whole_epoch(world_size, seed=0, epoch=3)
    assert len(order) == len(set(order))
    assert set(order) <= {(group, row) for group, rows in enumerate(GROUPS) for row in range(rows)}
    assert sum(GROUPS) - len(order) < world_size


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_every_rank_gets_an_equal_share_of_an_epoch(world_size: int) -> None:
    lengths = {
        len(epoch_order(GROUPS, seed=0, epoch=0, rank=rank, world_size=world_size)) for rank in range(world_size)
    }
    assert lengths == {sum(GROUPS) // world_size}


def test_an_epochs_order_is_a_pure_function() -> None:
    np.random.seed(1)  # noqa: NPY002  the global generators must not matter
    first = whole_epoch(2, seed=4, epoch=2)
    whole_epoch(2, seed=4, epoch=7)
    np.random.seed(2)  # noqa: NPY002
    assert whole_epoch(2, seed=4, epoch=2) == first


def test_an_epochs_order_is_the_one_that_it_always_was() -> None:
    orders = [whole_epoch(size, seed=3, epoch=epoch) for size in (1, 2, 3, 7) for epoch in (0, 5)]
    assert (
        hashlib.sha256(json.dumps(orders).encode()).hexdigest()
        == "191d6e71c00f4c0d4ef38d5ebacc088038229297bf448e44fcdd17db1a4cd998"
    )


def test_the_order_of_a_million_pairs_takes_eight_bytes_each() -> None:
    tracemalloc.start()
    order = epoch_order([16] * 62_500, seed=0, epoch=0, rank=0, world_size=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(order), order.nbytes) == (1_000_000, 8_000_000)
    assert peak < 24_000_000


def test_the_order_differs_between_epochs_and_seeds() -> None:
    orders = {tuple(whole_epoch(2, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_rank_reads_its_own_run_of_row_groups_in_every_epoch() -> None:
    for epoch in range(5):
        groups = [
            {group for group, _ in epoch_order(GROUPS, seed=0, epoch=epoch, rank=rank, world_size=3)}
            for rank in range(3)
        ]
        assert max(groups[0]) <= min(groups[1])
        assert max(groups[1]) <= min(groups[2])
        assert sum(map(len, groups)) <= len(GROUPS) + 2


def test_the_pairs_that_an_epoch_leaves_out_come_in_others() -> None:
    epochs = [set(pairs_of(epoch_order([16, 7], seed=0, epoch=epoch, rank=1, world_size=2))) for epoch in range(20)]
    assert {len(epoch) for epoch in epochs} == {11}
    assert len(set.union(*epochs)) == 12


def test_a_window_of_shuffling_opens_few_row_groups() -> None:
    order = epoch_order([16] * 200, seed=0, epoch=0, rank=1, world_size=2)
    assert len(order) == 1600
    for start in range(0, len(order), WINDOW_ROWS):
        groups = {group for group, _ in order[start : start + WINDOW_ROWS]}
        assert len(groups) <= WINDOW_ROWS // 16 + 1


def assert_equal_batches(first: object, second: object) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("patch_px", [None, 32])
def test_a_batch_is_the_same_whatever_was_read_before(bundled_set: str, patch_px: int | None) -> None:
    pairs = PairSet(bundled_set, "train")
    settings = {"batch_size": 16, "seed": 5, "rank": 1, "world_size": 2, "patch_px": patch_px}
    sequential = TrainingBatches(pairs, **settings)
    steps = range(2 * sequential.steps_per_epoch + 2)
    expected = {step: sequential.batch(step) for step in steps}
    jumping = TrainingBatches(pairs, **settings)
    for step in np.random.default_rng(0).permutation(steps)[:20]:
        assert_equal_batches(jumping.batch(int(step)), expected[step])
        assert_equal_batches(TrainingBatches(pairs, **settings).batch(int(step)), expected[step])


def test_few_row_groups_are_held_and_few_are_read_twice(bundled_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysr.batches.WINDOW_ROWS", 32)
    pairs = PairSet(bundled_set, "train")
    sizes = [rows for _, _, rows in pairs.groups]
    assert min(sizes) < max(sizes) == 16  # a short group must not make room for many long ones
    reads: list[int] = []
    read_arrays = pairs.read_arrays
    monkeypatch.setattr(pairs, "read_arrays", lambda index: reads.append(index) or read_arrays(index))
    batches = TrainingBatches(pairs, batch_size=8, seed=0)
    for step in range(batches.steps_per_epoch):
        batches.batch(step)
        assert sum(len(group.hr) for group in batches._groups.values()) <= 32 + 2 * 16
    assert len(reads) <= len(sizes) + len(pairs) / 32


def test_batches_are_bytes_that_become_luminance_from_0_to_1_as_floats(bundled_set: str) -> None:
    pairs = PairSet(bundled_set, "train")
    batch = TrainingBatches(pairs, batch_size=32, seed=0).batch(3)
    assert batch.lr.shape == (32, 1, 48, 48)
    assert batch.hr.shape == (32, 1, 96, 96)
    for pictures in batch:
        assert pictures.dtype == torch.uint8
        unit = to_unit(pictures, "full")
        assert unit.dtype == torch.float32
        assert 0 <= unit.min() < 0.2
        assert 0.8 < unit.max() <= 1
        assert torch.equal(unit, pictures / 255)


def test_patches_have_the_asked_size(bundled_set: str) -> None:
    batch = TrainingBatches(PairSet(bundled_set, "train"), batch_size=4, seed=0, patch_px=24).batch(0)
    assert batch.lr.shape == (4, 1, 12, 12)
    assert batch.hr.shape == (4, 1, 24, 24)


def test_an_epoch_of_batches_holds_each_pair_once_over_all_ranks(small_set: str) -> None:
    pairs = PairSet(small_set, "train")
    stored = sorted(row.hr.tobytes() for row in pairs.rows())
    for epoch in range(3):
        seen = []
        for rank in range(2):
            batches = TrainingBatches(pairs, batch_size=2, seed=0, rank=rank, world_size=2)
            assert batches.steps_per_epoch == 3
            for step in range(3 * epoch, 3 * epoch + 3):
                seen += [picture.numpy().tobytes() for picture in batches.batch(step).hr]
        assert sorted(seen) == stored


def test_bytes_become_floats_by_their_known_values() -> None:
    tensor = to_tensor([np.array([[0, 51], [102, 255]], np.uint8)] * 2, "full")
    assert tensor.shape == (2, 1, 2, 2)
    assert torch.equal(tensor[1, 0], torch.tensor([[0.0, 0.2], [0.4, 1.0]]))
    limited = to_tensor([np.array([[16, 235], [89, 16]], np.uint8)], "limited")
    assert torch.equal(limited[0, 0], torch.tensor([[0.0, 1.0], [73 / 219, 0.0]]))


@pytest.mark.parametrize("patch_px", [None, 32])
def test_read_ahead_and_held_pairs_give_the_same_batches(bundled_set: str, patch_px: int | None) -> None:
    pairs = PairSet(bundled_set, "train")
    settings = {"batch_size": 16, "seed": 5, "rank": 1, "world_size": 2, "patch_px": patch_px}
    plain = TrainingBatches(pairs, **settings)
    held = TrainingBatches(pairs, **settings, hold_on=torch.device("cpu"))
    ahead = ReadAhead(TrainingBatches(pairs, **settings))
    for step in [0, 1, 2, 3, 30, 31, 7, 8, 9]:
        expected = plain.batch(step)
        assert_equal_batches(ahead.batch(step), expected)
        assert_equal_batches(held.batch(step), expected)
    ahead.close()


def test_what_goes_wrong_while_reading_ahead_is_told_where_the_batch_is_asked_for(small_set: str) -> None:
    ahead = ReadAhead(TrainingBatches(PairSet(small_set, "train"), batch_size=2, seed=0))
    shard_of(small_set).unlink()
    with pytest.raises(FileNotFoundError, match="train-00000"):
        ahead.batch(0)
    ahead.close()


def test_validation_rows_are_shared_out_among_the_ranks(bundled_set: str) -> None:
    pairs = PairSet(bundled_set, "val")
    everything = [row.image_id for row in pairs.rows()]
    assert len(everything) == len(set(everything)) == len(pairs)
    shares = [[row.image_id for row in pairs.rows(rank, 3)] for rank in range(3)]
    assert [image_id for share in shares for image_id in share] == everything
    assert {len(share) for share in shares} == {16, 17}


def test_a_rank_reads_the_row_groups_of_its_validation_rows_alone(bundled_set: str) -> None:
    pairs = PairSet(bundled_set, "val")
    read: list[int] = []
    read_group = pairs.read_group
    pairs.read_group = lambda index: read.append(index) or read_group(index)  # counts, and reads
    counts = []
    for rank in range(3):
        pairs.rows(rank, 3)
        counts.append(len(read))
        read.clear()
    assert max(counts) <= 2 < len(pairs.groups)


def test_tiles_of_one_photograph_are_never_in_both_splits(bundled_set: str) -> None:
    sides = [{row.photograph for row in PairSet(bundled_set, split).rows()} for split in ("train", "val")]
    assert not sides[0] & sides[1]
    tiles = [row.image_id for split in ("train", "val") for row in PairSet(bundled_set, split).rows()]
    assert len(tiles) == len(set(tiles))
    assert {"motorcycle_left.png#000", "motorcycle_right.png#034", "camera.png#024"} <= set(tiles)


def random_patch(row: PairRow, patch_px: int, scale: int, rng: np.random.Generator) -> tuple:
    patch = draw_patch(row.content_box, row.hr.shape[0], patch_px, scale, rng)
    return patch.cut(row.lr), patch.times(scale).cut(row.hr)


def pair_row(lr: np.ndarray, scale: int, box: Box) -> PairRow:
    return PairRow("a", "a", lr.repeat(scale, axis=0).repeat(scale, axis=1), lr, box, "full")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_patch_is_aligned_in_all_eight_orientations(scale: int) -> None:
    lr = np.random.default_rng(0).permutation(256).astype(np.uint8).reshape(16, 16)  # every sample is unique
    row = pair_row(lr, scale, Box(0, 0, 16 * scale, 16 * scale))
    views = [turned[:, ::step] for k in range(4) for turned in [np.rot90(lr, k)] for step in (1, -1)]
    rng, orientations = np.random.default_rng(1), set()
    for _ in range(200):
        small, large = random_patch(row, 5 * scale, scale, rng)
        assert small.shape == (5, 5)
        assert large.shape == (5 * scale, 5 * scale)
        assert np.array_equal(large[::scale, ::scale], small)
        for index, view in enumerate(views):
            y, x = (int(place[0]) for place in np.nonzero(view == small[0, 0]))
            if np.array_equal(view[y : y + 5, x : x + 5], small):
                orientations.add(index)
    assert orientations == set(range(8))


@pytest.mark.parametrize("box", [Box(0, 10, 64, 53), Box(11, 0, 52, 64), Box(3, 5, 41, 63)])
@pytest.mark.parametrize("scale", [2, 4])
def test_a_patch_lies_inside_the_content_box_and_reaches_all_of_it(box: Box, scale: int) -> None:
    y, x = np.mgrid[0:64, 0:64]
    inside = (y >= box.top) & (y < box.bottom) & (x >= box.left) & (x < box.right)
    places = np.arange(4096).reshape(64, 64)
    row = PairRow("a", "a", places.astype(np.uint16), inside[::scale, ::scale].astype(np.uint8), box, "full")
    rng, corners = np.random.default_rng(2), set()
    for _ in range(500):
        _, large = random_patch(row, 16, scale, rng)
        assert inside.ravel()[large].all()
        corners.add(divmod(int(large.min()), 64))
    tops = range(-(-box.top // scale) * scale, box.bottom - 16 + 1, scale)
    lefts = range(-(-box.left // scale) * scale, box.right - 16 + 1, scale)
    assert {top for top, _ in corners} == set(tops)
    assert {left for _, left in corners} == set(lefts)


@pytest.mark.parametrize(("top", "bottom"), [(12, 20), (11, 20), (0, 7), (25, 32), (9, 24)])
def test_a_patch_larger_than_the_content_holds_all_of_it(top: int, bottom: int) -> None:
    inside = np.zeros((32, 32), np.uint8)
    inside[top:bottom] = 1
    row = PairRow("a", "a", inside, inside[::2, ::2], Box(0, top, 32, bottom), "full")
    for seed in range(50):
        small, large = random_patch(row, 16, 2, np.random.default_rng(seed))
        assert small.shape == (8, 8)
        assert np.array_equal(large[::2, ::2], small) or np.array_equal(large[1::2, 1::2], small)
        # Patches begin on the low-resolution grid, so an odd edge can cost one row of the content.
        assert int(large.sum()) >= 16 * (bottom - top - 1)


def shard_of(location: str, split: str = "train") -> Path:
    return next(Path(location).glob(f"{split}-*.parquet"))


def flip_a_byte(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)


DAMAGE = {
    "missing": (lambda shard: shard.unlink(), "is missing"),
    "a folder": (lambda shard: (shard.unlink(), shard.mkdir()), "is missing"),
    "zero bytes": (lambda shard: shard.write_bytes(b""), "has 0 bytes, not"),
    "truncated": (lambda shard: shard.write_bytes(shard.read_bytes()[:-100]), r"has \d+ bytes, not"),
    "a flipped byte": (flip_a_byte, r"is not what was written \(sha256\)"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_refused_by_its_name(small_set: str, damage: str) -> None:
    harm, reason = DAMAGE[damage]
    harm(shard_of(small_set))
    with pytest.raises(ManifestError, match=rf"^shard train-00000\.parquet of .* {reason}"):
        PairSet(small_set, "train")
    assert len(PairSet(small_set, "val")) == 2


@pytest.mark.parametrize("damage", ["missing", "zero bytes", "truncated"])
def test_a_short_shard_is_refused_without_reading_it(small_set: str, damage: str) -> None:
    DAMAGE[damage][0](shard_of(small_set))
    with pytest.raises(ManifestError, match=r"^shard train-00000\.parquet"):
        PairSet(small_set, "train", verify=False)


def test_a_shard_in_the_place_of_another_is_refused(bundled_set: str, small_set: str) -> None:
    shutil.copy(shard_of(bundled_set), shard_of(small_set))
    with pytest.raises(ManifestError, match=r"^shard train-00000\.parquet of .* bytes, not"):
        PairSet(small_set, "train")


def test_a_shard_that_the_manifest_does_not_list_is_ignored(small_set: str) -> None:
    before = [row.image_id for row in PairSet(small_set, "train").rows()]
    shutil.copy(shard_of(small_set), Path(small_set) / "train-00001.parquet")
    assert [row.image_id for row in PairSet(small_set, "train").rows()] == before


@pytest.mark.parametrize(("field", "reason"), [("rows", "has 6 rows, not 7"), ("pairs", "holds 6 train pairs where")])
def test_a_count_that_does_not_agree_is_refused(small_set: str, field: str, reason: str) -> None:
    file = Path(small_set) / MANIFEST
    manifest = json.loads(file.read_text())
    shard = next(shard for shard in manifest["shards"] if shard["name"].startswith("train-"))
    if field == "rows":
        shard["rows"] = 7
    else:
        manifest["pairs"]["train"] = 7
    file.write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match=reason):
        PairSet(small_set, "train")


def test_a_manifest_reads_back_as_it_was_written(small_set: str) -> None:
    manifest = Manifest.read(small_set)
    assert (Path(small_set) / MANIFEST).read_text() == manifest.to_json()
    assert manifest.geometry == Geometry(hr_px=32, fit="pad")
    assert manifest.pairs == manifest.photographs == {"train": 6, "val": 2}


def test_a_set_is_read_from_a_uri_as_from_its_path(small_set: str) -> None:
    plain, uri = (PairSet(location, "train").rows() for location in (small_set, f"file://{small_set}"))
    assert [row.image_id for row in plain] == [row.image_id for row in uri]
    assert all(np.array_equal(a.hr, b.hr) for a, b in zip(plain, uri, strict=True))


def test_a_set_without_a_manifest_is_not_finished(small_set: str) -> None:
    (Path(small_set) / MANIFEST).unlink()
    with pytest.raises(ManifestError, match=r"holds no prepared set \(manifest\.json is missing\)"):
        PairSet(small_set, "train")


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace('"request"', '"bequest"'),
        lambda text: text.replace('"scale": 2', '"scale": 0'),
        lambda text: text.replace('"hr_px": 32', '"hr_px": 33'),
        lambda text: text.replace('"rows"', '"columns"'),
        lambda text: text.replace('"geometry"', '"geography"'),
        lambda text: "\udcff" + text,
    ],
    ids=["empty", "cut", "list", "null", "key", "scale", "size", "shard", "geometry", "encoding"],
)
def test_a_damaged_manifest_is_refused(small_set: str, harm) -> None:
    file = Path(small_set) / MANIFEST
    file.write_bytes(harm(file.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(ManifestError, match=r"manifest\.json is damaged \(.*\): prepare the set again"):
        PairSet(small_set, "train")


@pytest.mark.parametrize("version", [2, 4, "3", None])
def test_a_manifest_of_another_version_is_refused(small_set: str, version: object) -> None:
    file = Path(small_set) / MANIFEST
    manifest = json.loads(file.read_text()) | {"schema_version": version}
    file.write_text(json.dumps(manifest))
    with pytest.raises(
        ManifestError, match=rf"has schema version {version!r}, but this raysr reads 3: prepare the set again"
    ):
        Manifest.read(small_set)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": 3, "world_size": 2}, "batch size 3 must be a positive multiple of the 2 workers"),
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": -2}, "batch size -2"),
        ({"batch_size": 7}, "has 6 training pairs, fewer than a batch of 7"),
        ({"batch_size": 8, "world_size": 4}, "has 6 training pairs, fewer than a batch of 8"),
        ({"batch_size": 2, "patch_px": 15}, "--patch-px 15 must be a multiple of the scale 2 and at most 32"),
        ({"batch_size": 2, "patch_px": 34}, "--patch-px 34 must be a multiple of the scale 2 and at most 32"),
        ({"batch_size": 2, "patch_px": 0}, "--patch-px 0 must be"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_their_values(small_set: str, settings: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainingBatches(PairSet(small_set, "train"), seed=0, **settings)


def test_the_content_hash_does_not_depend_on_order_but_on_every_part_of_a_pair(small_set: str) -> None:
    pairs = [Pair(row.hr, row.lr, row.content_box) for row in PairSet(small_set, "train").rows()]
    pair, brighter = pairs[0], pairs[0].hr.copy()
    brighter[3, 4] += 1
    digests = [
        *(pair_digest("a", "train", pair) for pair in pairs),
        pair_digest("b", "train", pair),
        pair_digest("a", "val", pair),
        pair_digest("a", "train", pair._replace(hr=brighter)),
        pair_digest("a", "train", pair._replace(lr=pair.lr + 1)),
        pair_digest("a", "train", pair._replace(content_box=Box(0, 0, 1, 1))),
    ]
    assert len(set(digests)) == len(digests) == 11
    assert content_digest(digests) == content_digest(digests[::-1])
    assert content_digest(digests) != content_digest(digests[1:])
