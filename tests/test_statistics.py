import numpy as np
import pandas as pd
import pytest
from scipy import stats

from raysr.statistics import LEVEL, _bootstrap_variance, differences, estimate, holm, pareto_front, score_table


def crossed(rng: np.random.Generator, shape: tuple[int, int], seed_sd: float, photo_sd: float, sd: float) -> np.ndarray:
    seeds, photographs = shape
    noise = rng.normal(0, sd, shape)
    return noise + rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, photo_sd, (1, photographs))


@pytest.mark.parametrize(
    ("seed_sd", "photo_sd", "sd"),
    [(1, 0.1, 0.1), (0.1, 1, 0.1), (1, 1, 0.3), (0.3, 1, 0.3), (0, 1, 0.3)],
    ids=["seed noise", "photograph noise", "both", "photograph noise mostly", "no seed noise"],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(seed_sd: float, photo_sd: float, sd: float) -> None:
    rng = np.random.default_rng([int(10 * seed_sd), int(10 * photo_sd)])
    found = [estimate(5 + crossed(rng, (5, 20), seed_sd, photo_sd, sd)) for _ in range(2000)]
    covered = np.mean([one.low <= 5 <= one.high for one in found if one.low is not None and one.high is not None])
    assert 0.92 <= covered <= 0.98


def test_the_interval_of_a_difference_covers_the_truth_too() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(2000):
        photographs = rng.normal(0, 3, (1, 20))  # harder photographs are harder for both
        a, b = (photographs + level + crossed(rng, (5, 20), 0.3, 0.3, 0.2) for level in (1.0, 1.5))
        (one,) = differences({"a": pd.DataFrame(a), "b": pd.DataFrame(b)}, lower_is_better=True)
        assert one.estimate.low is not None
        assert one.estimate.high is not None
        hits += one.estimate.low <= -0.5 <= one.estimate.high
    assert 0.92 <= hits / 2000 <= 0.98


def test_pairs_that_do_not_differ_are_rarely_called_separable() -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(1000):
        tables = {name: pd.DataFrame(crossed(rng, (5, 20), 1, 1, 0.3)) for name in "abcd"}
        wrong += any(one.separable for one in differences(tables, lower_is_better=True))
    assert wrong / 1000 <= 1 - LEVEL


def test_without_photograph_noise_it_is_the_t_interval_of_the_seeds_means() -> None:
    seeds = np.array([1.0, 2.0, 4.0, 7.0])
    found = estimate(np.repeat(seeds[:, None], 6, axis=1))
    low, high = stats.t.interval(0.95, 3, seeds.mean(), stats.sem(seeds))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(stats.ttest_1samp(seeds, 0).pvalue)


def test_without_seed_noise_it_is_the_t_interval_of_the_photographs_means() -> None:
    photographs = np.array([1.0, 2.0, 4.0, 7.0, 3.0])
    found = estimate(np.repeat(photographs[None], 5, axis=0))
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, 4, photographs.mean(), stats.sem(photographs))
    )
    assert found.basis == "seeds and photographs"


def test_a_table_worked_by_hand() -> None:
    # Means of rows 2, 3, 7 and of columns 3, 25/6, 29/6: MS_seeds 21 (2 degrees of freedom), MS_photographs 31/12 (2),
    # MS_rest 1/12 (4).
    found = estimate(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [6.0, 7.5, 7.5]]))
    t2, t4 = stats.t.ppf(0.975, [2, 4])
    half = np.sqrt((21 * t2**2 + 31 / 12 * t2**2 - t4**2 / 12) / 9)
    assert found.mean == pytest.approx(4)
    assert found.standard_error == pytest.approx(np.sqrt((21 + 31 / 12 - 1 / 12) / 9))
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half))


def test_fewer_than_three_seeds_give_an_interval_over_photographs_that_says_so() -> None:
    scores = np.array([[1.0, 2.0, 4.0], [3.0, 2.0, 6.0]])
    found = estimate(scores)
    assert (found.basis, found.seeds, found.photographs) == ("photographs", 2, 3)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, scores.mean(), stats.sem(scores.mean(0))))


def test_one_photograph_gives_no_interval() -> None:
    found = estimate(np.array([[1.0], [2.0], [3.0]]))
    assert (found.mean, found.low, found.high, found.p_value, found.basis) == (2.0, None, None, None, "nothing")


