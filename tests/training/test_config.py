"""A run's TOML file is checked strictly: every fault is named with its key, its value and the limit."""

import json
from pathlib import Path

import pytest

from training.config import ModelConfig, RunConfig, read_config
from training.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
MINIMAL = 'id = "tiny"\n[data]\nformat = "idx"\npath = "somewhere"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


def fault_of(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_config_parses_and_fits_its_data(path: Path) -> None:
    config = read_config(path)
    shape = config.data.shape or {"idx": (1, 28, 28), "cifar10": (3, 32, 32)}[config.data.format]
    assert config.model.network(shape).input.shape == shape


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_the_config_of_a_shipped_bundle_has_its_name(name: str) -> None:
    assert read_config(CONFIGS / f"{name}.toml").id == name


def test_id_and_data_suffice(path: Path) -> None:
    path.write_text(MINIMAL)
    config = read_config(path)
    assert config == RunConfig.model_validate(
        {"id": "tiny", "data": {"format": "idx", "path": Path("somewhere")}}
    )
    assert (config.model.kind, config.objective.beta, config.optimisation.batch_size) == ("vae", 1.0, 128)


def test_a_whole_number_is_a_float_too(path: Path) -> None:
    path.write_text(MINIMAL + "[objective]\nbeta = 2\n[optimisation]\nlearning_rate = 1\n")
    config = read_config(path)
    assert (config.objective.beta, config.optimisation.learning_rate) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("table", "line", "fault"),
    [
        # unknown keys
        ("", "epochs = 3", "epochs: Extra inputs are not permitted, got 3"),
        ("data", 'folder = "x"', "data.folder: Extra inputs are not permitted, got 'x'"),
        ("model", "depth = 2", "model.depth: Extra inputs are not permitted, got 2"),
        ("objective", "alpha = 1.0", "objective.alpha: Extra inputs are not permitted, got 1.0"),
        ("optimisation", "lr = 0.1", "optimisation.lr: Extra inputs are not permitted, got 0.1"),
        ("evaluation", "k = 5", "evaluation.k: Extra inputs are not permitted, got 5"),
        # wrong types
        ("", 'seed = "0"', "seed: Input should be a valid integer, got '0'"),
        ("", "threads = 1.0", "threads: Input should be a valid integer, got 1.0"),
        ("model", 'channels = ["4"]', "model.channels.0: Input should be a valid integer, got '4'"),
        ("model", "channels = 4", "model.channels: Input should be a valid tuple, got 4"),
        ("objective", 'beta = "1"', "objective.beta: Input should be a valid number, got '1'"),
        ("objective", "beta = true", "objective.beta: Input should be a valid number, got True"),
        ("optimisation", "epochs = 2.5", "optimisation.epochs: Input should be a valid integer, got 2.5"),
        # out of range
        ("", "seed = -1", "seed: Input should be greater than or equal to 0, got -1"),
        ("", "seed = 4294967296", "seed: Input should be less than or equal to 4294967295, got 4294967296"),
        ("", "threads = 0", "threads: Input should be greater than or equal to 1, got 0"),
        ("model", "latent_dim = 0", "model.latent_dim: Input should be greater than or equal to 1, got 0"),
        (
            "model",
            "channels = [8, 0]",
            "model.channels.1: Input should be greater than or equal to 1, got 0",
        ),
        (
            "model",
            "channels = [8, 5000]",
            "model.channels.1: Input should be less than or equal to 4096, got 5000",
        ),
        ("model", "blocks = [-1]", "model.blocks.0: Input should be greater than or equal to 0, got -1"),
        ("model", "clamp = [6, -12]", "model: Value error, clamp (6.0, -12.0) must rise, got"),
        ("objective", "beta = -0.5", "objective.beta: Input should be greater than or equal to 0, got -0.5"),
        ("objective", "beta = inf", "objective.beta: Input should be a finite number, got inf"),
        ("objective", "free_bits = nan", "objective.free_bits: Input should be a finite number, got nan"),
        ("objective", "samples = 65", "objective.samples: Input should be less than or equal to 64, got 65"),
        ("optimisation", "ema_decay = 1.0", "optimisation.ema_decay: Input should be less than 1, got 1.0"),
        (
            "optimisation",
            "learning_rate = 0",
            "optimisation.learning_rate: Input should be greater than 0, got 0",
        ),
        (
            "optimisation",
            "adam_betas = [0.9, 1.5]",
            "optimisation.adam_betas.1: Input should be less than 1, got 1.5",
        ),
        (
            "evaluation",
            "seed = 4294967296",
            "evaluation.seed: Input should be less than or equal to 4294967295, got 4294967296",
        ),
        ("model", "clamp = [-12, inf]", "model.clamp.1: Input should be a finite number, got inf"),
        # choices
        (
            "model",
            'family = "resnet"',
            "model.family: Input should be 'convolutional' or 'fully-connected', got 'resnet'",
        ),
        (
            "optimisation",
            'precision = "float16"',
            "optimisation.precision: Input should be 'float32' or 'bfloat16', got 'float16'",
        ),
        # combinations
        (
            "objective",
            'estimator = "score-function"',
            "objective: Value error, the score-function estimator needs samples ≥ 2, got 1",
        ),
        (
            "objective",
            'estimator = "score-function"\nsamples = 2\nkl = "monte-carlo"',
            "objective: Value error, the score-function estimator is offered with kl = 'analytic' only",
        ),
        (
            "objective",
            'free_bits = 0.1\nkl = "monte-carlo"',
            "objective: Value error, free_bits needs kl = 'analytic' and estimator = 'reparameterised'",
        ),
        (
            "objective",
            'free_bits = 0.1\nestimator = "score-function"\nsamples = 2',
            "objective: Value error, free_bits needs kl = 'analytic' and estimator = 'reparameterised'",
        ),
        (
            "model",
            "channels = [8]",
            "model: Value error, blocks must have 1 entries for this family, got (1, 2)",
        ),
        (
            "model",
            'family = "fully-connected"',
            "model: Value error, blocks must have 0 entries for this family, got (1, 2)",
        ),
        (
            "model",
            'likelihood = { name = "bernoulli", components = 3 }',
            "model.likelihood: Value error, bernoulli has no components, got components = 3",
        ),
    ],
)
def test_a_fault_is_named_with_its_key_value_and_limit(path: Path, table: str, line: str, fault: str) -> None:
    if table == "":
        text = f"{line}\n{MINIMAL}"
    else:
        text = f"{MINIMAL}{line}\n" if table == "data" else f"{MINIMAL}[{table}]\n{line}\n"
    message = fault_of(path, text)
    assert message.startswith(f"{path}: 1 fault(s)\n  - {fault}")


