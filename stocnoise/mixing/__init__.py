"""The numbers of a mixture, chosen on held-out images by attacks on the mixture itself."""

from stocnoise.mixing.fit import fit_mixture
from stocnoise.mixing.found import MixtureFit

__all__ = ["MixtureFit", "fit_mixture"]
