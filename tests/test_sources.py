import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from raysr.sources import BUNDLED, SUFFIXES, Source, find_photographs


def by_split(source: Source) -> dict[str, set[str]]:
    return {split: {p.image_id for p in source.photographs if p.split == split} for split in ("train", "val")}


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("val", ["val", "valid"])
def test_a_folder_with_train_and_val_is_split_by_them(tmp_path: Path, val: str) -> None:
    touch(tmp_path, "train/a.png", "train/deep/b.JPG", f"{val}/a.png", "test/c.png", "d.png")
    found = find_photographs(str(tmp_path), val_share=0.9, seed=3)
    assert by_split(found) == {"train": {"train/a.png", "train/deep/b.JPG"}, "val": {f"{val}/a.png"}}
    assert found.passed_over == {"beside train/ and val/": 2}
    assert {Path(p.location) for p in found.photographs} == {tmp_path / p.image_id for p in found.photographs}


def test_a_folder_with_train_alone_is_split_by_seed(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "train/b.png", "c.png")
    found = find_photographs(str(tmp_path), val_share=0.34, seed=0)
    assert {p.image_id for p in found.photographs} == {"train/a.png", "train/b.png", "c.png"}
    assert len(by_split(found)["val"]) == 1


def test_pictures_are_known_by_suffix_in_either_case_in_sorted_order(tmp_path: Path) -> None:
    pictures = {f"{index}{suffix}" for index, suffix in enumerate(SUFFIXES)} | {"SHOUT.PNG"}
    touch(tmp_path, *pictures, "notes.txt", "Thumbs.db", "noext", "folder.png/inside.jpg")
    source = find_photographs(str(tmp_path), val_share=0.5, seed=0)
    found = [p.image_id for p in source.photographs]
    assert set(found) == pictures | {"folder.png/inside.jpg"}
    splits = [[p.image_id for p in source.photographs if p.split == split] for split in ("train", "val")]
    assert [sorted(names) for names in splits] == splits
    assert source.passed_over == {".txt": 1, "hidden or system files": 1, "no suffix": 1}


def test_the_seeded_split_is_reproducible_disjoint_and_of_the_asked_size(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{index:02d}.png" for index in range(40)))
    first, again, other = (find_photographs(str(tmp_path), val_share=0.25, seed=seed) for seed in (1, 1, 2))
    assert first == again
    splits = by_split(first)
    assert len(splits["val"]) == 10
    assert len(splits["train"]) == 30
    assert not splits["train"] & splits["val"]
    assert by_split(other)["val"] != splits["val"]


@pytest.mark.parametrize(("count", "share", "n_val"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.01, 1), (10, 0.99, 9)])
def test_each_split_gets_at_least_one_photograph(tmp_path: Path, count: int, share: float, n_val: int) -> None:
    touch(tmp_path, *(f"{index}.png" for index in range(count)))
    splits = by_split(find_photographs(str(tmp_path), val_share=share, seed=0))
    assert (len(splits["train"]), len(splits["val"])) == (count - n_val, n_val)


def test_the_split_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    splits = []
    for name in ("here", "there"):
        touch(tmp_path / name, *(f"{index}.png" for index in range(12)))
        splits.append(by_split(find_photographs(str(tmp_path / name), val_share=0.3, seed=5)))
    assert splits[0] == splits[1]


def test_a_relative_folder_gives_absolute_paths(picture_folder: Callable[..., Path], monkeypatch) -> None:
    folder = picture_folder(2)
    monkeypatch.chdir(folder.parent)
    found = find_photographs(folder.name, val_share=0.5, seed=0)
    assert {p.location for p in found.photographs} == {str(folder / "00.png"), str(folder / "01.png")}


def test_every_bundled_photograph_is_in_the_wheel_and_opens() -> None:
    found = find_photographs("bundled", val_share=0.1, seed=0)
    assert {p.image_id for p in found.photographs} == set(BUNDLED)
    for photo in found.photographs:
        with Image.open(photo.location) as image:
            assert min(image.size) >= 300
    assert by_split(found)["val"] == {"camera.png", "chelsea.png", "coins.png"}


