"""From a deterministic model to a stochastic one: find the places, then replace them."""

from stocnoise.conversion.catalog import register_activation
from stocnoise.conversion.convert import conversion_of, convert, find_sites, revert
from stocnoise.conversion.plan import Site
from stocnoise.conversion.summary import Summary, summary

__all__ = ["Site", "Summary", "conversion_of", "convert", "find_sites", "register_activation", "revert", "summary"]
