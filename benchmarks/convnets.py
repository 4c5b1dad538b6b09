"""Convnets of many layers: an epoch of a small ResNet and of a small DenseNet by
`training.fit`, Keras `fit` and a PyTorch loop (channels last, as it is and compiled);
and the same networks' answers, one picture and 32 at a time.

    python benchmarks/convnets.py [--rounds 5]

All take turns within each round, so that whatever else the machine does hits all of
them; the tables show medians over the rounds. PyTorch (the `bench` extra) is left out
where it is not installed.
"""

import argparse
import functools
import statistics
from collections.abc import Callable

import fit
import numpy as np
import tensorflow as tf
from fit import DEFAULTS, TORCH, torch

from recipes.convnets import densenet, resnet

BLOCKS = 3  # residual blocks of a stage, dense layers of a block: 6n + 2 and 6n + 4
STAGES = 3
GROWTH = 12  # filters that a dense layer adds
CLASSES = 10
CALLS = 20  # of a network, each time it is asked


class ResNet(fit.Task):
    name = "ResNet-20, 32x32, batch 64"
    shape, examples, batch_size, epochs = (32, 32, 3), 640, 64, 1
    targets = {DEFAULTS: 1.1, TORCH: 1, fit.COMPILED: 1}

    def keras(self):
        return [resnet.build_small(6 * BLOCKS + 2, self.shape, CLASSES)]

    def torch(self):
        return channels_last(torch_resnet())


class DenseNet(fit.Task):
    name = "DenseNet-BC-22, 32x32, batch 64"
    shape, examples, batch_size, epochs = (32, 32, 3), 640, 64, 1
    targets = {DEFAULTS: 1.1, TORCH: 1, fit.COMPILED: 1}

    def keras(self):
        return [densenet.build_cifar(6 * BLOCKS + 4, GROWTH, bottleneck=True)]

    def torch(self):
        return channels_last(torch_densenet())


@functools.cache
def wrapper():
    """One class for all networks, so that torch.compile takes each as it is."""

    class ChannelsLast(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network.to(memory_format=torch.channels_last)

        def forward(self, images):
            return self.network(images.to(memory_format=torch.channels_last))

    return ChannelsLast


def channels_last(network):
    """PyTorch's fastest layout on processors; the pictures come as channels first."""
    return wrapper()(network)


def conv(inputs: int, filters: int, size: int, stride: int = 1):
    padding = size // 2
    return torch.nn.Conv2d(inputs, filters, size, stride, padding, bias=False)


def torch_resnet():
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, filters, stride):
            super().__init__()
            self.stride = stride
            self.new = filters - inputs
            self.branch = nn.Sequential(
                conv(inputs, filters, 3, stride),
                nn.BatchNorm2d(filters),
                nn.ReLU(),
                conv(filters, filters, 3),
                nn.BatchNorm2d(filters),
            )

        def forward(self, x):
            skip = x[:, :, :: self.stride, :: self.stride]
            half = self.new // 2
            around = (0, 0, 0, 0, half, self.new - half)
            skip = nn.functional.pad(skip, around)
            return nn.functional.relu(skip + self.branch(x))

    blocks = [conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for stage in range(STAGES):
        for index in range(BLOCKS):
            filters = 16 * 2**stage
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(Block(channels, filters, stride))
            channels = filters
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*blocks, *head)


def torch_densenet():
    nn = torch.nn

    class Layer(nn.Module):
        def __init__(self, inputs):
            super().__init__()
            self.branch = nn.Sequential(
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                conv(inputs, 4 * GROWTH, 1),
                nn.BatchNorm2d(4 * GROWTH),
                nn.ReLU(),
                conv(4 * GROWTH, GROWTH, 3),
            )

        def forward(self, x):
            return torch.cat([x, self.branch(x)], dim=1)

    channels = 2 * GROWTH
    blocks = [conv(3, channels, 3)]
    for stage in range(STAGES):
        for _ in range(BLOCKS):
            blocks.append(Layer(channels))
            channels += GROWTH
        blocks += [nn.BatchNorm2d(channels), nn.ReLU()]
        if stage < STAGES - 1:
            blocks += [conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*blocks, *head)


def answers_of(task, batch_size: int) -> dict[str, Callable[[], object]]:
    """By name, a function that has a network answer `batch_size` pictures."""
    x = np.random.default_rng(0).random((batch_size, *task.shape), "float32")
    (model,) = task.keras()
    call = tf.function(
        lambda images: model(images, training=False), [tf.TensorSpec(x.shape)]
    )
    images = tf.constant(x)
    found = {"Keras, compiled call": lambda: call(images).numpy()}
    if torch is None:
        return found

    network = task.torch().eval()
    compiled = torch.compile(network)
    inputs = torch.tensor(np.moveaxis(x, -1, 1))

    def ask(each):
        with torch.inference_mode():
            return each(inputs).numpy()

    found["PyTorch, channels last"] = lambda: ask(network)
    found["PyTorch, compiled"] = lambda: ask(compiled)
    return found


def report_answers(task, rounds: int) -> None:
    for batch_size in (1, 32):
        entries = answers_of(task, batch_size)
        measured: dict[str, list[float]] = {name: [] for name in entries}
        for answer in entries.values():
            answer()  # compiles
        for _ in range(rounds):
            for name, answer in entries.items():
                elapsed = fit.seconds(
                    lambda each=answer: [each() for _ in range(CALLS)]
                )
                measured[name].append(elapsed / CALLS / batch_size)
        print(f"{task.name.split(',')[0]}, answers, {batch_size} at a time")
        base = statistics.median(next(iter(measured.values())))
        for name, found in measured.items():
            per_image = statistics.median(found)
            print(f"  {name:43}{per_image * 1e3:9.2f} ms {per_image / base:6.1f}x")
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    tasks = (ResNet(), DenseNet())
    fit.report(tasks, rounds)
    for task in tasks:
        report_answers(task, rounds)


if __name__ == "__main__":
    main()
