"""`python -m stocnoise.cli`, as `accelerate launch -m` calls it."""

import sys

from stocnoise.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