@pytest.mark.parametrize("name", ["Tiny", "-tiny", "a/b", "", "x" * 64, "tiny\\n"])
def test_an_id_that_is_no_plain_folder_name_is_refused(path: Path, name: str) -> None:
    text = MINIMAL.replace('"tiny"', f'"{name}"')
    assert "id: String should match pattern" in fault_of(path, text)


@pytest.mark.parametrize("license_text", ["CC BY 4.0", "other: mine", "mit\\nx: 1", ""])
def test_a_license_that_would_break_the_model_cards_header_is_refused(path: Path, license_text: str) -> None:
    assert "license: String should match pattern" in fault_of(path, f'license = "{license_text}"\n{MINIMAL}')


def test_all_faults_are_named_at_once(path: Path) -> None:
    message = fault_of(path, "seed = -1\n[optimisation]\nepochs = 0\n")
    head, *faults = message.split("\n  - ")
    assert head == f"{path}: 4 fault(s)"
    assert [fault.split(":")[0] for fault in faults] == ["id", "seed", "data", "optimisation.epochs"]


def test_a_file_that_is_missing_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory") as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        read_config(tmp_path)


def test_what_is_not_toml_is_said_to_be_so_with_the_line(path: Path) -> None:
    assert fault_of(path, "id = tiny\n").startswith(f"{path}: not TOML: Invalid value (at line 1")


def test_what_is_not_text_is_not_toml(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML: 'utf-8' codec can't decode byte 0xff"):
        read_config(path)


# ---- the network


def test_the_network_takes_its_shape_from_the_data() -> None:
    network = ModelConfig(latent_dim=7).network((3, 32, 24))
    assert (network.input.shape, network.latent_dim, network.input.levels) == ((3, 32, 24), 7, 256)


def test_a_bernoulli_network_has_two_levels(path: Path) -> None:
    path.write_text(MINIMAL + '[model]\nlikelihood = { name = "bernoulli" }\n')
    assert read_config(path).model.network((1, 8, 8)).input.levels == 2


def test_images_outside_the_networks_limits_are_refused() -> None:
    fault = r"model: Value error, shape \(1, 100, 28\) is outside 1×8×8 … 3×64×64"
    with pytest.raises(ConfigError, match=fault):
        ModelConfig().network((1, 100, 28))


# ---- the config of a bundle


@pytest.fixture
def training_json(tmp_path: Path) -> Path:
    """Write what a bundle says of its run: every field, but not where its data lay."""
    config = RunConfig.model_validate({"id": "tiny", "data": {"format": "idx", "path": Path("x")}})
    values = config.model_dump(mode="json", exclude={"data": {"path"}})
    assert values["threads"] is None
    (tmp_path / "training.json").write_text(json.dumps({"config": values, "steps": 3}))
    return tmp_path / "training.json"


def test_a_bundles_training_json_is_a_config_once_its_data_are_named(training_json: Path) -> None:
    expected = {"id": "tiny", "data": {"format": "idx", "path": Path("elsewhere")}}
    assert read_config(training_json, Path("elsewhere")) == RunConfig.model_validate(expected)


def test_without_a_path_of_the_data_the_option_that_names_it_is_told(training_json: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path: Field required; --data names it too, got"):
        read_config(training_json)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[" * 100_000, "not JSON: maximum recursion depth exceeded"),
        ("[]", "1 fault(s)\n  - run: Input should be a valid dictionary"),
        ('{"steps": 3}', "1 fault(s)\n  - run: Input should be a valid dictionary"),
        ('{"config": {"data": 3}}', "2 fault(s)\n  - id: Field required"),
    ],
)
def test_json_that_is_no_training_json_is_refused(training_json: Path, content: str, fault: str) -> None:
    training_json.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_config(training_json, Path("elsewhere"))
    assert str(caught.value).startswith(f"{training_json}: {fault}")


def test_data_named_beside_a_toml_file_replace_its_path(path: Path) -> None:
    path.write_text(MINIMAL)
    assert read_config(path, Path("elsewhere")).data.path == Path("elsewhere")
