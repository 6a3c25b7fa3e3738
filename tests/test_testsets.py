from pathlib import Path

import numpy as np
import pytest
from conftest import synthetic
from PIL import Image

from raysr.images import PictureError
from raysr.protocol import resize_bytes
from raysr.testsets import KNOWN_SIZES, find_set, open_picture, recognise


def save(file: Path, width: int = 24, height: int = 16, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(synthetic(seed, width, height)).save(file)
    return file


def listed(folder: Path, scale: int = 2) -> dict[str, str | None]:
    return {
        one.image_id: None if one.given is None else str(one.given.relative_to(folder.parent))
        for one in find_set(folder, scale).pictures
    }


LAYOUTS = {
    "EDSR": ("Set5", "Set5/HR/baby.png", "Set5/LR_bicubic/X2/babyx2.png"),
    "EDSR, by its inner folder": ("Set5/HR", "Set5/HR/baby.png", "Set5/LR_bicubic/X2/babyx2.png"),
    "SelfExSR": ("Urban100", "Urban100/image_SRF_2/img_001_SRF_2_HR.png", "Urban100/image_SRF_2/img_001_SRF_2_LR.png"),
    "SelfExSR, flat": ("BSD100", "BSD100/img_001_SRF_2_HR.png", "BSD100/img_001_SRF_2_LR.png"),
    "DIV2K": ("DIV2K_valid_HR", "DIV2K_valid_HR/0801.png", "DIV2K_valid_LR_bicubic/X2/0801x2.png"),
    "BasicSR, uncut": ("Set14", "Set14/original/zebra.png", "Set14/LR_bicubic/X2/zebrax2.png"),
    "BasicSR": ("Set14", "Set14/GTmod12/zebra.png", "Set14/LRbicx2/zebra.png"),
    "beside each other": ("mine", "mine/cat.png", "mine/catx2.png"),
    "beside each other, by words": ("mine", "mine/cat.png", "mine/cat_LR.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_targets_and_their_inputs_are_found_in_every_layout(layout: str, tmp_path: Path) -> None:
    folder, target, given = LAYOUTS[layout]
    save(tmp_path / target)
    save(tmp_path / given, 12, 8)
    found = find_set(tmp_path / folder, 2)
    assert [(one.target, one.given) for one in found.pictures] == [(tmp_path / target, tmp_path / given)]
    assert found.name == folder.removesuffix("/HR")


def test_a_plain_folder_has_targets_alone_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "notes.txt"):
        save(tmp_path / "mine" / name.replace(".txt", ".bmp")).rename(tmp_path / "mine" / name)
    assert listed(tmp_path / "mine") == {"a.jpg": None, "b.png": None}


def test_hidden_and_system_files_are_neither_targets_nor_inputs_and_others_are_counted(tmp_path: Path) -> None:
    good = save(tmp_path / "mine" / "a.png")
    for name in ("._a.png", ".hidden.png", "._ax2.png", ".ax2.png"):
        save(tmp_path / "mine" / name)
    for name in ("Thumbs.db", "desktop.ini", "README", "LICENSE", "notes.TXT"):
        (tmp_path / "mine" / name).write_text("no picture")
    (tmp_path / "mine" / "@eaDir").mkdir()
    found = find_set(tmp_path / "mine", 2)
    assert [(one.target, one.given) for one in found.pictures] == [(good, None)]
    assert found.passed_over == {".txt": 1, "hidden or system files": 6, "no suffix": 2}
    good.rename(tmp_path / "mine" / ".a.png")
    (tmp_path / "mine" / "deeper").mkdir()
    with pytest.raises(ValueError, match=r"has no pictures; its folders are deeper: give"):
        find_set(tmp_path / "mine", 2)


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
"""One name, as two systems write it."""


@pytest.mark.parametrize("target", ["mine/HR/{}.png", "mine/{}.PNG", "mine/{}.tif"])
@pytest.mark.parametrize("suffix", ["png", "PNG", "Png", "BMP"])
@pytest.mark.parametrize("forms", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), (COMPOSED, COMPOSED)])
def test_inputs_are_found_in_either_form_of_unicode_and_with_suffixes_in_either_case(
    tmp_path: Path, target: str, suffix: str, forms: tuple[str, str]
) -> None:
    mine, theirs = forms
    given = "mine/LR_bicubic/X2/{}x2.{}" if "HR" in target else "mine/{}x2.{}"
    save(tmp_path / target.format(mine))
    save(tmp_path / given.format(theirs, suffix), 12, 8)
    save(tmp_path / "elsewhere" / f"{theirs}.{suffix}", 12, 8)
    expected = {Path(target.format(mine)).name: given.format(theirs, suffix)}
    assert listed(tmp_path / "mine") == expected
    (one,) = find_set(tmp_path / "mine", 2, tmp_path / "elsewhere").pictures
    assert one.given == tmp_path / "elsewhere" / f"{theirs}.{suffix}"


def test_an_input_of_the_targets_own_suffix_goes_first(tmp_path: Path) -> None:
    save(tmp_path / "mine" / "a.Png")
    for suffix in ("PNG", "Png", "bmp", "png"):
        save(tmp_path / "mine" / f"ax2.{suffix}", 12, 8)
    assert listed(tmp_path / "mine") == {"a.Png": "mine/ax2.Png"}


