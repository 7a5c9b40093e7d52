"""The coarse labels of CIFAR-100 (Krizhevsky, 2009): what CIFAR-20 is made of."""

from __future__ import annotations

from collections.abc import Sequence

from kinfold.errors import InputError

SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
FINE = tuple(sorted(name for names in SUPERCLASSES.values() for name in names))
COARSE = tuple(SUPERCLASSES)
_COARSE_OF = {name: coarse for coarse, names in SUPERCLASSES.items() for name in names}


def to_cifar20(classes: Sequence[str]) -> list[str]:
    """Return the superclass of each class of CIFAR-100.

    Names become names of superclasses; numbers 0 to 99, CIFAR-100's alphabetical ones, become 0 to 19.

    Raises
    ------
    InputError
        A class is none of CIFAR-100.
    """
    if classes and all(name.isdecimal() for name in classes):
        if wrong := [name for name in classes if int(name) >= len(FINE)]:
            raise InputError(f"{wrong[0]} is no class of CIFAR-100; its numbers go from 0 to 99")
        return [str(COARSE.index(_COARSE_OF[FINE[int(name)]])) for name in classes]
    plain = [name.strip().replace(" ", "_") for name in classes]
    if wrong := [name for name in plain if name not in _COARSE_OF]:
        raise InputError(f"{wrong[0]!r} is no class of CIFAR-100; it has names like {FINE[0]!r}, or 0 to 99")
    return [_COARSE_OF[name] for name in plain]
