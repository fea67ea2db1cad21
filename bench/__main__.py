"""Run every measurement, or those that are named, and print a table of each: `python -m bench [NAME …]`."""

import argparse
import tempfile
from pathlib import Path

from bench import answers, boots, imports, rescue_system, roms

MEASUREMENTS = {
    "answers": answers.run,
    "boots": boots.run,
    "rescue_system": rescue_system.run,
    "roms": roms.run,
    "imports": imports.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []], metavar="NAME", help=", ".join(MEASUREMENTS))
    names = parser.parse_args().names or list(MEASUREMENTS)
    with tempfile.TemporaryDirectory(prefix="rescuesite-bench-") as folder:
        base = Path(folder)
        base.chmod(0o755)  # nginx's and PHP's workers are other users
        for name in names:
            MEASUREMENTS[name](base / name)


if __name__ == "__main__":
    main()
