"""Complete runs, one function each: `ghn train NAME`."""

from collections.abc import Callable

from train.config import Recipe, RecipeError, Stage


def ghn2_cifar10() -> Recipe:
    """GHN-2 on CIFAR-10 as published: 300 epochs of 45,000 images in batches of 64, meta-batch 8.

    Claim of the paper: 66.9% mean top-1 on 500 unseen networks, 58.6% ResNet-50; some five days on one GPU of 2021.
    Source: Knyazev et al., NeurIPS 2021, appendix B.
    """
    return Recipe(
        name="ghn2_cifar10",
        stages=(Stage(steps=300 * 45_000 // 64, image_size=32, images=64, networks=8),),
        corpus=100_000,
        optimiser="adam",
        lr=1e-3,
        weight_decay=1e-5,
        milestones=(200 / 300, 250 / 300),
        ema=0.0,
        shared_images=True,
        save_every=1000,
    )


def ghn2_cifar10_cpu() -> Recipe:
    """GHN-2 on CIFAR-10 for an hour or two of two CPU cores: nearly all steps on images of 16 pixels.

    At full size a step costs some 19 CPU-seconds, here 0.3 to 0.7. The shipped checkpoint is a run of these stages
    whose learning rate was set anew with each of them (docs/training_log.md).
    """
    small = Stage(steps=5400, image_size=16, images=32, networks=4, max_params=10**6, max_nodes=200, max_macs=10**7)
    grown = Stage(
        steps=1800, image_size=16, images=32, networks=8, max_params=4 * 10**6, max_nodes=300, max_macs=2 * 10**7
    )
    full = Stage(
        steps=600, image_size=32, images=32, networks=8, max_params=3 * 10**6, max_nodes=250, max_macs=6 * 10**7
    )
    return Recipe(
        name="ghn2_cifar10_cpu",
        stages=(small, grown, full),
        corpus=400,
        lr=1e-3,
        warmup=50,
        lr_floor=0.02,
        clip_network=5.0,
        dropout=False,
        node_budget=4000,
        val_networks=6,
        val_every=250,
    )


def smoke() -> Recipe:
    """A run of seconds that shows that everything works; it learns nothing."""
    tiny = Stage(
        steps=3, image_size=16, images=8, networks=2, channels=8, max_params=200_000, max_nodes=120, max_macs=4 * 10**6
    )
    return Recipe(
        name="smoke",
        stages=(tiny, Stage(steps=1, image_size=24, images=8, networks=2, channels=8, max_macs=10**7)),
        corpus=4,
        warmup=2,
        val_networks=1,
        val_images=50,
        val_every=2,
        save_every=2,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {f.__name__: f for f in (ghn2_cifar10, ghn2_cifar10_cpu, smoke)}


def recipe(name: str) -> Recipe:
    """The recipe of this name. Raises RecipeError, naming the known ones."""
    if name not in RECIPES:
        raise RecipeError(f"no recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]()