def test_the_bundled_stereo_pair_is_one_photograph_on_one_side() -> None:
    pair = [
        p for p in find_photographs("bundled", val_share=0.1, seed=0).photographs if p.image_id.startswith("motorcycle")
    ]
    assert len(pair) == 2
    assert len({(p.photograph, p.split) for p in pair}) == 1


def test_no_bundled_photograph_is_in_both_splits() -> None:
    found = find_photographs("bundled", val_share=0.1, seed=0)
    sides = [{p.photograph for p in found.photographs if p.split == split} for split in ("train", "val")]
    assert not sides[0] & sides[1]


def test_a_missing_folder_is_named_and_bundled_is_offered(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"/nowhere: no such folder; give a folder of pictures, or bundled, bsds500, df2k"
    ):
        find_photographs(str(tmp_path / "nowhere"), val_share=0.1, seed=0)


@pytest.mark.parametrize(("names", "count"), [([], 0), (["notes.txt"], 0), (["a.png"], 1)])
def test_a_folder_with_fewer_than_two_pictures_is_refused(tmp_path: Path, names: list[str], count: int) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=rf"holds {count} pictures; at least 2 are needed"):
        find_photographs(str(tmp_path), val_share=0.1, seed=0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused_by_its_value(tmp_path: Path, share: float) -> None:
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(ValueError, match=rf"--val-share must lie between 0 and 1, got {share}"):
        find_photographs(str(tmp_path), val_share=share, seed=0)


@pytest.mark.parametrize(("full", "empty"), [("train", "val"), ("val", "train")])
def test_an_empty_split_folder_is_refused_by_its_name(tmp_path: Path, full: str, empty: str) -> None:
    touch(tmp_path, f"{full}/a.png", f"{empty}/notes.txt")
    with pytest.raises(ValueError, match=rf"no pictures for the {empty} split \(looked for .*\.jpg"):
        find_photographs(str(tmp_path), val_share=0.1, seed=0)


def test_folders_in_capitals_are_splits_too(tmp_path: Path) -> None:
    touch(tmp_path, "Train/a.png", "VAL/b.png")
    assert by_split(find_photographs(str(tmp_path), val_share=0.5, seed=0)) == {
        "train": {"Train/a.png"},
        "val": {"VAL/b.png"},
    }


def test_a_split_folder_that_holds_nothing_at_all_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "train/b.png")
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="no pictures for the val split"):
        find_photographs(str(tmp_path), val_share=0.5, seed=0)


def test_bundled_takes_no_other_validation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--source bundled has a validation split of its own: leave out --val"):
        find_photographs("bundled", val=str(tmp_path), val_share=0.5, seed=0)


def test_prepared_sets_in_a_source_are_left_alone_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "set/manifest.json", "set/train-00000.parquet", "set/contact_sheet.png")
    touch(tmp_path, "other/manifest.json", "other/c.png", "settled.png")
    found = find_photographs(str(tmp_path), val_share=0.5, seed=0)
    assert {photo.image_id for photo in found.photographs} == {"a.png", "b.png", "other/c.png", "settled.png"}
    assert found.passed_over == {".json": 1, "in prepared sets": 3}


def test_a_file_and_a_word_that_is_nearly_a_name_are_told_what_is_wanted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(NotADirectoryError, match=r"a\.png: is a file, give the folder that it lies in"):
        find_photographs(str(tmp_path / "a.png"), val_share=0.5, seed=0)
    with pytest.raises(FileNotFoundError, match=r"^--source df2q: no such folder; did you mean df2k\?$"):
        find_photographs("df2q", val_share=0.5, seed=0)


