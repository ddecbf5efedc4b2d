"""Makes every golden file again by running, one after another, each script of this folder that makes some.

Prints what each of them prints. Stops at the first that fails.
"""

import subprocess
import sys
from pathlib import Path

SCRIPTS = ["ops", "models", "t5", "stages", "stage2_t5", "optimizer", "text", "images", "generation", "retrieval"]
SCRIPTS += ["attention", "pictures", "picture_kinds", "checkpoints"]

here = Path(__file__).resolve().parent
for name in SCRIPTS:
    script = here / f"{name}.py"
    if script.exists():
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, str(script)], check=True)
