"""From a deterministic model to a stochastic one: find the places, then replace them."""

from stocnoise.conversion.changing.revert import revert
from stocnoise.conversion.changing.sites import Site, conversion_of, student_in
from stocnoise.conversion.convert import convert, find_sites
from stocnoise.conversion.finding.catalog import register_activation, register_gate
from stocnoise.conversion.summary import Summary, summary

__all__ = [
    "Site",
    "Summary",
    "conversion_of",
    "convert",
    "find_sites",
    "register_activation",
    "register_gate",
    "revert",
    "student_in",
    "summary",
]