def test_the_p_value_is_the_level_whose_interval_just_touches_zero() -> None:
    scores = np.random.default_rng(1).normal(0.5, 1, (5, 8))
    one = estimate(scores)
    assert one.p_value is not None
    assert one.low is not None
    # Moved by its lower end, the interval begins at 0: the error is that of the interval.
    assert estimate(scores - one.low).p_value == pytest.approx(1 - LEVEL)
    assert (one.p_value < 1 - LEVEL) == (one.low > 0)


@pytest.mark.parametrize("bad", [np.empty((0, 3)), np.array([[1.0, np.nan]]), np.array([[np.inf, 1.0]])])
def test_what_is_no_table_of_scores_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected finite scores"):
        estimate(bad)


def test_scores_that_are_all_the_same_have_no_width_and_a_clear_p_value() -> None:
    same, none = estimate(np.full((3, 4), 2.0)), estimate(np.zeros((3, 4)))
    assert (same.low, same.high, same.p_value) == (2.0, 2.0, pytest.approx(0))
    assert none.p_value == 1.0


def test_tiles_of_a_photograph_are_one_cluster() -> None:
    rows = [
        ("x", seed, photograph, value + seed)
        for seed in (0, 1)
        for photograph, value in (("cat", 1.0), ("cat", 3.0), ("dog", 10.0))
    ]
    images = pd.DataFrame([*rows, ("y", 0, "cat", 99.0)], columns=pd.Index(["arch", "seed", "photograph", "psnr"]))
    images["image_id"] = images["photograph"]
    table = score_table(images, "x", "psnr")
    assert table.to_dict("index") == {0: {"cat": 2.0, "dog": 10.0}, 1: {"cat": 3.0, "dog": 11.0}}


def test_a_photograph_that_has_no_such_score_is_left_out() -> None:
    pets = ["cat", "dog"]
    images = pd.DataFrame({"arch": "x", "seed": 0, "image_id": pets, "photograph": pets, "ms_ssim": [0.9, None]})
    assert list(score_table(images, "x", "ms_ssim").columns) == ["cat"]


def test_every_seed_is_judged_on_the_same_photographs() -> None:
    rows = [("x", 0, "cat", 1.0), ("x", 0, "dog", 2.0), ("x", 1, "cat", 3.0), ("x", 1, "dog", float("nan"))]
    images = pd.DataFrame(rows, columns=pd.Index(["arch", "seed", "photograph", "psnr"]))
    images["image_id"] = images["photograph"]
    assert score_table(images, "x", "psnr").to_dict("list") == {"cat": [1.0, 3.0]}


