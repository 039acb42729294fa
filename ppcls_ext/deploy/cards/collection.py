"""Cards of all our models in one folder: what they are, what they cost, and what accuracy was published of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ppcls_ext.arch.registry import list_models
from ppcls_ext.deploy.cards.card import DEFAULT_SHAPE, card_text
from ppcls_ext.deploy.cards.counts import Counts, count_classifier, from_document
from ppcls_ext.deploy.cards.facts import Facts
from ppcls_ext.deploy.cards.papers import paper_of
from ppcls_ext.deploy.cards.sources import Source, read_json
from ppcls_ext.deploy.published import PUBLISHED
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_json, write_text
from ppcls_ext.utils.tables import markdown_table

INDEX, COUNTS = "README.md", "counts.json"
COMMAND = "python tools/model_card.py --all --output docs/models"
CountOf = Callable[[str], Counts]


def count_published(model: str) -> Counts:
    """Counts one of our models as it was published, with 1000 classes at 224 px; loads Paddle."""
    return count_classifier(model, {}, DEFAULT_SHAPE)


def pages(count_of: CountOf = count_published) -> dict[str, str]:
    """Returns the cards of all our models and their index, by file name."""
    texts: dict[str, str] = {}
    rows = [["model", "family", "parameters, M", "GFLOPs", "top-1 on ImageNet-1k, published"]]
    for model in list_models():
        counts = count_of(model)
        texts[f"{model}.md"] = card_text(Facts(Source(model), counts))
        published, paper = PUBLISHED.get(model), paper_of(model)
        accuracy = "none known" if published is None else f"{published.top1:g} % ({published.source})"
        rows.append(
            [
                f"[{model}]({model}.md)",
                "" if paper is None else f"{paper.family}, arXiv {paper.arxiv}",
                f"{counts.parameters / 1e6:.2f}",
                f"{counts.multiply_adds / 1e9:.3f}",
                accuracy,
            ]
        )
    height, width = DEFAULT_SHAPE[1:]
    texts[INDEX] = (
        f"# Models\n\nWritten by `{COMMAND}`. Parameters and multiply-adds (GFLOPs) are counted, for one image of "
        f"{height} x {width} px and 1000 classes; accuracies are published ones, not measured by this project.\n\n"
        f"{markdown_table(rows[0], rows[1:])}\n"
    )
    return texts


def write_collection(folder: str | os.PathLike[str], count_of: CountOf = count_published) -> list[Path]:
    """Writes the cards of all our models, their index, and the counts that they were made of; returns the files."""
    root = Path(folder)
    counts = {model: count_of(model) for model in list_models()}
    texts = pages(counts.__getitem__)
    for name, text in texts.items():
        write_text(root / name, text)
    write_json(root / COUNTS, {model: each.to_document() for model, each in counts.items()})
    return [root / name for name in [*texts, COUNTS]]


def read_counts(folder: str | os.PathLike[str]) -> dict[str, Counts]:
    """Returns what :func:`write_collection` counted, by model.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = Path(folder) / COUNTS
    document: dict[str, Any] = read_json(file)
    try:
        return {model: from_document(each) for model, each in document.items()}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{file}: damaged ({error!r})") from error
