"""A decoder written from FORMAT.md alone, slow and in plain Python integers."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open


class Stream:
    def __init__(self, data: bytes) -> None:
        size = len(data)
        if size > 6:
            size = 6 if len(data) % 2 == 0 else 7
        self.state = int.from_bytes(data[:size], "big")
        self.words = [int.from_bytes(data[i : i + 2], "big") for i in range(size, len(data), 2)]

    def symbol(self, starts: list[int]) -> int:
        slot = self.state % 2**20
        symbol = max(i for i in range(len(starts) - 1) if starts[i] <= slot)
        frequency = starts[symbol + 1] - starts[symbol]
        self.state = frequency * (self.state >> 20) + slot - starts[symbol]
        while self.state < 2**40 and self.words:
            self.state = self.state * 2**16 + self.words.pop(0)
        return symbol


def rounded(t: int, s: int) -> int:
    return (t + 2 ** (s - 1)) >> s if s > 0 else t * 2**-s


def act(t: int, s: int, low: int = -32, high: int = 223) -> int:
    return min(max(rounded(t, s if t >= 0 else s + 3), low), high)


class Reference:
    """The model of a codec.safetensors."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "numpy") as file:
            self.config: dict[str, Any] = json.loads(file.metadata()["config"])
            self.tensors = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118
        self.prefix = hashlib.sha256(path.read_bytes()).digest()[:4]

    def __getitem__(self, name: str) -> Any:
        return self.tensors[name]

    def decode(self, payload: bytes) -> np.ndarray:
        """Return the images of a payload of kind 1 to 5 without classical chunks."""
        assert payload[:2] == b"\x56\xc6"
        assert payload[2] in (0x11, 0x12, 0x13, 0x14, 0x15)
        self.is_fast, self.error = payload[2] in (0x12, 0x14), 0
        chunk = self.lossy_chunk if payload[2] == 0x15 else self.chunk
        if payload[2] in (0x13, 0x14):
            self.error = payload[3]
        place = 3 if self.error == 0 else 4
        assert payload[place : place + 4] == self.prefix
        place += 4

        def varint() -> int:
            nonlocal place
            number, shift = 0, 0
            while True:
                byte = payload[place]
                number += (byte % 128) << shift
                place, shift = place + 1, shift + 7
                if byte < 128:
                    return number

        count = varint()
        head = payload[:place]
        channels, height, width = self.config["shape"]
        size = max(1, min(65536 // (channels * height * width), 16383 // height))
        size -= size % 16 if size > 16 else 0
        chunks = math.ceil(count / size)
        lengths = [varint() for _ in range(chunks)] if chunks > 1 else [2 * (len(payload) - place - 4)]
        checks = [payload[place + 4 * i : place + 4 * i + 4] for i in range(chunks)]
        place += 4 * chunks
        images = []
        for i, length in enumerate(lengths):
            assert length % 2 == 0
            part = chunk(payload[place : place + length // 2], min(size, count - i * size))
            assert zlib.crc32(part.tobytes(), zlib.crc32(head)) == int.from_bytes(checks[i], "big")
            images.append(part)
            place += length // 2
        assert place == len(payload)
        return np.concatenate(images).transpose(0, 3, 1, 2)

    def chunk(self, data: bytes, images: int) -> np.ndarray:
        stream = Stream(data)
        channels, height, width = self.config["shape"]
        first, starts, lowest = self["latents.first"], self["latents.starts"], self["latents.lowest"]
        features: list[Any] = [[[[]] * width] * height] * images
        if not self.is_fast and self.config["features"]:
            latents = [
                [lowest[d] + stream.symbol(starts[first[d] : first[d + 1]]) for d in range(len(lowest))]
                for _ in range(images)
            ]
            features = [self.decoded("decoder", k) for k in latents]
        size = 16 if self.is_fast else 4
        levels = np.zeros((images, height, width, channels), np.uint8)
        for group in range(0, images, size):
            for y in range(height):
                for x in range(width):
                    for c in range(channels):
                        for n in range(group, min(group + size, images)):
                            table = self.level_starts(levels[n], features[n][y][x], y, x, c)
                            levels[n, y, x, c] = self.level(stream, table)
        assert stream.state == 0
        assert not stream.words
        return levels

    def lossy_chunk(self, data: bytes, images: int) -> np.ndarray:
        stream = Stream(data)
        channels, height, width = self.config["shape"]
        latents = self.config["latent_dim"]
        first, starts, lowest = self["ladder.first"], self["ladder.starts"], self["ladder.lowest"]
        levels = np.zeros((images, height, width, channels), np.uint8)
        near, features, errors = [], {}, {}
        steps = [16, 12, 8, 6, 4, 3]
        for n in range(images):
            rung = stream.symbol([*(i * (2**20 // 17) for i in range(17)), 2**20])
            part = (stream.symbol([*(i * 2**11 for i in range(128)), 2**20]) + 1) % 128
            is_mixed = rung == 5 and part > 0
            of_part = stream.symbol([i * 2**17 for i in range(9)]) if is_mixed else rung - 5
            k, z = [], []
            for d in range(latents if rung < 6 or self.config["features"] else 0):
                row = 2 if rung > 5 or is_mixed else rung
                if rung < 5 and d < part * latents // 128:
                    row += 1
                i = row * latents + d
                k.append(lowest[i] + stream.symbol(starts[first[i] : first[i + 1]]))
                z.append(k[-1] * steps[row])
            if rung < 6:
                levels[n] = self.decoded("pictures", z)
                if not is_mixed:
                    continue
            near.append(n)
            features[n] = self.decoded("decoder", k) if self.config["features"] else [[[]] * width] * height
            ladder = [85, 64, 48, 32, 20, 12, 8, 4, 2, 1, 0]
            further = np.arange(height * width) < part * height * width // 128
            of_rest = None if is_mixed else ladder[rung - 6]
            errors[n] = [ladder[min(of_part, 10)] if more else of_rest for more in further]
        for group in range(0, len(near), 4):
            for y in range(height):
                for x in range(width):
                    for c in range(channels):
                        for n in near[group : group + 4]:
                            self.error = errors[n][y * width + x]
                            if self.error is None:
                                continue
                            table = self.level_starts(levels[n], features[n][y][x], y, x, c)
                            levels[n, y, x, c] = self.mean(self.level(stream, table), table)
        assert stream.state == 0
        assert not stream.words
        return levels

    def mean(self, level: int, f: list[int]) -> int:
        step = 2 * self.error + 1
        q = (level + self.error) // step
        a, b = max(q * step - self.error, 0), min(q * step + self.error + 1, 256)
        parts = min(b - a, 8)
        edges = [a + (b - a) * i // parts for i in range(parts + 1)]
        total = sum((c + e - 1) * (f[e] - f[c]) for c, e in pairwise(edges))
        return (total + f[b] - f[a]) // (2 * (f[b] - f[a]))

    def level(self, stream: Stream, table: list[int]) -> int:
        step = 2 * self.error + 1
        count = (255 + self.error) // step + 1
        q = stream.symbol([0, *(table[i * step - self.error] for i in range(1, count)), 2**20])
        return min(q * step, 255)

    def outputs(self, name: str, inputs: list[int]) -> list[int]:
        weight, bias, shift = (self[f"{self.network}.{name}.{part}"] for part in ("weight", "bias", "shift"))
        sums = [sum(a * row[o] for a, row in zip(inputs, weight, strict=True)) for o in range(len(bias))]
        return [total + b for total, b in zip(sums, bias, strict=True)], shift  # type: ignore[return-value]

    def convolved(self, a: list[list[list[int]]], name: str) -> Any:
        height, width, channels = len(a), len(a[0]), len(a[0][0])
        nothing = [0] * channels

        def at(y: int, x: int) -> list[int]:
            return a[y][x] if 0 <= y < height and 0 <= x < width else nothing

        return [
            [
                self.outputs(name, [v for dy in (-1, 0, 1) for dx in (-1, 0, 1) for v in at(y + dy, x + dx)])
                for x in range(width)
            ]
            for y in range(height)
        ]

    def decoded(self, network: str, k: list[int]) -> Any:
        self.network = network
        _, height, width = self.config["shape"]
        sizes = [(height, width)]
        for _ in self.config["channels"]:
            sizes.insert(0, (math.ceil(sizes[0][0] / 2), math.ceil(sizes[0][1] / 2)))
        sums, shift = self.outputs("linear", k)
        values = [rounded(t, s) for t, s in zip(sums, shift, strict=True)]
        (rows, columns), top = sizes[0], self.config["channels"][-1]
        h = [
            [values[(y * columns + x) * top : (y * columns + x + 1) * top] for x in range(columns)]
            for y in range(rows)
        ]
        for s, blocks in enumerate(reversed(self.config["blocks"])):
            for b in range(blocks):
                name = f"stages.{s}.blocks.{b}"
                a = [[[act(t, 4) for t in pixel] for pixel in row] for row in h]
                inner = [
                    [[act(t, z) for t, z in zip(*pixel, strict=True)] for pixel in row]
                    for row in self.convolved(a, f"{name}.first")
                ]
                added = self.convolved(inner, f"{name}.second")
                h = [
                    [
                        [v + rounded(t, z) for v, t, z in zip(old, *new, strict=True)]
                        for old, new in zip(old_row, new_row, strict=True)
                    ]
                    for old_row, new_row in zip(h, added, strict=True)
                ]
            a = [[[act(t, 4) for t in pixel] for pixel in row] for row in h]
            places = self.convolved(a, f"stages.{s}.convolution")
            rows, columns = sizes[s + 1]
            h = []
            for y in range(rows):
                row = []
                for x in range(columns):
                    sums, shift = places[y // 2][x // 2]
                    size = len(sums) // 4
                    start = (y % 2 * 2 + x % 2) * size
                    row.append([rounded(sums[start + i], shift[start + i]) for i in range(size)])
                h.append(row)
        if network == "pictures":
            return [[[min(max(rounded(t, 4), 0), 255) for t in pixel] for pixel in row] for row in h]
        return [[[act(t, 4) for t in pixel] for pixel in row] for row in h]

    def level_starts(self, levels: np.ndarray, features: list[int], y: int, x: int, c: int) -> list[int]:
        height, width, channels = levels.shape
        net = "fast" if self.is_fast else "context"
        inputs = []
        for dy, dx in self[f"{net}.offsets"]:
            inside = 0 <= y + dy < height and 0 <= x + dx < width
            inputs += [int(levels[y + dy, x + dx, j]) - 128 if inside else 0 for j in range(channels)]
        inputs += features
        inputs += [0] * (len(self[f"{net}.seen_weight"][0]) - len(inputs))
        units = len(self[f"{net}.first_bias"][c]) - 1
        own = [int(levels[y, x, j]) - 128 for j in range(c)]
        predictions = [
            rounded(
                self._first(net, j, units, units + j, inputs, own[:j]), self[f"{net}.first_shift"][j][units]
            )
            for j in range(c + 1)
        ]
        residuals = [min(max(16 * v - t, -4095), 4095) for v, t in zip(own, predictions[:c], strict=True)]
        shifts = self[f"{net}.first_shift"][c]
        hidden = [
            act(self._first(net, c, o, o, inputs, residuals), shifts[o], -512, 4095) for o in range(units)
        ]
        prediction = predictions[c]
        for layer in range(len(self[f"{net}.middle_weight"][c])):
            hidden = [act(t, s, -512, 4095) for t, s in self._dense(hidden, f"{net}.middle", c, layer)]
        outputs = [rounded(t, s) for t, s in self._dense(hidden, f"{net}.last", c)]
        size = (self.config["fast"] if self.is_fast else self.config)["components"]
        logits = [min(max(v, 0), 255) for v in outputs[:size]]
        locations = [min(max(v + prediction, -512), 4592) for v in outputs[size : 2 * size]]
        steepnesses = [self["tables.steepnesses"][min(max(v, 0), 127)] for v in outputs[2 * size :]]
        e = [self["tables.exponentials"][max(logits) - logit] for logit in logits]
        weights = [2**16 * v // sum(e) for v in e]
        weights[logits.index(max(logits))] += 2**16 - sum(weights)
        return [0, *(self._start(v, weights, locations, steepnesses) for v in range(1, 256)), 2**20]

    def _first(self, net: str, c: int, o: int, row: int, inputs: list[int], own: list[int]) -> int:
        total = sum(w * v for w, v in zip(self[f"{net}.seen_weight"][row], inputs, strict=True))
        total += sum(w * v for w, v in zip(self[f"{net}.own_weight"][c][o], own, strict=False))
        return total + self[f"{net}.first_bias"][c][o]  # type: ignore[no-any-return]

    def _dense(self, hidden: list[int], name: str, *which: int) -> list[tuple[int, int]]:
        weight, bias, shift = (self[f"{name}_{part}"] for part in ("weight", "bias", "shift"))
        for i in which:
            weight, bias, shift = weight[i], bias[i], shift[i]
        sums = [sum(w * v for w, v in zip(row, hidden, strict=True)) for row in weight]
        return [(total + b, s) for total, b, s in zip(sums, bias, shift, strict=True)]

    def _start(self, x: int, weights: list[int], locations: list[int], steepnesses: list[int]) -> int:
        logistic, mass = self["tables.logistic"], 0
        for weight, location, steepness in zip(weights, locations, steepnesses, strict=True):
            p = min(max((16 * x - 8 - location) * steepness + 2**25, 0), 2**26)
            i = min(p >> 16, 1023)
            mass += weight * (logistic[i] + ((logistic[i + 1] - logistic[i]) * (p - i * 2**16) >> 16))
        return x + ((mass >> 16) * (2**20 - 256) >> 24)
