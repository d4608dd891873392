"""A run is a pure function of its config and data: each step's arithmetic, and what a state holds."""

import pytest
import torch
from torch import Tensor, nn

from models.noise import normal_noise
from models.vae import Autoencoder
from tests.training.conftest import (
    STEPS,
    STEPS_AN_EPOCH,
    Poisoned,
    assert_same,
    take_steps,
    tiny_config,
    tiny_dataset,
    tiny_trainer,
)
from training.config import ObjectiveConfig, OptimisationConfig
from training.distributed import Place
from training.errors import RunError
from training.objective import Objective
from training.trainer import Trainer, learning_rate_factor, parameter_groups


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def gradient_norm(trainer: Trainer) -> float:
    return float(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm())


# ---- schedules


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.25),  # a quarter of the warm-up, at the top of the cosine
        (1, 0.5 * (0.2 + 0.8 * 0.9755282581475768)),
        (3, 0.2 + 0.8 * 0.7938926261462366),
        (5, 0.6),
        (10, 0.2),
        (11, 0.2),
    ],
)
def test_the_learning_rate_warms_up_linearly_then_falls_along_a_cosine(step: int, factor: float) -> None:
    config = OptimisationConfig(warmup_steps=4, final_learning_rate_fraction=0.2)
    assert learning_rate_factor(step, 10, config) == pytest.approx(factor, rel=1e-12)


def test_layers_with_many_inputs_learn_more_slowly() -> None:
    model = nn.Sequential(nn.Conv2d(16, 4, 3), nn.ReLU(), nn.Linear(1024, 2), nn.Linear(2048, 2))
    groups = parameter_groups(model)
    assert [group["share"] for group in groups] == [1.0, 0.5, 0.25]
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("family", ["convolutional", "fully-connected"])
def test_every_parameter_of_a_model_is_trained(family: str) -> None:
    blocks = [1] if family == "convolutional" else []
    model = tiny_trainer(model={"family": family, "blocks": blocks}).model
    trained = [p for group in parameter_groups(model) for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in model.parameters()}


def test_without_warm_up_the_first_step_has_the_whole_learning_rate() -> None:
    assert learning_rate_factor(0, 10, OptimisationConfig(warmup_steps=0)) == 1.0


def test_each_step_is_taken_at_its_own_learning_rate() -> None:
    trainer = tiny_trainer(optimisation={"learning_rate": 0.01, "warmup_steps": 2})
    config, rates = trainer.config.optimisation, []
    for _ in range(STEPS):
        take_steps(trainer, 1)
        rates.append(trainer.optimiser.param_groups[0]["lr"])
    assert rates == [0.01 * learning_rate_factor(step, STEPS, config) for step in range(STEPS)]


def test_beta_rises_linearly_over_its_warm_up_and_stays() -> None:
    trainer = tiny_trainer(objective={"beta": 0.5, "beta_warmup_epochs": 2})
    betas = [trainer.beta_at(step) for step in range(8)]
    assert betas == [0.5 * share for share in (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1)]


def test_without_warm_up_beta_is_whole_from_the_first_step() -> None:
    assert tiny_trainer(objective={"beta": 4}).beta_at(0) == 4.0


# ---- order


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    trainer = tiny_trainer()
    first = torch.cat(list(trainer.epoch_batches()))
    trainer.step = STEPS_AN_EPOCH
    second = torch.cat(list(trainer.epoch_batches()))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(24))
    assert first.tolist() != second.tolist()


