"""Batches that are spread evenly over the classes and the looks of the images.

The images are put in an order in which neighbours are of one class and look alike, the order is cut into as many equal
parts as the batch has images, and one image is drawn from each. Every image is as likely as any other, so that the
gradient means the same, but batches differ less from each other, and with them their gradients.
Source: stratified sampling (Zhao and Zhang 2014, "Accelerating minibatch stochastic gradient descent using stratified
sampling"), here with one image a stratum. What it gives is told in docs/training_log.md.
"""

import torch
from torch import Tensor

LEAF = 8  # images whose order among each other does not matter


def order_of(labels: Tensor, pixels: Tensor | None = None) -> Tensor:
    """(N,) places of all images: class after class, and within a class, where the pixels are given, look after look.

    labels: (N,). pixels: (N, 3, H, W) bytes. Within a class, the images are halved again and again by one of their
    looks after the other. Whole numbers decide, so that the order is the same on every machine.
    """
    members = [torch.nonzero(labels == label).flatten() for label in labels.unique(sorted=True)]
    if pixels is not None:
        seen = looks(pixels)
        members = [_halved(places, seen) for places in members]
    return torch.cat(members) if members else torch.empty(0, dtype=torch.int64)


def looks(pixels: Tensor) -> Tensor:
    """(N, 3) whole numbers of (N, 3, H, W) bytes: brightness, upper to lower half, middle to border.

    They follow the first principal components of small natural images; a mirrored image has the same.
    """
    height, width = pixels.shape[2:]
    whole = _brightness(pixels)
    upper = _brightness(pixels[:, :, : height // 2])
    middle = _brightness(pixels[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4])
    return torch.stack([whole, 2 * upper - whole, 4 * middle - whole], dim=1)


def spread(order: Tensor, count: int, generator: torch.Generator, batches: int = 1) -> Tensor:
    """(count,) places, one from each of `count` equal parts of the order; without repetition if count <= N.

    batches: so many follow each other in the result, each of them spread over the whole order.
    """
    edges = torch.arange(count + 1) * len(order) // count
    low, high = edges[:-1], edges[1:]
    within = (torch.rand(count, generator=generator, dtype=torch.float64) * (high - low)).long()
    return order[low + within].view(-1, batches).t().flatten()


def _brightness(pixels: Tensor) -> Tensor:
    return pixels.sum(dim=(1, 2, 3), dtype=torch.int64)


def _halved(places: Tensor, seen: Tensor, depth: int = 0) -> Tensor:
    """The places, the darker half before the brighter one, and so on within each half by the next look."""
    if len(places) <= LEAF:
        return places
    ranked = places[seen[places, depth % seen.shape[1]].argsort(stable=True)]
    return torch.cat([_halved(half, seen, depth + 1) for half in ranked.tensor_split(2)])
