"""The autoencoder of Wang (2019), section 3.2, one image and one multiplication at a time, in evaluation mode."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tests.references.cnn import convolve, linear, relu

Array = npt.NDArray[np.float64]
Places = dict[tuple[int, int, int], tuple[int, int]]


def max_pool(maps_CHW: Array) -> tuple[Array, Places]:
    """The largest of every 2x2 values and its row and column; of equal ones the first, row by row."""
    channels, height, width = maps_CHW.shape
    out, places = np.zeros((channels, height // 2, width // 2)), {}
    for c, y, x in np.ndindex(*out.shape):
        best = (2 * y, 2 * x)
        for i in (0, 1):
            for j in (0, 1):
                if float(maps_CHW[c, 2 * y + i, 2 * x + j]) > float(maps_CHW[c, best[0], best[1]]):
                    best = (2 * y + i, 2 * x + j)
        out[c, y, x] = maps_CHW[c, best[0], best[1]]
        places[c, y, x] = best
    return out, places


def max_unpool(maps_CHW: Array, places: Places) -> Array:
    """Zeros, twice as high and wide, with every value at its place."""
    channels, height, width = maps_CHW.shape
    out = np.zeros((channels, 2 * height, 2 * width))
    for (c, y, x), (row, column) in places.items():
        out[c, row, column] = maps_CHW[c, y, x]
    return out


def deconvolve(maps_CHW: Array, weight_COHW: Array, bias_O: Array, padding: int) -> Array:
    """Every value lays the kernel, times itself, over its place; what falls outside the map is lost."""
    channels, height, width = maps_CHW.shape
    _, outputs, rows, columns = weight_COHW.shape
    out = np.zeros((outputs, height, width))
    for o in range(outputs):
        out[o] = bias_O[o]
    for c, y, x in np.ndindex(channels, height, width):
        for o, i, j in np.ndindex(outputs, rows, columns):
            row, column = y + i - padding, x + j - padding
            if 0 <= row < height and 0 <= column < width:
                out[o, row, column] += float(maps_CHW[c, y, x]) * float(weight_COHW[c, o, i, j])
    return out


def encode(image_CHW: Array, weights: Mapping[str, Array], kernel: int) -> tuple[Array, Places, Places]:
    """Latent maps, and the places of both poolings."""

    def conv(number: int, maps: Array) -> Array:
        name = f"encoder.conv{number}"
        return convolve(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], kernel // 2)

    maps, first = max_pool(conv(1, image_CHW))
    maps, second = max_pool(conv(2, relu(maps)))
    return relu(conv(3, relu(maps))), first, second


def scores(image_CHW: Array, weights: Mapping[str, Array], kernel: int) -> Array:
    """Class scores from the latent maps."""
    latent, _, _ = encode(image_CHW, weights, kernel)
    return linear(latent, weights["linear.weight"], weights["linear.bias"])


def reconstruct(image_CHW: Array, weights: Mapping[str, Array], kernel: int, *, shared: bool) -> Array:
    """Deconvolution, unpooling, ReLU, in the paper's order; with shared weights those of the convolutions."""

    def deconv(number: int, maps: Array) -> Array:
        name = f"decoder.deconv{number}"
        weight = weights[f"encoder.conv{4 - number}.weight" if shared else f"{name}.weight"]
        return deconvolve(maps, weight, weights[f"{name}.bias"], kernel // 2)

    latent, first, second = encode(image_CHW, weights, kernel)
    maps = relu(max_unpool(deconv(1, latent), second))
    maps = relu(max_unpool(deconv(2, maps), first))
    return deconv(3, maps)
