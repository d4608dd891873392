"""`python -m training`: fetch data, train, evaluate, export, add to a bundle, each from one TOML config."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from codec.model import CodecError
from models.bundle import SHIPPED, BundleError, Metrics
from models.leaving import leave_on_sigterm
from models.vae import VAE
from training.config import RunConfig, read_config
from training.datasets import Dataset, load_dataset
from training.distributed import Place, joined_processes
from training.errors import ConfigError, DataError, FetchError, RunError
from training.evaluation import evaluate
from training.export import export_codec, export_quantiles, export_run
from training.fetch import PUBLIC_SETS, fetch
from training.running import CHECKPOINT, resume, train
from training.trainer import Trainer

FAULTS = (CodecError, ConfigError, DataError, FetchError, RunError, BundleError, OSError)
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit status.

    0; 1 after a fault said on standard error; 130 where a signal stopped it.
    """
    options = command_line().parse_args(arguments)
    try:
        if options.command == "data":
            fetch(options.names or list(PUBLIC_SETS), options.into)
            return 0
        with joined_processes() as place:
            return _run(options, read_config(options.config, options.data), place)
    except FAULTS as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace, config: RunConfig, place: Place) -> int:
    if options.command != "train" and place.world_size > 1:
        raise RunError(f"{options.command} runs in one process, not in {place.world_size}")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    dataset = load_dataset(config.data)
    if options.command == "codec":
        _fit_codec(options, config, dataset, place)
        return 0
    if options.command == "quantiles":
        _print(export_quantiles(dataset, place, _destination(options, config)))
        return 0
    trainer = Trainer(config, dataset, place)
    run_folder = options.runs / config.id
    if options.command == "train":
        finished = train(trainer, run_folder)
        if not finished and place.is_first:
            print(
                f"stopped at step {trainer.step} of {trainer.steps}; the same command resumes",
                file=sys.stderr,
            )
        return 0 if finished else INTERRUPTED
    if not resume(trainer, run_folder):
        raise RunError(f"{run_folder / CHECKPOINT}: no such file; train the run first")
    if options.command == "evaluate":
        model = trainer.averaged_model.eval()
        if not isinstance(model, VAE):
            record = trainer.monitor()
            print(
                f"autoencoder: distortion {record['test_distortion']:.4f} bits/dim"
                f" on {len(trainer.monitored)} test images, no ELBO"
            )
            return 0
        _print(evaluate(model, trainer.dataset, config))
        return 0
    destination = _destination(options, config)
    _print(export_run(trainer, destination))
    print(f"bundle written to {destination}")
    if config.codec is not None:
        _fit_codec(options, config, dataset, place)
    return 0


def _fit_codec(options: argparse.Namespace, config: RunConfig, dataset: Dataset, place: Place) -> None:
    destination = _destination(options, config)
    figures = export_codec(config, dataset, place, destination)
    print(f"codec written to {destination}")
    print(json.dumps({"bits/dim": figures._asdict()}, indent=2))


def _destination(options: argparse.Namespace, config: RunConfig) -> Path:
    folder: Path = options.to or SHIPPED
    return folder / config.id


def _print(metrics: Metrics) -> None:
    print(metrics.model_dump_json(indent=2))


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="fetch and verify public data sets")
    data.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PUBLIC_SETS)}; all by default")
    data.add_argument("--into", type=Path, default=Path("data"))
    for command, text in (
        ("train", "train a run, or resume it"),
        ("evaluate", "print a run's figures on the test set"),
        ("export", "write a run as a bundle, with its codec where the config has one"),
        ("codec", "train the codec of a bundle, and put it there"),
        ("quantiles", "put the spread of a bundle's scores over the test set into its metrics"),
    ):
        parsed = commands.add_parser(command, help=text)
        parsed.add_argument("config", type=Path, help="TOML file of the run, or training.json of a bundle")
        parsed.add_argument("--data", type=Path, help="take the data from this path instead of the config's")
        if command in ("train", "evaluate", "export"):
            parsed.add_argument("--runs", type=Path, default=Path("runs"), help="folder of resume states")
    for command in ("export", "codec", "quantiles"):
        commands.choices[command].add_argument("--to", type=Path, help="folder that the bundle is in")
    return parser


if __name__ == "__main__":
    leave_on_sigterm()
    sys.exit(main())
