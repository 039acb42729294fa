"""Model cards: Markdown pages that tell what a model is, how it was trained and what was measured, from files alone."""

from __future__ import annotations

from ppcls_ext.deploy.cards.card import card_text, gather_facts, write_card
from ppcls_ext.deploy.cards.facts import Facts
from ppcls_ext.deploy.cards.sources import Source, read_run

__all__ = ["Facts", "Source", "card_text", "gather_facts", "read_run", "write_card"]
