"""What every job takes: one YAML, overrides, and --check, which stops after the config was read."""

import argparse


def read(description: str | None) -> argparse.Namespace:
    """The command line of a job: `.config`, `.overrides`, `.check`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, complete: one file is one run")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--check", action="store_true", help="read the config and stop")
    return parser.parse_args()
