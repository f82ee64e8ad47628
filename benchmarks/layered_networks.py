"""Time of a training step of the networks of SR-CapsNet, Efficient-CapsNet and inverted attention, as their files say.

A step is forward, loss, backward and the optimizer of the config, on one batch of random images of ten classes: 32x32
in colour, and 28x28 in gray for Efficient-CapsNet.  The first step is not counted.  Printed are the median and the
range.  On a busy machine the range is wide.

    python benchmarks/layered_networks.py [--models sr_capsnet ...] [--batch 128] [--steps 5] [--threads 1]
"""

import argparse
import statistics
import time

import torch
from hydra import compose, initialize_config_dir

from capsexp import build, records, resolvers
from capsexp.sweep.cells import resolved
from capsexp.types import Batch

CLASSES = 10
SHAPES = {"sr_capsnet": (3, 32, 32), "efficient_capsnet": (1, 28, 28), "attention_capsnet": (3, 32, 32)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batch", type=int, default=128, help="images")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for model in options.models:
        taken = steps(model, options.batch, options.steps)
        middle = statistics.median(taken)
        print(f"{model:18s} batch {options.batch}: {middle:.3g} s a step ({min(taken):.3g} to {max(taken):.3g})")


def steps(name: str, batch_size: int, count: int) -> list[float]:
    """Seconds of each of ``count`` steps."""
    shape = SHAPES[name]
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
        config = resolved(compose("config", [f"model={name}"], return_hydra_config=True))
    model = build.make_model(config, image_shape=shape, classes=CLASSES)
    module = build.make_module(config, model, {"image_shape": list(shape), "classes": CLASSES}).train()
    optimizer = module.configure_optimizers()
    pixels = torch.randint(256, (batch_size, *shape))
    batch = Batch(pixels / 127.5 - 1, torch.randint(CLASSES, (batch_size,)), pixels)
    found = []
    for _ in range(count + 1):
        before = time.perf_counter()
        optimizer.zero_grad()
        module.shared_step(batch).loss.backward()
        optimizer.step()
        found.append(time.perf_counter() - before)
    return found[1:]


if __name__ == "__main__":
    main()
