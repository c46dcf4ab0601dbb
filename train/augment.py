"""Random changes of training images, decided by a passed generator: those of CIFAR-10 and those of ImageNet."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

AUGMENTATIONS = ("cifar", "mirror", "imagenet")  # of training images
AREAS, RATIOS = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop, relative to the picture (Szegedy et al. 2015)
TRIES = 10  # boxes drawn per picture, of which the first that fits is taken
JITTER = (0.4, 0.4, 0.4, 0.2)  # brightness, contrast, saturation, hue: ghn_spec section 11
GREY = (0.299, 0.587, 0.114)


def shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) bytes, each shifted by up to H // 8 pixels (zeros come in) and mirrored with probability 1/2.

    At 32 pixels this is the customary random crop with padding 4.
    """
    count, _, height, width = pixels.shape
    pad = height // 8
    padded = F.pad(pixels, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    image = torch.arange(count).view(-1, 1, 1)
    picked = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def mirrored(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W), each mirrored with probability 1/2: unlike a shift, it makes nothing that a test image has not."""
    return torch.where(torch.rand((len(pixels), 1, 1, 1), generator=generator) < 0.5, pixels.flip(3), pixels)


def crop_boxes(sizes: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 2) heights and widths -> (B, 4) top, left, height, width of a random crop of each.

    Area and log aspect ratio are uniform in AREAS and RATIOS; where no try fits, the largest centred box is taken
    whose ratio is allowed.
    """
    height, width = sizes[:, :1].double(), sizes[:, 1:].double()
    area, ratio, down, right = torch.rand((4, len(sizes), TRIES), generator=generator, dtype=torch.float64)
    area = (AREAS[0] + area * (AREAS[1] - AREAS[0])) * height * width
    ratio = torch.exp(math.log(RATIOS[0]) + ratio * math.log(RATIOS[1] / RATIOS[0]))
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
    first = fits.double().argmax(1, keepdim=True)
    h, w, down, right = (x.gather(1, first) for x in (h, w, down, right))
    drawn = torch.cat([(down * (height - h + 1)).floor(), (right * (width - w + 1)).floor(), h, w], 1)
    h = torch.minimum(height, (width / RATIOS[0]).round())
    w = torch.minimum(width, (height * RATIOS[1]).round())
    centred = torch.cat([((height - h) / 2).floor(), ((width - w) / 2).floor(), h, w], 1)
    return torch.where(fits.any(1, keepdim=True), drawn, centred).long()


def cropped(pixels: Tensor, boxes: Tensor) -> Tensor:
    """(B, 3, H, W) bytes -> each one's box, brought back to (H, W) by antialiased bilinear interpolation."""
    size = list(pixels.shape[2:])
    parts = [p[None, :, y : y + h, x : x + w] for p, (y, x, h, w) in zip(pixels, boxes.tolist(), strict=True)]
    scaled = [F.interpolate(p.float(), size, mode="bilinear", antialias=True) for p in parts]
    return torch.cat(scaled).round().clamp(0, 255).to(torch.uint8)


def coloured(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) bytes, each mirrored with probability 1/2, then brightness, contrast, saturation, hue by JITTER."""
    count = len(pixels)
    mirrored = torch.rand(count, generator=generator) < 0.5
    pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    amount = torch.tensor(JITTER)[:, None] * (2 * torch.rand((4, count), generator=generator) - 1)
    return jittered(pixels, *(1 + amount[:3]), amount[3])


def jittered(pixels: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """(B, 3, H, W) bytes with their colours changed by (B,) factors, in this order; hue is a turn, 1 a full one."""
    weights = torch.tensor(GREY).view(3, 1, 1)
    x = pixels.float() / 255
    x = (x * brightness.view(-1, 1, 1, 1)).clamp(0, 1)
    mean = (x * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = torch.lerp(mean, x, contrast.view(-1, 1, 1, 1)).clamp(0, 1)
    x = torch.lerp((x * weights).sum(1, keepdim=True), x, saturation.view(-1, 1, 1, 1)).clamp(0, 1)
    return (_turned(x, hue.view(-1, 1, 1)) * 255).round().to(torch.uint8)


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] with the hue of the HSV colours moved by `turn`."""
    r, g, b = x.unbind(1)
    value, lowest = x.amax(1), x.amin(1)
    chroma = value - lowest
    safe = chroma.clamp(min=1e-12)
    sector = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    hue = sector + 6 * turn

    def channel(offset: float) -> Tensor:  # HSV to RGB in one formula per channel
        k = (hue + offset) % 6
        return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], 1)
