"""The service of this environment under compose's restrictions, by the runtime that Docker has too.

Not the image, which takes long to build: `make restricted` runs that.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.restricted import runtime, verdict
from deploy.restricted.__main__ import COMPOSE, CONTROLS, LIMIT_CONTROLS
from deploy.restricted.container import NAME, Container, bundle, limited, looked
from tests.bundles import save_small_bundle, small_config

ROOT = Path(__file__).parents[2]
SERVICE = runtime.compose_service(ROOT / COMPOSE)
READY = (
    "import http.client as h; c = h.HTTPConnection('localhost', 8000); c.request('GET', '/health/ready'); "
)
READY += "raise SystemExit(c.getresponse().status != 200)"
ENVIRONMENT = str(Path(sys.prefix).resolve())  # which may be a link to one elsewhere
FOLDERS = ("/usr", "/bin", "/lib", "/lib64", sys.base_prefix, sys.prefix, ENVIRONMENT, str(ROOT))


class Confined:
    """What is needed of this machine, as an image would have it."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.root = folder / "root"
        for name, mode in (("etc", 0o755), ("mnt", 0o755), ("tmp", 0o1777), ("var/tmp", 0o1777)):
            (self.root / name).mkdir(parents=True)
            (self.root / name).chmod(mode)
        (self.root / "etc" / "passwd").write_text("vaeserve:x:10001:10001::/nonexistent:/bin/false\n")
        self.models = models
        self.image = {
            "User": "10001:10001",
            "Cmd": ["python", "-m", "app"],
            "WorkingDir": str(ROOT),
            "Env": [
                f"PATH={sys.prefix}/bin:/usr/bin",
                "PYTHONDONTWRITEBYTECODE=1",
                "NUMBA_CACHE_DIR=/tmp/numba",
                "VAE_MODELS=/models/small",
                "VAE_THREADS=1",
            ],
        }

    def configured(self, **changes: Any) -> dict[str, Any]:
        configuration = runtime.configuration({**SERVICE, **changes}, self.image, self.root, None, None)
        binds = [(folder, folder) for folder in FOLDERS if Path(folder).exists()]
        for place, source in [*binds, ("/models", str(self.models))]:
            configuration["mounts"].append(runtime.mount(place, "bind", "rbind,ro,nosuid,nodev", source))
        return configuration


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> Confined:
    if os.geteuid() != 0:
        pytest.skip("only root makes a container")
    if shutil.which("runc") is None:
        pytest.skip("no runc here: Debian's package runc")
    models = tmp_path_factory.mktemp("models")
    models.chmod(0o755)
    save_small_bundle(models / "small", small_config((1, 8, 8)))
    made = Confined(tmp_path_factory.mktemp("confined"), models)
    nothing = made.configured()
    nothing["process"]["args"] = ["/bin/true"]
    with bundle(nothing) as folder:
        tried = subprocess.run(
            ["runc", "run", "--bundle", folder, f"{NAME}-probe"], capture_output=True, text=True
        )
    if tried.returncode != 0:
        pytest.skip(f"runc makes no container here: {tried.stderr.strip()}")
    return made


@pytest.mark.slow
def test_the_service_does_its_work_without_privileges_and_ends_by_itself(confined: Confined) -> None:
    with Container(confined.configured(), ["python", "-I", "-c", READY]) as container:
        container.wait_until_ready()
        assert verdict.of_routes(container.told("ask", "8000")) == []
        assert verdict.faults(container.told("look")) == []
        assert verdict.of_limits(container.limits(), SERVICE) == []
        assert container.stop(40)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("missing", CONTROLS)
def test_a_restriction_that_is_taken_away_is_missed(confined: Confined, missing: str) -> None:
    assert verdict.faults(looked(confined.configured(**CONTROLS[missing])))


@pytest.mark.slow
@pytest.mark.parametrize("missing", LIMIT_CONTROLS)
def test_a_limit_that_is_taken_away_is_missed(confined: Confined, missing: str) -> None:
    assert verdict.of_limits(limited(confined.configured()), SERVICE) == []
    assert len(verdict.of_limits(limited(confined.configured(**LIMIT_CONTROLS[missing])), SERVICE)) == 1
