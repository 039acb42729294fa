"""A sheet of a classifier's training samples as the network gets them (``tools/check_data.py --augmented``)."""

from __future__ import annotations

from pathlib import PurePath

from PIL import Image

from classification.build import (
    build_batches,
    build_dataset,
    names_of_all_classes,
    read_class_names,
    sampling_factors,
)
from classification.config import Config
from classification.data.operators import normalisation_of
from ppcls_ext.engine.augmented import as_picture, first_samples
from ppcls_ext.engine.environment import Environment
from ppcls_ext.preprocess import depth
from ppcls_ext.utils.drawing import Card, draw_sheet
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.fonts import drawable


def draw_augmented(config: Config) -> Image.Image:
    """Draws training samples after all operators with their labels and, of mixed images, the share of each.

    Raises:
        UserError: the configuration names no training data, or they cannot be used.
    """
    if config.train is None:
        raise UserError(f"{config.document.path}: --augmented draws samples of DataLoader.Train, which is missing")
    environment = Environment("cpu", 0, 1, config.run.seed or 0)
    dataset = build_dataset(config, config.train)
    images, seed = len(dataset), environment.seed
    statement = depth.resolve_auto_range(config.document.data, lambda index: dataset.load(index)[0], images, seed)
    config = config.with_depth(statement)
    names = names_of_all_classes(config, read_class_names(config, dataset))
    shown = sampling_factors(config, dataset, names)
    loader = build_batches(config, config.train, dataset, environment, training=True, factors=shown)
    factors, low = normalisation_of(config.train.operators)
    high = low + 255 * factors
    cards = []
    for batch, number in first_samples(loader):
        shares: dict[str, float] = {}
        for key, share in (("label", batch["lam"].item()), ("label_mixed", 1 - batch["lam"].item())):
            label = int(batch[key][number])
            name = drawable(names[label], label)
            shares[name] = shares.get(name, 0.0) + share
        ranking = sorted(((name, share) for name, share in shares.items() if share > 0), key=lambda pair: -pair[1])
        caption = PurePath(dataset.name_of(int(batch["index"][number]))).name
        labels, values = (list(each) for each in zip(*ranking, strict=True))
        cards.append(Card(as_picture(batch["image"][number], low, high), caption, labels, values))
    return draw_sheet(cards, f"Training samples after all operators: {config.document.path}")
