"""Shared fixtures. Signatures with shapes are checked while the tests run."""

import copy
import functools
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from groups import pytest_collection_modifyitems  # noqa: F401
from jaxtyping import install_import_hook
from PIL import Image

CHECKED = ["raysr.images", "raysr.pairs", "raysr.batches", "raysr.models", "raysr.losses", "raysr.metrics"]
CHECKED += ["raysr.protocol", "raysr.judging", "raysr.testsets", "raysr.resemblance"]

with install_import_hook(CHECKED, "beartype.beartype"):  # before anything else imports them
    import raysr.judging
    import raysr.metrics
    import raysr.models  # noqa: F401
    from raysr import losses, storage
    from raysr.images import Geometry
    from raysr.manifest import MANIFEST
    from raysr.sources import find_photographs


def prepare_here(source: str, out: Path, geometry: Geometry) -> str:
    """What `prepare` writes, in this process and without Ray; test_prepare holds the two equal."""
    from raysr import prepare as preparing  # here, so that tests without Ray do not wait for its import

    config = preparing.PrepareConfig(source=source, out=str(out), geometry=geometry, val_share=0.25)
    found = find_photographs(source, val_share=0.25, seed=0)
    results = [preparing.write_shard(str(out), task, geometry) for task in preparing._plan(found)]
    manifest = preparing._manifest(config, geometry, found, results, ())
    storage.write_text(storage.join(str(out), MANIFEST), manifest.to_json())
    preparing._tidy(str(out), manifest)
    return str(out)


def synthetic(seed: int, width: int, height: int, channels: int = 3) -> np.ndarray:
    """A picture with smooth slopes, a sharp edge and a little noise; none of its samples is 0."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        130 + 60 * np.sin(x * rng.uniform(0.05, 0.3)) + 30 * np.cos(y * rng.uniform(0.05, 0.3)) + 25 * (x > y)
        for _ in range(channels)
    ]
    picture = np.clip(np.stack(planes, axis=-1) + rng.normal(0, 3, (height, width, channels)), 1, 255)
    return picture.astype(np.uint8).squeeze()


DRAWN = functools.cache(losses._draw_vgg)


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    """Copies of one random trunk: to draw VGG16's 138 million weights takes seconds, which test_losses alone spends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_draw_vgg", lambda: copy.deepcopy(DRAWN()))
        yield


@pytest.fixture(scope="session")
def ray_session(s3: str) -> Iterator[None]:
    """One local Ray of two CPUs for the whole run, whatever cluster the environment names; its workers find `s3`."""
    import ray

    from raysr.cluster import start_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        start_ray(num_cpus=2)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def bundled_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The photographs of the scikit-image wheel in tiles of 96 pixels, x2. To be read only."""
    return prepare_here("bundled", tmp_path_factory.mktemp("bundled"), Geometry(hr_px=96, fit="tiles"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight pictures of 32 pixels, x2, a quarter of which validate. To be read only."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(8):
        Image.fromarray(synthetic(index, 40, 30)).save(folder / f"{index:02d}.png")
    return prepare_here(str(folder), tmp_path_factory.mktemp("set"), Geometry(hr_px=32, fit="pad"))


@pytest.fixture
def small_set(tmp_path: Path, picture_folder: Callable[..., Path]) -> str:
    """Six training and two validation pictures of 32 pixels, x2, in one shard a split. May be damaged."""
    return prepare_here(str(picture_folder(8)), tmp_path / "set", Geometry(hr_px=32, fit="pad"))


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of `count` PNG photographs of 40 x 30 pixels."""

    def make(count: int) -> Path:
        folder = tmp_path / "photographs"
        folder.mkdir()
        for index in range(count):
            Image.fromarray(synthetic(index, 40, 30)).save(folder / f"{index:02d}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket on a real S3 server of this machine, which pyarrow, Ray and what they start find by the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        deadline = time.monotonic() + 60
        while True:
            # Not urllib: it keeps the proxies of its first call, and a test of what happens offline names one.
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("PUT", "/raysr-test")
                assert connection.getresponse().status == 200
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            finally:
                connection.close()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            yield "s3://raysr-test"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that no other test uses, on a disk and on an object store."""
    if request.param == "disk":
        return str(tmp_path / "place")
    return storage.join(request.getfixturevalue("s3"), tmp_path.name)
