"""Lets ``python -m vae`` run the command line."""

import os
import sys
import warnings

# Threads that wait spin briefly and then sleep: beside another program a core is not theirs alone.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# What Pillow warns of in an image file is either refused or harmless.
warnings.filterwarnings("ignore", module=r"PIL\b")

from vae.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