def test_a_list_may_have_a_byte_order_mark_any_line_ends_and_names_with_spaces(tmp_path: Path) -> None:
    names = {" first.png", "my photo.png", "last .png", "x\u2028y.png"}
    touch(tmp_path / "pics", "other.png", *names)
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(sorted(names)).encode() + b"\r\n \n# no\n")
    found = find_photographs(str(tmp_path / "pics"), val=str(tmp_path / "val.txt"), val_share=0.5, seed=0)
    assert by_split(found) == {"train": {"other.png"}, "val": names}


def test_a_list_that_is_missing_or_in_another_encoding_says_what_is_wanted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "utf16.txt").write_text("a.png\n", encoding="utf-16")
    with pytest.raises(
        ValueError, match=r"--val .*utf16\.txt is not UTF-8 .*; give a text file in UTF-8 with the paths"
    ):
        find_photographs(str(tmp_path), val=str(tmp_path / "utf16.txt"), val_share=0.5, seed=0)
    with pytest.raises(FileNotFoundError, match=r"--val .*none\.txt: no such file; give a text file"):
        find_photographs(str(tmp_path), val=str(tmp_path / "none.txt"), val_share=0.5, seed=0)


def test_raw_files_of_cameras_are_refused_whatever_is_in_them(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.NEF", "d.heic"):
        Image.new("L", (16, 16)).save(tmp_path / name, "TIFF")
    found = find_photographs(str(tmp_path), val_share=0.5, seed=0).photographs
    assert {photo.image_id: photo.problem for photo in found} == {
        "a.png": None,
        "b.png": None,
        "c.NEF": ".nef is not read: convert it to PNG, TIFF or JPEG",
        "d.heic": ".heic is not read: convert it to PNG, TIFF or JPEG",
    }


def test_a_list_may_name_a_photograph_that_looks_like_a_comment(tmp_path: Path) -> None:
    for name in ("#1.png", "2.png", "3.png"):
        Image.new("L", (16, 16)).save(tmp_path / name)
    (tmp_path / "val.txt").write_text("# these validate\n#1.png\n./2.png\n")
    found = find_photographs(str(tmp_path), val=str(tmp_path / "val.txt"), val_share=0.5, seed=0).photographs
    assert {photo.image_id: photo.split for photo in found} == {"#1.png": "val", "2.png": "val", "3.png": "train"}


def test_the_digest_changes_with_what_is_in_a_source(tmp_path: Path) -> None:
    def digest() -> str:
        return find_photographs(str(tmp_path), val_share=0.5, seed=0).digest

    touch(tmp_path, "a.png", "b.png")
    before = digest()
    touch(tmp_path, "notes.txt")
    assert digest() == before
    touch(tmp_path, "c.png")
    more = digest()
    (tmp_path / "c.png").write_bytes(b"changed")
    assert len({before, more, digest()}) == 3


def test_the_split_of_names_and_seed_stays_what_it_was(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{index}.png" for index in range(12)))
    drawn = {seed: by_split(find_photographs(str(tmp_path), val_share=0.3, seed=seed))["val"] for seed in (0, 5)}
    assert drawn == {  # as sets were drawn that are there already
        0: {"10.png", "2.png", "5.png", "7.png"},
        5: {"1.png", "11.png", "7.png", "9.png"},
    }


def test_what_cannot_be_a_picture_takes_no_part_in_the_draw(tmp_path: Path) -> None:
    good = {"a.png", "b.png", "c.png"}
    touch(tmp_path, *good, *(f"._{name}" for name in good), "raw.NEF", "new.heic", ".Trash-1000/files/d.png")
    os.mkfifo(tmp_path / "0.png")
    (tmp_path / "1.png").symlink_to(tmp_path / "nothing")
    refused = {"raw.NEF", "new.heic", "0.png", "1.png"}
    for seed in range(40):
        splits = by_split(find_photographs(str(tmp_path), val_share=0.1, seed=seed))
        assert len(splits["val"]) == 1
        assert splits["val"] < good
        assert splits["train"] == good - splits["val"] | refused


def test_a_split_that_only_unusable_photographs_were_drawn_for_is_drawn_again_among_the_others(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{index}.png" for index in range(8)), "x.heic")
    source = find_photographs(str(tmp_path), val_share=0.25, seed=0)
    splits = by_split(source)
    one, other = sorted(splits["val"])
    assert source.redrawn({one, "0.png"}) is source
    redrawn = source.redrawn({one, other})
    again = by_split(redrawn)
    assert len(again["val"]) == 2  # a quarter of the six that are left
    assert not again["val"] & {one, other, "x.heic"}
    assert again["train"] | again["val"] == splits["train"] | splits["val"]
    names = [[photo.image_id for photo in redrawn.photographs if photo.split == split] for split in ("train", "val")]
    assert [sorted(some) for some in names] == names
    assert [photo.split for photo in redrawn.photographs] == ["train"] * 7 + ["val"] * 2
    assert len(by_split(source.redrawn(splits["train"]))["val"]) == 1  # one of the two that are left trains
    assert source.redrawn({f"{index}.png" for index in range(1, 8)}) is source  # one is left: nothing can be drawn


def test_a_split_that_was_not_drawn_is_never_drawn_again(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "train/b.png", "val/c.png")
    source = find_photographs(str(tmp_path), val_share=0.5, seed=0)
    assert source.redrawn({"val/c.png"}) is source


def test_a_source_of_too_few_pictures_says_what_else_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.heic", "c.cr2", ".photos/d.png", ".photos/e.png", "._a.png")
    wanted = r"it also holds 2 that cannot be read, 1 hidden or system files, 1 hidden or system folders"
    with pytest.raises(ValueError, match=rf"holds 1 pictures; at least 2 are needed.*\({wanted}\)$"):
        find_photographs(str(tmp_path), val_share=0.5, seed=0)


def test_files_that_lie_in_source_and_validation_are_counted_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "set/manifest.json", "set/train-00000.parquet", "._a.png")
    touch(tmp_path, "held/b.png", "held/set/manifest.json", "held/set/train-00000.parquet", "held/._b.png", "held/none")
    found = find_photographs(str(tmp_path), val=str(tmp_path / "held"), val_share=0.5, seed=0)
    assert found.passed_over == {"hidden or system files": 2, "in prepared sets": 4, "no suffix": 1}


COMPOSED, DECOMPOSED = "caf\u00e9.png", "cafe\u0301.png"
"""One name, as two systems write it."""


@pytest.mark.parametrize(("on_disk", "listed"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_list_names_photographs_in_either_form_of_unicode(tmp_path: Path, on_disk: str, listed: str) -> None:
    touch(tmp_path / "pics", f"{on_disk[:-4]}/{on_disk}", f"#{on_disk}", "b.png", "c.png")
    (tmp_path / "val.txt").write_text(f"# no file of {listed}\n{listed[:-4]}/{listed}\n#{listed}\n")
    found = find_photographs(str(tmp_path / "pics"), val=str(tmp_path / "val.txt"), val_share=0.5, seed=0)
    assert by_split(found)["val"] == {f"{on_disk[:-4]}/{on_disk}", f"#{on_disk}"}


def test_a_list_takes_a_name_as_it_stands_where_both_forms_are_there(tmp_path: Path) -> None:
    touch(tmp_path / "pics", COMPOSED, DECOMPOSED)
    (tmp_path / "val.txt").write_text(DECOMPOSED)
    found = find_photographs(str(tmp_path / "pics"), val=str(tmp_path / "val.txt"), val_share=0.5, seed=0)
    assert by_split(found) == {"train": {COMPOSED}, "val": {DECOMPOSED}}


def test_a_list_of_a_file_that_is_passed_over_says_so(tmp_path: Path) -> None:
    touch(tmp_path / "pics", "a.png", "b.png", ".mine/c.png")
    (tmp_path / "val.txt").write_text(".mine/c.png\n")
    with pytest.raises(ValueError, match=r"the first is '\.mine/c\.png' \(hidden and system files are passed over\)"):
        find_photographs(str(tmp_path / "pics"), val=str(tmp_path / "val.txt"), val_share=0.5, seed=0)
