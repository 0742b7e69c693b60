"""A YAML file as keys and values, with the line of each key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.errors import UserError


@dataclass(frozen=True)
class YamlFile:
    """The content of one YAML file; `where` is its path or URI."""

    where: str
    values: Any
    root: yaml.Node | None = None

    def line(self, keys: Sequence[str]) -> int | None:
        """Return the line, from 1, of the key at a path, or of the nearest existing section above it; None for the top."""
        node, found = self.root, None
        for key in keys:
            inner = _child(node, key)
            if inner is None:
                break
            name, node = inner
            found = name.start_mark.line + 1
        return found

    def holds(self, keys: Sequence[str]) -> bool:
        """Whether the file itself has the key at a path."""
        node = self.root
        for key in keys:
            inner = _child(node, key)
            if inner is None:
                return False
            node = inner[1]
        return True


def parse_yaml(data: bytes, where: str) -> YamlFile:
    """Parse the bytes of a file.

    Raises:
        UserError: it is not YAML, or has a key twice, of which YAML readers would silently keep one; the message has the line.
    """
    try:
        loader = yaml.SafeLoader(data.decode())
        root = loader.get_single_node()
        _refuse_twice(root, where)
        return YamlFile(where, None if root is None else loader.construct_document(root), root)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        words = ": ".join(" ".join(text.split()) for text in (error.context, error.problem) if text)
        raise UserError(f"{where}{line}: not valid YAML: {words}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date such as 2024-13-01
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def _refuse_twice(root: yaml.Node | None, where: str) -> None:
    for mapping in _mappings(root):
        lines: dict[Any, int] = {}
        for key, _ in mapping.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines and key.value != "<<":
                raise UserError(
                    f"{where}:{line}: {key.value}: this key is on line {lines[key.value]} already; keep one of the two"
                )
            lines[getattr(key, "value", None) if isinstance(key, yaml.ScalarNode) else id(key)] = line


def _mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Yield every mapping of a document once, even if aliases refer to it again."""
    seen, left = set(), [root] if root is not None else []
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            left += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value


def _child(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the node of a key or of an index into a list, and the node of its value."""
    if isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
        return (node.value[int(key)],) * 2
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value == key:
                return name, value
    return None
