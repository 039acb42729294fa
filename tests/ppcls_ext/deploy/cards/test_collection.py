"""The cards in docs/models are those that the code makes, and what they count is so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ppcls_ext.arch.registry import list_models
from ppcls_ext.deploy.cards.collection import COUNTS, count_published, pages, read_counts, write_collection
from ppcls_ext.deploy.cards.counts import Counts
from ppcls_ext.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[4]
FOLDER = ROOT / "docs" / "models"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "models.json").read_text(encoding="utf-8"))
REMEDY = "python tools/model_card.py --all --output docs/models"


def test_cards_are_up_to_date() -> None:
    expected = pages(read_counts(FOLDER).__getitem__)
    found = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.md")}
    assert set(found) == set(expected), REMEDY
    assert [name for name in expected if found[name] != expected[name]] == [], REMEDY


def test_every_count_is_the_golden_one() -> None:
    counts = read_counts(FOLDER)
    assert set(counts) == set(list_models()), REMEDY
    for model, each in counts.items():
        assert (each.parameters, each.multiply_adds) == (GOLDEN[model]["parameters"], GOLDEN[model]["flops"]), model


@pytest.mark.parametrize("model", ["EConvNeXt_mini", "ConvNeXtV2_atto"])
def test_counting_again_gives_the_same(model: str) -> None:
    assert count_published(model) == read_counts(FOLDER)[model]


def test_a_collection_is_written_with_an_index_that_leads_everywhere(tmp_path: Path) -> None:
    files = write_collection(tmp_path / "cards", lambda model: Counts((3, 224, 224), {"stem": (len(model), 7)}))
    assert {file.name for file in files} == {f"{model}.md" for model in list_models()} | {"README.md", COUNTS}
    index = (tmp_path / "cards" / "README.md").read_text(encoding="utf-8")
    assert all(f"]({model}.md)" in index for model in list_models())
    assert read_counts(tmp_path / "cards")["EConvNeXt_mini"].parameters == len("EConvNeXt_mini")


def test_damaged_counts_are_told(tmp_path: Path) -> None:
    (tmp_path / COUNTS).write_text('{"EConvNeXt_mini": {"image_shape": [3]}}', encoding="utf-8")
    with pytest.raises(UserError, match="counts.json: damaged"):
        read_counts(tmp_path)
