import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, unknown_variables

README = Path(__file__).parents[2] / "README.md"


def test_variables_set_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_MODELS", "mnist, ./mine/ ,")
    monkeypatch.setenv("VAE_MAX_BATCH", "64")
    settings = Settings()
    assert settings.models == ("mnist", "./mine/")
    assert settings.max_batch == 64


def test_fashion_mnist_on_loopback_is_the_default() -> None:
    settings = Settings()
    assert (settings.models, settings.host, settings.port) == (("fashion-mnist",), "127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": ""}, "at least 1 item"),
        ({"max_batch": 0}, "greater than or equal to 1"),
        ({"device": "tpu"}, "should match pattern"),
        ({"precision": "fp8"}, "'float32', 'tf32' or 'bf16'"),
    ],
)
def test_wrong_values_are_refused_with_the_limit(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Settings(**values)


@pytest.mark.parametrize(("deadline", "bounded"), [(30, 1.5), (3, 1.5), (2, 1)])
def test_a_request_waits_for_half_of_its_deadline_at_most(deadline: float, bounded: float) -> None:
    assert Settings(deadline_seconds=deadline).bounded_queued_seconds == bounded


def test_a_misspelt_variable_is_found() -> None:
    assert unknown_variables({"VAE_MAX_BATCHES": "1", "VAE_PORT": "1", "HOME": "/"}) == ["VAE_MAX_BATCHES"]


def test_the_readme_lists_every_variable_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `(VAE_\w+)` \| `?([^|`]*)`? \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    )
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default or ("unset" if field.default in (None, ()) else field.default)
        shown = ",".join(default) if isinstance(default, tuple) else str(default)
        expected[f"VAE_{name.upper()}"] = shown
    assert rows == expected
