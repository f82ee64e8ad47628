"""How children choose among parents, child by child from all couplings at once: Mitterreiter et al. (2023)."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
TINY = 1e-9


def dynamics(coupling_NJI: Array, lengths_NI: Array, there_NI: npt.NDArray[np.bool_]) -> dict[str, object]:
    """The figures of a layer; ``there`` is False where a child does not exist."""
    parents, children = coupling_NJI.shape[1:]
    rate, means, own, dead, std = [], [], [], [], np.full((parents, children), np.nan)
    pairs: list[tuple[float, float]] = []
    for child in range(children):
        rows = coupling_NJI[there_NI[:, child], :, child]
        lengths = lengths_NI[there_NI[:, child], child]
        kept = np.where(rows > 1.5 / parents, rows, 0.0)
        largest = kept.max(axis=1)
        active = np.count_nonzero(largest) / len(rows)
        rate.append(active)
        means.append(largest.mean() / (active + TINY))
        mean_J = kept.mean(axis=0) / (active + TINY)
        spread = ((kept - mean_J) ** 2).mean(axis=0) / (active + TINY) - mean_J**2 * (1 - active) / (active + TINY)
        std[:, child] = np.sqrt(np.maximum(0, spread))
        own.append(std[:, child].mean() / (largest.max() + TINY) / np.sqrt(1 / parents * (1 - 1 / parents)))
        dead.append(lengths.mean() < 0.01 and lengths.std() < 0.01)
        pairs += zip(lengths, largest, strict=True)
    rates, alive = np.array(rate), ~np.array(dead)
    x, y = np.array(pairs).T
    return {
        "dead": np.array(dead),
        "inactive_rate": 1 - rates,
        "mean_max": np.array(means),
        "std": std,
        "bonding": float((np.array(means) * rates).mean() / (rates.mean() + TINY)),
        "dynamics": float((np.array(own) * rates).mean() / (rates.mean() + TINY)),
        "vibrance": (
            float(alive.mean()),
            float(rates.mean()),
            float(rates[alive].mean()) if alive.any() else float("nan"),
        ),
        "correlation": float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else float("nan"),
    }
