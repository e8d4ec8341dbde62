"""A radius within which no attack changes what a student with noise on its input says: randomised smoothing."""

from stocnoise.certification.adapt import adapt_batch_norm
from stocnoise.certification.certificate import Certificate
from stocnoise.certification.certify import certify
from stocnoise.certification.curve import plot_certificates

__all__ = ["Certificate", "adapt_batch_norm", "certify", "plot_certificates"]
