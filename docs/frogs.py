"""Write CIFAR-10's training frogs to a folder as PNG files: an example of a user's own folder of images."""

import sys
from pathlib import Path

from models.images import encode_png
from training.config import DataConfig
from training.datasets import load_dataset

FROG = 6

folder = Path(sys.argv[1])
folder.mkdir(parents=True)
data = load_dataset(DataConfig(format="cifar10", path=Path("data/cifar10")))
frogs = data.train[data.train_labels == FROG]
for index, frog in enumerate(frogs):
    (folder / f"frog-{index:04d}.png").write_bytes(encode_png(frog.transpose(1, 2, 0)))
print(f"wrote {len(frogs)} images to {folder}")
