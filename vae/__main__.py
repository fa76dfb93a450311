"""Lets ``python -m vae`` run the command line."""

import os
import sys
import warnings

# Set before torch loads its threads. By default they spin long while they wait, and two programs
# that spin on the same cores slow each other down many times over; put to sleep at once, one alone
# takes twice as long, since waking costs more than a small operation. So they spin for the length
# of a small operation, and then sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# What Pillow warns of in an image file is either refused or harmless.
warnings.filterwarnings("ignore", module=r"PIL\b")

from vae.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
