"""Complete runs, one function each: `ghn train NAME`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ghn.family import member
from train.config import Recipe, RecipeError, Stage


def ghn2_cifar10() -> Recipe:
    """GHN-2 on CIFAR-10 as published: 300 epochs of 45,000 images in batches of 64, meta-batch 8.

    Claim of the paper: 66.9% mean top-1 on 500 unseen networks, 58.6% ResNet-50; some five days on one GPU of 2021.
    Source: Knyazev et al., NeurIPS 2021, appendix B; ghn_spec section 11. Different here: 38,000 images are drawn from,
    and a meta-batch of more than 2,200 nodes is run in pieces where theirs is left out.
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


def ghn1_cifar10() -> Recipe:
    """GHN-1 on CIFAR-10 as published: GHN-2's recipe with real edges only, nothing normalised, one network a step.

    Claim of the paper: 51.4% mean top-1 on 500 unseen networks, 19.2% ResNet-50; 1.8 days on one GPU.
    """
    (stage,) = ghn2_cifar10().stages
    return replace(
        ghn2_cifar10(),
        name="ghn1_cifar10",
        stages=(replace(stage, networks=1),),
        ghn={"cutoff": 1, "weight_norm": False, "layernorm": False},
    )


def mlp_cifar10() -> Recipe:
    """The MLP baseline on CIFAR-10 as published: GHN-2's recipe without edges.

    Claim of the paper: 42.2% mean top-1 on 500 unseen networks, 17.7% ResNet-50.
    """
    return replace(ghn2_cifar10(), name="mlp_cifar10", ghn={"propagation": "mlp"})


def ghn2_imagenet() -> Recipe:
    """GHN-2 on ImageNet as published: 150 epochs in batches of 256, meta-batch 8; 23 days on four A100.

    Claim of the paper: 27.2% mean top-5 on 500 unseen networks. The set is an image folder with train/ and val/.
    The drops of the learning rate are published for 300 epochs and stand here at the same parts of the run. Different
    here: a tenth of the training images validates, by hash of the path, where theirs were the last 50 of each class.
    """
    return replace(
        ghn2_cifar10(),
        name="ghn2_imagenet",
        stages=(Stage(steps=150 * (1_281_167 - 50_000) // 256, image_size=224, images=256, networks=8),),
        ghn={"max_shape": [64, 64, 16, 16]},
        augmentation="imagenet",
        label_smoothing=0.1,
        recompute_above=16_384,  # at a dozen times the activations of CIFAR-10: made for GPUs of 40 GiB and more
    )


def ghn3_t_cifar10() -> Recipe:
    """GHN-3-T on CIFAR-10 with the settings that are published for ImageNet: 75 epochs, meta-batch 8, AdamW.

    No result of the paper is for CIFAR-10. Source: Knyazev et al., ICML 2023; ghn_spec section 11. Different here: the
    warm-up rises step by step where theirs does by epoch, 38,000 images are drawn from, batches are of 64 images as
    GHN-2's are on CIFAR-10, and networks run in bfloat16 where theirs do in float16 with a scaled loss.
    """
    epoch = 45_000 // 64
    return replace(
        ghn2_cifar10(),
        name="ghn3_t_cifar10",
        stages=(Stage(steps=75 * epoch, image_size=32, images=64, networks=8),),
        ghn=_parts("ghn3-t"),
        optimiser="adamw",
        lr=4e-4,
        weight_decay=1e-2,
        warmup=5 * epoch,
        warmup_from=1e-5,
        milestones=(),
        norm_penalty=3e-5,
        bf16=True,
    )


def ghn3_t_cifar10_cpu() -> Recipe:
    """GHN-3-T by the recipe `ghn2_cifar10_cpu`; how the two compare is told in docs/training_log.md."""
    return replace(ghn2_cifar10_cpu(), name="ghn3_t_cifar10_cpu", ghn=_parts("ghn3-t"))


def _parts(name: str) -> dict[str, Any]:
    """What a recipe's `ghn` says for this member of the family; the classes come from the data."""
    return {key: value for key, value in member(name).to_dict().items() if key != "num_classes"}


def ghn2_cifar10_cpu() -> Recipe:
    """GHN-2 on CIFAR-10 for an hour or two of two CPU cores: small networks first, nearly all on images of 16 pixels.

    At full size a step costs some 19 CPU-seconds, here 0.5 to 2. Networks take local steps only at first: they bring a
    fresh GHN on, but where they lead is not where one shot is best. What each part of it gives is told in
    docs/training_log.md, and how it compares with the published recipe for the same CPU seconds in
    benchmarks/recipes.py.
    """
    small = Stage(steps=4000, image_size=16, images=64, networks=8, max_params=10**6, max_nodes=80, max_macs=10**7)
    fresh = replace(small, steps=500, images=32, local_steps=3)
    grown = replace(small, steps=1500, max_params=4 * 10**6, max_nodes=300, max_macs=2 * 10**7)
    full = replace(grown, steps=300, image_size=32, max_macs=6 * 10**7)
    return Recipe(
        name="ghn2_cifar10_cpu",
        stages=(fresh, small, grown, full),
        corpus=4000,
        augmentation="mirror",
        stratified=True,
        identity=1.0,
        optimiser="muon",
        lr=3e-3,
        warmup=20,
        lr_floor=0.02,
        clip_network=5.0,
        local_rate=0.03,
        ema=0.99,
        dropout=False,
        node_budget=4000,
        val_networks=6,
        val_every=250,
    )


def ghn2_nasbench201_cpu() -> Recipe:
    """GHN-2 for scoring NAS-Bench-201: its cells, one a stage, on CIFAR-10 in 16 pixels.

    It decodes no kernel larger than the space's. It learns on the cells that it is to score, as a supernet does, but
    for a quarter that the splits leave out; no result of the benchmark has a say. `ghn2_cifar10_cpu` gives the rest.
    A step takes about half a second of one core (1.15 million parameters). The checkpoint ghn2-nasbench201 is of such a
    run, with three local steps in the first 250.
    """
    return replace(
        ghn2_cifar10_cpu(),
        name="ghn2_nasbench201_cpu",
        stages=(Stage(steps=1000, image_size=16, images=32, networks=8),),
        ghn={"max_shape": [64, 64, 3, 3]},
        corpus=4350,  # all that the split has
        splits=("cells201_train", "cells201_val"),
        val_networks=20,
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


RECIPES: dict[str, Callable[[], Recipe]] = {
    f.__name__: f
    for f in (
        *(ghn1_cifar10, ghn2_cifar10, mlp_cifar10, ghn2_imagenet, ghn3_t_cifar10),
        *(ghn2_cifar10_cpu, ghn3_t_cifar10_cpu, ghn2_nasbench201_cpu, smoke),
    )
}


def recipe(name: str) -> Recipe:
    """The recipe of this name. Raises RecipeError, naming the known ones."""
    if name not in RECIPES:
        raise RecipeError(f"no recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]()
