"""Attackers who may only ask, as text: ASR against queries."""

from __future__ import annotations

from collections.abc import Sequence

from stocnoise.evaluation.measured import Entry
from stocnoise.evaluation.table import epsilon, percent, table

NOTE = (
    "A query is one answer of one draw for one image. NAME-raw takes single answers, as published; NAME averages as "
    "many to a question as serve the attacker best at equal total, chosen by draws that count in no figure."
)


def query_head(norm: str) -> list[str]:
    return ["attack", f"{norm} ε", "queries", "answers", "ASR %", "robust %", "vote ASR", "averaged ASR", "s"]


def query_rows(entries: Sequence[Entry]) -> list[list[str]]:
    """A row for each attack, ε and budget."""
    return [
        [
            entry.attack,
            epsilon(entry.eps, entry.median_l2),
            str(entry.budget),
            str(entry.answers),
            percent(entry.asr),
            percent(entry.robust_accuracy),
            f"{100 * entry.vote_asr:.1f}",
            f"{100 * entry.averaged_asr:.1f}",
            f"{entry.seconds:.1f}",
        ]
        for entry in entries
    ]


def query_lines(entries: Sequence[Entry], norm: str, stochastic: bool) -> list[str]:
    """The table, with what a query is."""
    note = NOTE if stochastic else NOTE.split(". ")[0] + "."
    return ["ASR against queries:", *table(query_head(norm), query_rows(entries)), note, ""]
