"""A run is a pure function of its config and data: each step's arithmetic, and exact resume."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from models.noise import normal_noise
from models.vae import Autoencoder
from tests.training.conftest import HERE, tiny_config, tiny_dataset, tiny_trainer
from training.config import ObjectiveConfig, OptimisationConfig
from training.distributed import Place
from training.objective import Loss, Objective
from training.trainer import CHECKPOINT, Trainer, learning_rate_factor, resume, train

SIGNALS = [signal.SIGINT, signal.SIGTERM]
STEPS_AN_EPOCH, STEPS = 3, 6  # of a tiny run: 24 images, batches of 8, 2 epochs


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def take_steps(trainer: Trainer, count: int) -> list[Loss]:
    return [trainer.train_step(next(trainer.epoch_batches())) for _ in range(count)]


def gradient_norm(trainer: Trainer) -> float:
    return float(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm())


def assert_same(first: Any, second: Any) -> None:
    """Compare nested states bit for bit."""
    torch.testing.assert_close(first, second, rtol=0, atol=0)


class Poisoned(nn.Module):
    """An objective whose loss is NaN."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, levels: Tensor, eps: Tensor, beta: float) -> Loss:
        loss = self.objective(levels, eps, beta)
        return Loss(loss.loss * torch.nan, loss.distortion, loss.kl)


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
    betas = []
    for trainer.step in range(8):
        betas.append(trainer.beta)
    assert betas == [0.5 * share for share in (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1)]


def test_without_warm_up_beta_is_whole_from_the_first_step() -> None:
    assert tiny_trainer(objective={"beta": 4}).beta == 4.0


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
    with pytest.raises(ValueError, match="batch_size 8 exceeds the 7 training images"):
        tiny_trainer(tiny_dataset(train=7))


def test_a_batch_that_does_not_divide_among_the_processes_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 8 does not divide among 3 processes"):
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


def test_an_epoch_leaves_a_record_of_its_means(tmp_path: Path) -> None:
    trainer = tiny_trainer(objective={"beta_warmup_epochs": 6}, optimisation={"epochs": 1})
    twin = tiny_trainer(objective={"beta_warmup_epochs": 6}, optimisation={"epochs": 1})
    losses = take_steps(twin, STEPS_AN_EPOCH)
    assert train(trainer, tmp_path)
    [record] = trainer.history
    bits = 64 * 0.6931471805599453

    def mean(part: str) -> float:
        return float(torch.stack([getattr(loss, part).detach() for loss in losses]).mean())

    assert record == {
        "epoch": 1.0,
        "train_distortion": pytest.approx(mean("distortion") / bits),
        "train_kl": pytest.approx(mean("kl") / bits),
        "beta": 4 / 18,
        "skipped_steps": 0,
        **twin.monitor(),
    }
    assert trainer.seconds > 0


def test_progress_tells_images_a_second_and_the_epochs_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_trainer()
    train(trainer, tmp_path)
    out, err = capsys.readouterr()
    last = trainer.history[-1]
    assert out.splitlines()[-1] == (
        f"epoch 2 (bits/dim): train_distortion {last['train_distortion']:.4f}, "
        f"train_kl {last['train_kl']:.4f}, test_distortion {last['test_distortion']:.4f}, "
        f"test_kl {last['test_kl']:.4f}; 0 steps skipped so far"
    )
    assert "epoch 2/2: 100%" in err
    assert "image/s" in err


