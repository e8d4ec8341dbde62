"""From a deterministic model to a stochastic one: find the places, then replace them."""

from stocnoise.conversion.catalog import register_activation
from stocnoise.conversion.convert import conversion_of, convert, find_sites, revert
from stocnoise.conversion.plan import Site

__all__ = ["Site", "conversion_of", "convert", "find_sites", "register_activation", "revert"]
