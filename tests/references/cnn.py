"""The two convolutional networks of Wang (2019), one image and one multiplication at a time."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def convolve(maps_CHW: Array, weight_OCHW: Array, bias_O: Array, padding: int) -> Array:
    """Cross-correlation with stride 1; what lies outside the image is zero."""
    channels, height, width = maps_CHW.shape
    filters, _, rows, columns = weight_OCHW.shape
    out = np.zeros((filters, height + 2 * padding - rows + 1, width + 2 * padding - columns + 1))
    for o in range(filters):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                total = float(bias_O[o])
                for c in range(channels):
                    for i in range(rows):
                        for j in range(columns):
                            row, column = y + i - padding, x + j - padding
                            if 0 <= row < height and 0 <= column < width:
                                total += float(maps_CHW[c, row, column]) * float(weight_OCHW[o, c, i, j])
                out[o, y, x] = total
    return out


def max_pool(maps_CHW: Array) -> Array:
    """The largest of every 2x2 values; an odd last row or column is dropped."""
    channels, height, width = maps_CHW.shape
    out = np.zeros((channels, height // 2, width // 2))
    for c in range(channels):
        for y in range(height // 2):
            for x in range(width // 2):
                out[c, y, x] = max(float(maps_CHW[c, 2 * y + i, 2 * x + j]) for i in (0, 1) for j in (0, 1))
    return out


def relu(values: Array) -> Array:
    """max(0, v), value by value."""
    return np.array([max(0.0, float(value)) for value in values.ravel()]).reshape(values.shape)


def linear(values: Array, weight_OF: Array, bias_O: Array) -> Array:
    """Weighted sums of the values, channels first, then rows, then columns."""
    flat = values.ravel()
    out = np.zeros(len(weight_OF))
    for o, row in enumerate(weight_OF):
        out[o] = float(bias_O[o]) + sum(float(w) * float(v) for w, v in zip(row, flat, strict=True))
    return out


def cnn(image_CHW: Array, weights: Mapping[str, Array], kernels: Sequence[int]) -> Array:
    """Section 3.1: three times convolution, max pooling, ReLU; then a linear layer."""
    maps = image_CHW
    for number, kernel in enumerate(kernels, 1):
        name = f"layers.conv{number}"
        maps = convolve(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], kernel // 2)
        maps = relu(max_pool(maps))
    return linear(maps, weights["layers.linear.weight"], weights["layers.linear.bias"])


def baseline(image_CHW: Array, weights: Mapping[str, Array]) -> Array:
    """Section 4.4, with a ReLU behind each convolution, before its pooling."""
    maps = max_pool(relu(convolve(image_CHW, weights["conv1.weight"], weights["conv1.bias"], 2)))
    maps = max_pool(relu(convolve(maps, weights["conv2.weight"], weights["conv2.bias"], 0)))
    hidden = relu(linear(maps, weights["linear1.weight"], weights["linear1.bias"]))
    return linear(hidden, weights["linear2.weight"], weights["linear2.bias"])