def test_results_of_other_methods_beside_selfexsrs_targets_are_not_targets(tmp_path: Path) -> None:
    for kind in ("HR", "LR", "bicubic", "SRCNN"):
        save(tmp_path / "Set5" / "image_SRF_2" / f"img_001_SRF_2_{kind}.png")
    save(tmp_path / "Set5" / "image_SRF_4" / "img_001_SRF_4_HR.png")
    assert list(listed(tmp_path / "Set5")) == ["img_001_SRF_2_HR.png"]
    assert list(listed(tmp_path / "Set5", 4)) == ["img_001_SRF_4_HR.png"]


def test_inputs_of_another_scale_are_not_taken(tmp_path: Path) -> None:
    save(tmp_path / "Set5" / "HR" / "baby.png")
    save(tmp_path / "Set5" / "LR_bicubic" / "X2" / "babyx2.png", 12, 8)
    assert listed(tmp_path / "Set5", 3) == {"baby.png": None}


def test_inputs_can_be_named(tmp_path: Path) -> None:
    save(tmp_path / "mine" / "cat.png")
    other = save(tmp_path / "elsewhere" / "cat.png", 12, 8)
    assert find_set(tmp_path / "mine", 2, other.parent).pictures[0].given == other
    with pytest.raises(ValueError, match=r"no file in .* is a counterpart .* expected names such as catx3.png"):
        find_set(tmp_path / "mine", 3, tmp_path / "mine")


def test_a_folder_without_pictures_names_the_folders_in_it(tmp_path: Path) -> None:
    save(tmp_path / "benchmark" / "Set5" / "HR" / "baby.png")
    with pytest.raises(ValueError, match="has no pictures; its folders are Set5: give those that are sets"):
        find_set(tmp_path / "benchmark", 2)
    with pytest.raises(ValueError, match="is no folder"):
        find_set(tmp_path / "nowhere", 2)


def test_a_target_is_cut_to_a_multiple_of_the_scale(tmp_path: Path) -> None:
    file = save(tmp_path / "mine" / "odd.png", 26, 17)
    hr = open_picture(find_set(tmp_path / "mine", 3).pictures[0], 3).hr
    assert np.array_equal(hr, np.asarray(Image.open(file))[:15, :24])


def test_an_input_of_another_size_or_damaged_is_not_used_and_the_reason_is_given(tmp_path: Path) -> None:
    save(tmp_path / "mine" / "a.png")
    given = save(tmp_path / "mine" / "ax2.png", 13, 8)
    (one,) = find_set(tmp_path / "mine", 2).pictures
    opened = open_picture(one, 2)
    assert opened.lr is None
    assert opened.note == "ax2.png was not used: it has 13 x 8 pixels where 12 x 8 are expected"
    given.write_bytes(given.read_bytes()[:60])
    assert "ax2.png was not used: " in str(open_picture(one, 2).note)
    save(given, 12, 8, seed=4)
    opened = open_picture(one, 2)
    assert opened.note is None
    assert np.array_equal(opened.lr, synthetic(4, 12, 8))
    assert open_picture(one, 2, use_given=False).lr is None


def test_what_is_changed_as_a_picture_is_read_is_told(tmp_path: Path) -> None:
    target = save(tmp_path / "mine" / "a.png")
    Image.open(target).convert("RGBA").save(target)
    given = save(tmp_path / "mine" / "ax2.png", 12, 8)
    (one,) = find_set(tmp_path / "mine", 2).pictures
    assert open_picture(one, 2).changes == ("target: alpha laid on black",)
    Image.fromarray(synthetic(0, 12, 8, 1).astype(np.uint16) * 257).save(given)
    assert open_picture(one, 2).changes == ("target: alpha laid on black", "input: 16 bits rounded to 8")
    for unusable in (b"no picture", save(tmp_path / "other.png", 13, 8).read_bytes()):
        given.write_bytes(unusable)
        assert open_picture(one, 2).changes == ("target: alpha laid on black",)
    assert open_picture(one, 2, use_given=False).changes == ("target: alpha laid on black",)


def test_a_target_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (1, 8)).save(tmp_path / "mine" / "thin.png")
    (tmp_path / "mine" / "text.png").write_text("no picture")
    text, thin = find_set(tmp_path / "mine", 2).pictures
    with pytest.raises(PictureError, match="1 x 8 pixels are too few for x2"):
        open_picture(thin, 2)
    with pytest.raises(PictureError, match="not a picture"):
        open_picture(text, 2)


def test_set5_and_set14_are_recognised_by_name_or_by_number_and_sizes(tmp_path: Path) -> None:
    save(tmp_path / "Set-5" / "a.png")
    assert recognise(find_set(tmp_path / "Set-5", 2)) == "set5"
    names = {"exact": 0, "uncut": -1, "cut": 4, "other": 20}
    for name, cut in names.items():
        for index, (width, height) in enumerate(KNOWN_SIZES["set5"]):
            save(tmp_path / name / f"{index}.png", width - cut, height - cut)
    assert [recognise(find_set(tmp_path / name, 2)) for name in names] == ["set5", "set5", "set5", None]
    (tmp_path / "exact" / "4.png").write_text("no picture")
    assert recognise(find_set(tmp_path / "exact", 2)) is None


def test_grey_pictures_become_three_equal_colours(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    Image.fromarray(synthetic(1, 12, 8, 1)).save(tmp_path / "mine" / "grey.png")
    hr = open_picture(find_set(tmp_path / "mine", 2).pictures[0], 2).hr
    assert np.array_equal(hr[..., 0], hr[..., 2])
    assert resize_bytes(hr, 6, 4, "matlab").shape == (4, 6, 3)