def test_the_order_depends_on_the_seed_alone() -> None:
    orders = [torch.cat(list(tiny_trainer(seed=seed).epoch_batches())).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_an_epoch_continues_where_it_stopped() -> None:
    trainer = tiny_trainer()
    whole = list(trainer.epoch_batches())
    trainer.step = 2
    assert_same(list(trainer.epoch_batches()), whole[2:])


def test_images_that_do_not_fill_a_batch_wait_for_another_epoch() -> None:
    trainer = tiny_trainer(tiny_dataset(train=23))
    assert [len(batch) for batch in trainer.epoch_batches()] == [8, 8]


def test_every_image_of_every_step_has_noise_of_its_own() -> None:
    trainer = tiny_trainer(seed=5, objective={"samples": 2})
    drawn: list[Tensor] = []
    trainer.objective.register_forward_pre_hook(lambda module, inputs: drawn.append(inputs[1]))
    take_steps(trainer, STEPS_AN_EPOCH)
    items = torch.cat(drawn, dim=1).transpose(0, 1).flatten(1)  # (images, samples·latents)
    assert torch.equal(items, torch.from_numpy(normal_noise(5, 0, 24, 2 * 4)))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(RunError, match="batch_size 8 exceeds the 7 training images"):
        tiny_trainer(tiny_dataset(train=7))


def test_a_batch_that_does_not_divide_among_the_processes_is_refused() -> None:
    with pytest.raises(RunError, match="batch_size 8 does not divide among 3 processes"):
        tiny_trainer(place=Place(torch.device("cpu"), rank=0, world_size=3))


# ---- weights


def test_the_seed_decides_the_first_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (weights(tiny_trainer(seed=seed).model) for seed in (1, 1, 2))
    assert_same(one, same)
    assert not torch.equal(one["encoder.0.weight"], other["encoder.0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_averaged_weights_are_the_exponential_average_of_the_raw_ones() -> None:
    trainer = tiny_trainer(optimisation={"ema_decay": 0.3})
    take_steps(trainer, 1)
    expected = weights(trainer.model)
    for decay in (2 / 11, 3 / 12, 0.3, 0.3, 0.3):  # the first ones forget the start of a run
        take_steps(trainer, 1)
        expected = {
            name: decay * expected[name] + (1 - decay) * raw for name, raw in weights(trainer.model).items()
        }
    averaged = weights(trainer.averaged_model)
    torch.testing.assert_close(averaged, expected)
    raw = weights(trainer.model)
    assert not any(torch.allclose(averaged[name], raw[name]) for name in raw)


def test_an_autoencoder_trains_on_its_distortion() -> None:
    trainer = tiny_trainer(model={"kind": "autoencoder"}, optimisation={"epochs": 10})
    losses = take_steps(trainer, 30)
    assert isinstance(trainer.averaged_model, Autoencoder)
    assert losses[-1].loss < 0.9 * losses[0].loss
    assert trainer.monitor()["test_kl"] == 0


def test_a_bernoulli_run_trains_on_two_levels() -> None:
    trainer = tiny_trainer(model={"likelihood": {"name": "bernoulli"}})
    assert trainer.images.unique().tolist() == [0, 1]
    assert torch.equal(trainer.images[0, 0, 0], torch.tensor([1] * 4 + [0] * 4))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_lowers_the_loss_and_keeps_weights_in_float32_in_each_precision(precision: str) -> None:
    trainer = tiny_trainer(optimisation={"precision": precision, "epochs": 10})
    computed = set()
    trainer.model.encoder[0].register_forward_hook(lambda *call: computed.add(call[-1].dtype))
    losses = take_steps(trainer, 30)
    assert computed == {getattr(torch, precision)}
    assert losses[-1].loss < 0.9 * losses[0].loss
    for module in (trainer.model, trainer.averaged_model):
        assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}


# ---- gradients


def test_a_long_gradient_is_clipped_to_the_limit() -> None:
    trainer = tiny_trainer(optimisation={"max_gradient_norm": 0.5})
    take_steps(trainer, 1)
    assert gradient_norm(trainer) == pytest.approx(0.5, rel=1e-4)
    assert trainer.skipped_steps == 0


def test_a_short_gradient_is_left_as_it_is() -> None:
    trainer = tiny_trainer(optimisation={"max_gradient_norm": 1e6})
    loss = take_steps(trainer, 1)[0]
    twin = tiny_trainer()
    eps = twin._noise(8, slice(0, 8))
    Objective(twin.model, ObjectiveConfig())(
        twin.images[next(twin.epoch_batches())], eps, 1.0
    ).loss.backward()
    assert gradient_norm(trainer) == pytest.approx(gradient_norm(twin), rel=1e-6)
    assert 1 < gradient_norm(trainer) < 1e6
    assert torch.isfinite(loss.loss)


def test_a_nan_gradient_is_skipped_and_counted_and_changes_nothing() -> None:
    trainer = tiny_trainer()
    take_steps(trainer, 1)
    before = trainer.state()
    before |= {"model": weights(trainer.model), "ema": weights(trainer.ema)}
    moments = {key: value["exp_avg"].clone() for key, value in before["optimiser"]["state"].items()}
    healthy, trainer.objective = trainer.objective, Poisoned(trainer.objective)
    take_steps(trainer, 2)
    after = trainer.state()
    assert (after["step"], after["skipped_steps"]) == (3, 2)
    assert_same((after["model"], after["ema"]), (before["model"], before["ema"]))
    assert_same({key: value["exp_avg"] for key, value in after["optimiser"]["state"].items()}, moments)
    trainer.objective = healthy
    take_steps(trainer, 1)
    assert trainer.skipped_steps == 2
    assert all(torch.isfinite(tensor).all() for tensor in trainer.model.state_dict().values())
    assert not torch.equal(trainer.model.state_dict()["encoder.0.bias"], before["model"]["encoder.0.bias"])


def test_a_gradient_over_the_skip_limit_is_skipped_and_counted() -> None:
    trainer = tiny_trainer(optimisation={"skip_gradient_norm": 1e-3})
    before = weights(trainer.model)
    take_steps(trainer, 2)
    assert trainer.skipped_steps == 2
    assert_same(weights(trainer.model), before)


# ---- what is recorded


def test_monitoring_gives_the_mean_over_test_images_whatever_their_number() -> None:
    trainer = tiny_trainer(tiny_dataset(test=260))  # 250 and a rest
    record = trainer.monitor()
    model = trainer.averaged_model
    with torch.inference_mode():
        mu, logvar = model.encode(model.normalise(trainer.monitored))
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(dim=1).mean()
    assert record["test_kl"] == pytest.approx(float(kl) / (64 * 0.6931471805599453), rel=1e-5)


def test_the_curves_take_part_of_the_test_set_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.trainer.MONITORED_IMAGES", 5)
    assert len(tiny_trainer().monitored) == 5


def test_free_bits_need_one_process() -> None:
    place = Place(torch.device("cpu"), rank=0, world_size=2)
    config = tiny_config(objective={"free_bits": 0.5})
    with pytest.raises(RunError, match="free_bits needs the mean KL of the whole batch"):
        Trainer(config, tiny_dataset(), place)
