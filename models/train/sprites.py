"""The emoji pictures: Noto emoji graphics (Apache-2.0) from an npm package, never in git."""

import os
import subprocess
import sys

from concepts import SPRITES

PACKAGE = "emoji-datasource-google@16.0.0"
INSIDE = os.path.join("node_modules", "emoji-datasource-google", "img", "google", "64")


def find_sprites(given, cache):
    """The folder with CODE.png of every concept: the one given, or one installed into the cache."""
    folder = given or os.path.join(cache, INSIDE)
    if not given and not os.path.isdir(folder):
        print(f"installing {PACKAGE} into {cache}", file=sys.stderr)
        subprocess.run(["npm", "install", "--no-save", "--no-audit", "--prefix", cache, PACKAGE],
                       check=True)
    missing = [c for c in SPRITES if not os.path.exists(os.path.join(folder, c + ".png"))]
    if missing:
        sys.exit(f"{folder}: no {missing[0]}.png ({len(missing)} sprites missing); "
                 f"give the 64-pixel folder of {PACKAGE} with --sprites")
    return folder
