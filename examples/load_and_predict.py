"""Load a finished cell and predict on its test images.

From the folder in which the cell was trained::

    python examples/load_and_predict.py multirun/cnn_prune/c2-16_c3-16-1a2b3c4d5e

The directory alone is enough: it holds the cell's config, its result and its best weights.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from capsexp.build import LoadedRun, load_run
from capsexp.errors import ConfigError


def predict_test(run: LoadedRun) -> tuple[Tensor, Tensor]:
    """The predicted and the true classes of the cell's test images, (N,) each, int64, in the order of the data set."""
    batches = [(run.module.predict(batch.images_BCHW), batch.labels_B) for batch in run.data().test_dataloader()]
    predicted, labels = zip(*batches, strict=True)
    return torch.cat(predicted), torch.cat(labels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status, 2 for a directory without a finished cell."""
    parser = argparse.ArgumentParser(description="Load a finished cell and predict on its test images.")
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="directory of a finished cell")
    directory: Path = parser.parse_args(arguments).run_dir
    try:
        run = load_run(directory)
        predicted, labels = predict_test(run)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    accuracy = (predicted == labels).double().mean().item()
    print(f"test accuracy here        {accuracy:.6f} ({len(labels)} images)")
    print(f"test accuracy in result   {run.result['metrics']['test/acc']:.6f}")
    print(f"first ten predictions     {predicted[:10].tolist()}")
    print(f"their labels              {labels[:10].tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