def images_of_two(scores: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    """PSNR and SSIM of architectures, one seed each, on the tiles of two photographs."""
    rows = [
        (arch, 0, f"{photograph}#{tile}", photograph, psnr, ssim)
        for arch, mine in scores.items()
        for (photograph, tile), (psnr, ssim) in zip((("cat", 0), ("cat", 1), ("dog", 0)), mine, strict=True)
    ]
    return pd.DataFrame(rows, columns=pd.Index(["arch", "seed", "image_id", "photograph", "psnr", "ssim"]))


def test_psnr_is_over_the_pictures_that_no_network_restores_exactly() -> None:
    images = images_of_two({"x": [(30, 0.9), (100, 1), (20, 0.5)], "y": [(31, 0.8), (33, 0.7), (21, 0.6)]})
    assert [score_table(images, arch, "psnr").to_dict("list") for arch in "xy"] == [
        {"cat": [30.0], "dog": [20.0]},
        {"cat": [31.0], "dog": [21.0]},
    ]
    assert score_table(images, "x", "ssim").to_dict("list") == {"cat": [0.95], "dog": [0.5]}


def test_targets_of_one_value_everywhere_are_left_out_of_every_table() -> None:
    images = images_of_two({"x": [(30, 0.9), (60, 1), (20, 0.5)], "y": [(31, 0.8), (33, 0.7), (21, 0.6)]})
    whole = score_table(images, "x", "ssim").to_dict("list")
    assert whole == {"cat": [0.95], "dog": [0.5]}  # a run made before does not know its flat targets
    images["flat"] = [False, True, False] + [None] * 3  # and one that was taken up again knows some
    for arch, cat in (("x", 0.9), ("y", 0.8)):
        assert score_table(images, arch, "ssim").to_dict("list")["cat"] == [cat]
    assert score_table(images.assign(flat=True), "x", "ssim").empty


def test_holm_corrects_step_by_step_and_never_turns_the_order_round() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_takes_no_seed_is_compared_with_every_seed_of_the_other() -> None:
    network = pd.DataFrame(np.random.default_rng(0).normal(0, 1, (4, 6)))
    bicubic = pd.DataFrame(np.full((1, 6), 3.0))
    (one,) = differences({"net": network, "bicubic": bicubic}, lower_is_better=True, seedless=frozenset({"bicubic"}))
    assert one.estimate == estimate(network.to_numpy() - 3.0)
    assert one.estimate.seeds == 4
    (turned,) = differences({"bicubic": bicubic, "net": network}, lower_is_better=True, seedless=frozenset({"bicubic"}))
    assert turned.estimate.mean == pytest.approx(-one.estimate.mean)
    assert turned.a_beats_b == pytest.approx(1 - one.a_beats_b)


def test_networks_are_compared_on_the_seeds_and_photographs_that_both_have() -> None:
    a = pd.DataFrame([[1.0, 2.0], [2.0, 3.0]], index=pd.Index([0, 1]), columns=pd.Index(["cat", "dog"]))
    b = pd.DataFrame([[5.0, 1.0], [9.0, 1.0]], index=pd.Index([1, 2]), columns=pd.Index(["cat", "owl"]))
    (one,) = differences({"a": a, "b": b}, lower_is_better=True)
    assert (one.estimate.mean, one.estimate.seeds, one.estimate.photographs) == (-3.0, 1, 1)


def test_the_chance_to_win_counts_new_seeds_of_both_and_halves_ties() -> None:
    a, b = pd.DataFrame([[1.0, 5.0], [2.0, 5.0]]), pd.DataFrame([[2.0, 5.0], [3.0, 4.0]])
    (one,) = differences({"a": a, "b": b}, lower_is_better=True)
    # cat: 1<2, 1<3, 2=2, 2<3 -> 3.5 of 4; dog: 5=5, 5>4, 5=5, 5>4 -> 1 of 4.
    assert one.a_beats_b == pytest.approx(4.5 / 8)
    (higher,) = differences({"a": a, "b": b}, lower_is_better=False)
    assert higher.a_beats_b == pytest.approx(1 - 4.5 / 8)


def seeds(rng: np.random.Generator, level: float, count: int) -> pd.DataFrame:
    return pd.DataFrame(level + rng.normal(0, 1e-3, (count, 12)))


def test_no_lead_is_sure_that_the_lost_seeds_of_its_network_take_back() -> None:
    rng = np.random.default_rng(0)
    lucky, steady = seeds(rng, 0.1, 3), seeds(rng, 0.2, 8)
    (alone,) = differences({"lucky": lucky, "steady": steady}, lower_is_better=True)
    assert alone.separable
    assert (alone.with_lost, alone.holds) == (None, True)
    (one,) = differences({"lucky": lucky, "steady": steady}, lower_is_better=True, lost={"lucky": range(3, 8)})
    assert one.estimate == alone.estimate
    assert not one.holds
    assert not one.separable
    assert one.a_beats_b == pytest.approx(3 / 8)  # a lost seed loses to all that finished
    # Turned round, and for a metric of which more is better, it is the same.
    tables = {"steady": 1 - steady, "lucky": 1 - lucky}
    (turned,) = differences(tables, lower_is_better=False, lost={"lucky": range(3, 8)})
    assert not turned.separable
    assert turned.a_beats_b == pytest.approx(5 / 8)


def test_a_lead_that_holds_with_the_lost_seeds_counted_as_the_worst_stays_sure() -> None:
    rng = np.random.default_rng(1)
    good, poor = seeds(rng, 0.1, 9), seeds(rng, 0.2, 10)
    (one,) = differences({"good": good, "poor": poor}, lower_is_better=True, lost={"good": [9]})
    assert one.separable
    assert one.with_lost is not None
    worst = pd.concat([good, poor]).max().to_numpy()
    filled = np.vstack([good.to_numpy(), worst[None]]) - poor.to_numpy()
    assert one.with_lost.mean == pytest.approx(filled.mean())
    assert one.p_holm == pytest.approx(estimate(filled).p_value)
    # What a lost seed did come to is a worst score too, if it is one.
    came_to = pd.DataFrame(np.full((1, 12), 5.0), index=pd.Index([9]))
    (bad,) = differences({"good": good, "poor": poor}, lower_is_better=True, lost={"good": [9]}, lost_scores=[came_to])
    assert not bad.separable


def test_lost_seeds_of_the_one_behind_and_of_what_takes_no_seed_change_no_verdict() -> None:
    rng = np.random.default_rng(2)
    good, poor = seeds(rng, 0.1, 8), seeds(rng, 0.2, 5)
    awful = pd.DataFrame(np.full((3, 12), 50.0), index=pd.Index(range(5, 8)))
    (one,) = differences(
        {"good": good, "poor": poor}, lower_is_better=True, lost={"poor": range(5, 8)}, lost_scores=[awful]
    )
    assert one.with_lost is not None
    assert one.with_lost.p_value is not None
    assert one.with_lost.p_value > 0.05  # so wide is the interval with them
    assert one.separable
    assert one.a_beats_b == 1.0
    bicubic = pd.DataFrame(np.full((1, 12), 0.01))
    tables, fixed = {"bicubic": bicubic, "poor": poor}, frozenset({"bicubic"})
    (one,) = differences(tables, lower_is_better=True, seedless=fixed, lost={"bicubic": [0]})
    assert (one.separable, one.with_lost) == (True, None)


def test_few_seeds_say_what_was_seen_and_nothing_of_new_ones() -> None:
    rng = np.random.default_rng(3)
    for count, photographs in ((1, 3), (2, 12), (5, 1)):
        a, b = seeds(rng, 0.1, count).iloc[:, :photographs], seeds(rng, 0.2, count).iloc[:, :photographs]
        (one,) = differences({"a": a, "b": b}, lower_is_better=True)
        assert (one.wins.won, one.wins.cases) == (count * count * photographs, count * count * photographs)
        assert one.wins.chance is None


def test_a_chance_for_new_seeds_has_its_uncertainty_also_where_every_case_was_won() -> None:
    rng = np.random.default_rng(4)
    widths: list[float] = []
    for count in (3, 8):
        (one,) = differences({"a": seeds(rng, 0.1, count), "b": seeds(rng, 0.2, count)}, lower_is_better=True)
        assert one.wins.chance is not None
        low, high = one.wins.chance
        assert (one.a_beats_b, high) == (1.0, 1.0)
        assert low == pytest.approx(count / (count + stats.norm.ppf(0.975) ** 2))  # Wilson's, of all won
        widths.append(1 - low)
    assert widths[0] > widths[1]


def test_the_variance_of_a_chance_is_that_of_a_bootstrap_over_seeds_and_photographs() -> None:
    rng = np.random.default_rng(6)
    won = rng.integers(0, 3, (4, 3, 7)) / 2
    drawn = [
        won[np.ix_(*(rng.integers(0, size, size) for size in won.shape))].mean() for _ in range(6000)
    ]  # fmt: skip
    assert _bootstrap_variance(won) == pytest.approx(np.var(drawn), rel=0.06)
    assert _bootstrap_variance(np.ones((4, 3, 7))) == pytest.approx(0)


def test_the_interval_of_a_chance_covers_it_as_often_as_it_says() -> None:
    # Each network's luck of a seed, and each photograph's taste, are random: P(A beats B) is known.
    rng = np.random.default_rng(5)
    seed_noise, taste, chance = 1.0, 0.5, stats.norm.cdf(0.6 / np.sqrt(2 * 1.0 + 0.5**2))
    covered = 0
    for _ in range(120):
        a, b = rng.normal(0.6, seed_noise, (8, 1)), rng.normal(0, seed_noise, (8, 1))
        tables = {"a": pd.DataFrame(a + rng.normal(0, taste, (1, 10))), "b": pd.DataFrame(b + np.zeros((1, 10)))}
        (one,) = differences(tables, lower_is_better=False)
        assert one.wins.chance is not None
        covered += one.wins.chance[0] <= chance <= one.wins.chance[1]
    assert covered >= 0.9 * 120


def test_the_front_keeps_what_nothing_else_beats() -> None:
    assert pareto_front([(1, 3), (2, 2), (2, 3), (3, 1), (1, 3)]) == [0, 1, 3, 4]
    assert pareto_front([]) == []
