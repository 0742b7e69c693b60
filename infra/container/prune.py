"""Print the installed packages that a requirement does not need, one a line; with --pins, the versions of packages.

python prune.py maskmill[demo] | xargs -r pip uninstall --yes
python prune.py --pins torch torchvision
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, distributions

from packaging.requirements import Requirement

KEPT = {"pip"}


def canonical(name: str) -> str:
    """One spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(text: str) -> set[str]:
    """Canonical names of a requirement and of everything installed that it needs, extras and markers obeyed."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text)]
    while waiting:
        requirement = waiting.pop()
        key = (canonical(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        try:
            requires = distribution(requirement.name).requires or []
        except PackageNotFoundError:
            continue  # of another platform
        found.add(key)
        for line in requires:
            other = Requirement(line)
            if other.marker is None or any(
                other.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            ):
                waiting.append(other)
    return {name for name, _ in found}


def superfluous(text: str) -> list[str]:
    """Canonical names of what is installed and not needed, sorted."""
    installed = {canonical(one.metadata["Name"]) for one in distributions()}
    return sorted(installed - needed(text) - KEPT)


if __name__ == "__main__":
    if sys.argv[1] == "--pins":
        print(*(f"{name}=={distribution(name).version.partition('+')[0]}" for name in sys.argv[2:]))
    else:
        print(*superfluous(sys.argv[1]), sep="\n")