def test_tensorboard_has_every_figure_of_every_epoch(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    train(trainer, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(trainer.history[0])
    curve = [(event.step, event.value) for event in events.Scalars("test_distortion")]
    assert curve == [
        (1000 * epoch, pytest.approx(record["test_distortion"]))
        for epoch, record in enumerate(trainer.history, start=1)
    ]


# ---- interrupted and resumed


def interrupted(trainer: Trainer, step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Return the trainer, which will get a signal within its step `step`."""
    take = trainer.train_step

    def train_step(indices: Tensor) -> Loss:
        if trainer.step == step - 1:
            signal.raise_signal(number)
        return take(indices)

    monkeypatch.setattr(trainer, "train_step", train_step)
    return trainer


def weights_and_counts(trainer: Trainer) -> dict[str, Any]:
    kept = ("model", "ema", "optimiser", "step", "skipped_steps")
    return {key: value for key, value in trainer.state().items() if key in kept}


@pytest.mark.parametrize(
    ("step", "number"), [(2, signal.SIGINT), (STEPS_AN_EPOCH, signal.SIGTERM)], ids=["mid-epoch", "epoch-end"]
)
@pytest.mark.parametrize(
    "tables",
    [
        {"objective": {"beta_warmup_epochs": 2}},
        {"objective": {"estimator": "score-function", "samples": 2}},
        {"objective": {"kl": "monte-carlo", "samples": 3}, "optimisation": {"precision": "bfloat16"}},
        {"model": {"kind": "autoencoder"}},
    ],
    ids=["reparameterised", "score-function", "bfloat16", "autoencoder"],
)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int, tables: dict[str, Any]
) -> None:
    whole = tiny_trainer(**tables)
    assert train(whole, tmp_path / "whole")
    stopped = interrupted(tiny_trainer(**tables), step, number, monkeypatch)
    assert not train(stopped, tmp_path / "parts")
    assert stopped.step == step
    resumed = tiny_trainer(**tables)
    assert train(resumed, tmp_path / "parts")
    assert resumed.step == STEPS
    assert_same(weights_and_counts(resumed), weights_and_counts(whole))


def test_a_run_stopped_many_times_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_trainer()
    train(whole, tmp_path / "whole")
    for step, number in zip(range(1, STEPS), SIGNALS * STEPS, strict=False):
        assert not train(interrupted(tiny_trainer(), step, number, monkeypatch), tmp_path / "parts")
    last = tiny_trainer()
    assert train(last, tmp_path / "parts")
    assert_same(weights_and_counts(last), weights_and_counts(whole))


def test_a_signal_in_the_last_step_comes_too_late_to_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(interrupted(tiny_trainer(), STEPS, signal.SIGTERM, monkeypatch), tmp_path)


def test_signals_mean_what_they_meant_before_once_training_ended(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    train(tiny_trainer(), tmp_path)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_skipped_steps_history_and_time_go_on_from_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {"optimisation": {"skip_gradient_norm": 1e-3}}
    stopped = interrupted(tiny_trainer(**tables), 2, signal.SIGINT, monkeypatch)
    train(stopped, tmp_path)
    resumed = tiny_trainer(**tables)
    assert resume(resumed, tmp_path)
    assert (resumed.step, resumed.skipped_steps) == (2, 2)
    assert (resumed.history, resumed.seconds) == (stopped.history, stopped.seconds)
    train(resumed, tmp_path)
    assert [record["epoch"] for record in resumed.history] == [2 / 3, 1, 2]
    assert resumed.seconds > stopped.seconds


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    whole = tiny_trainer()
    train(whole, tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    again = tiny_trainer()
    assert train(again, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert_same(weights_and_counts(again), weights_and_counts(whole))


def test_there_is_nothing_to_resume_without_a_checkpoint(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    assert not resume(trainer, tmp_path)
    assert trainer.step == 0


def test_the_environment_is_that_of_the_process_that_trained_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.trainer.environment", lambda place: {"device": "the training machine"})
    train(tiny_trainer(), tmp_path)
    monkeypatch.setattr("training.trainer.environment", lambda place: {"device": "another machine"})
    exporting = tiny_trainer()
    resume(exporting, tmp_path)
    assert exporting.environment == {"device": "the training machine"}
    train(exporting, tmp_path)
    assert exporting.environment == {"device": "another machine"}


def test_another_config_is_refused_with_every_difference(tmp_path: Path) -> None:
    train(tiny_trainer(), tmp_path)
    other = tiny_trainer(seed=1, optimisation={"epochs": 4}, model={"channels": [9]})
    with pytest.raises(ValueError, match="made with another config; remove the run's folder") as caught:
        train(other, tmp_path)
    assert str(caught.value).split("\n  - ")[1:] == [
        "model.channels: [8] in the checkpoint, [9] here",
        "optimisation.epochs: 2 in the checkpoint, 4 here",
        "seed: 0 in the checkpoint, 1 here",
    ]
    assert other.step == 0


def test_what_does_not_decide_the_training_may_change(tmp_path: Path) -> None:
    train(tiny_trainer(), tmp_path)
    other = tiny_trainer(description="Other words.", evaluation={"nll_samples": 3}, threads=1)
    assert resume(other, tmp_path)
    assert other.step == other.steps


def test_free_bits_need_one_process() -> None:
    place = Place(torch.device("cpu"), rank=0, world_size=2)
    config = tiny_config(objective={"free_bits": 0.5})
    with pytest.raises(ValueError, match="free_bits needs the mean KL of the whole batch"):
        Trainer(config, tiny_dataset(), place)


def test_other_data_is_refused_with_both_digests(tmp_path: Path) -> None:
    train(tiny_trainer(), tmp_path)
    with pytest.raises(ValueError, match="the checkpoint saw data sha256:tiny, this is sha256:other"):
        train(tiny_trainer(tiny_dataset(digest="sha256:other")), tmp_path)


def test_a_checkpoint_cut_off_while_writing_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(interrupted(tiny_trainer(), STEPS_AN_EPOCH, signal.SIGTERM, monkeypatch), tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def cut_off(state: object, file: Any) -> None:
        file.write(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(torch, "save", cut_off)
        with pytest.raises(OSError, match="No space left"):
            train(tiny_trainer(), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    resumed, whole = tiny_trainer(), tiny_trainer()
    assert train(resumed, tmp_path)
    assert train(whole, tmp_path / "whole")
    assert_same(weights_and_counts(resumed), weights_and_counts(whole))


@pytest.mark.parametrize("kept", [0, 100, 0.5], ids=["empty", "first-bytes", "half"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, kept: float) -> None:
    path = tmp_path / CHECKPOINT
    torch.save(tiny_trainer().state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(ValueError, match="not a checkpoint, or damaged; remove it to start anew") as caught:
        train(tiny_trainer(), tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_checkpoint_loads_without_unpickling_code(tmp_path: Path) -> None:
    train(tiny_trainer(), tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["config"] == tiny_config().model_dump_json()
    assert Trainer(tiny_config(), tiny_dataset(), HERE).state().keys() == state.keys()
