"""Lets ``python -m vae`` run the command line."""

import sys
import warnings

# What Pillow warns of in an image file is either refused or harmless.
warnings.filterwarnings("ignore", module=r"PIL\b")

from vae.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
