"""Run every measurement, and print a table of each."""

import tempfile
from pathlib import Path

from bench import answers, boots, rescue_system, roms


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="rescuesite-bench-") as folder:
        base = Path(folder)
        base.chmod(0o755)  # nginx's and PHP's workers are other users
        answers.run(base / "answers")
        boots.run(base / "boots")
        rescue_system.run(base / "rescue_system")
        roms.run(base / "roms")


if __name__ == "__main__":
    main()
