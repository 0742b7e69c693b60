"""A user's own network: `package.module:function` of an installed package, or of code in a given folder."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.config import ModelConfig
from pipeline.config.models import PythonConfig
from pipeline.config.user_code import INSTALLED, find_folder, sha256_of_code
from pipeline.errors import UserError
from pipeline.models.outside import Outside, words

_IMPORTED: dict[Path, str] = {}  # folder -> hash of the code that this process imported from it


class PythonCode(Outside):
    """A module built by the user's function, which is called with `num_classes` and the arguments.

    Raises:
        UserError: there is no such function, its code differs from the checkpoint's, or it raises an error.
    """

    row = ("build: package.module:function", "an nn.Module of yours")

    def make(self, cfg: PythonConfig) -> nn.Module:
        self.title = f"model.build {cfg.build}"
        if cfg.backbone is not None:
            self.encoders = (cfg.backbone,)  # type: ignore[misc]
        code = _place(cfg)
        found = sha256_of_code(code)
        if cfg.code_sha256 not in (None, found):
            raise UserError(
                f"{self.title}: the code in {code} has sha256 {found[:12]}, and that of this network's training had "
                f"{str(cfg.code_sha256)[:12]}; put that code back, or train again with this one"
            )
        function = _function(cfg, code, found)
        try:
            network = function(num_classes=self.num_classes, **cfg.arguments)
        except Exception as error:
            given = ", ".join(["num_classes", *cfg.arguments])
            raise UserError(
                f"{self.title}: it raised {words(error)} when it was called with {given}; fix it, or model.arguments"
            ) from error
        if not isinstance(network, nn.Module):
            raise UserError(f"{self.title}: it gave a {type(network).__name__}; it must return a torch.nn.Module")
        if cfg.backbone is not None:
            self._check_backbone(network, cfg.backbone)
        return network

    def _check_backbone(self, network: nn.Module, name: str) -> None:
        if name not in dict(network.named_modules()):
            known = ", ".join(child for child, _ in network.named_children())
            raise UserError(f"model.backbone: the network has no part {name}; at its top are {known}")

    @classmethod
    def settle(cls, cfg: PythonConfig) -> PythonConfig:  # type: ignore[override]
        if cfg.code_sha256 is not None:
            return cfg
        return cfg.model_copy(update={"code_sha256": sha256_of_code(_place(cfg))})


def code_of(cfg: ModelConfig) -> str | None:
    """Return the code that a config allows to run: that of its own network."""
    return (cfg.path or INSTALLED) if cfg.name == "python" else None


def _place(cfg: PythonConfig) -> Path:
    """Return the folder of the code, or the file of the installed module."""
    if cfg.path is not None:
        return find_folder(cfg.path)
    name = cfg.build.partition(":")[0]
    try:
        spec = importlib.util.find_spec(name)
    except Exception as error:  # finding a.b imports a
        raise _no_module(cfg, words(error)) from error
    if spec is None or spec.origin is None:
        raise _no_module(cfg, "there is no such module")
    return Path(spec.origin)


def _function(cfg: PythonConfig, code: Path, sha256: str) -> Callable[..., Any]:
    name, _, attribute = cfg.build.partition(":")
    folder = code if cfg.path is not None else None
    if folder is not None:
        _make_way(cfg, name, folder, sha256)
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
            importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever the user's code raises
        raise _no_module(cfg, words(error)) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        known = ", ".join(one for one in vars(module) if not one.startswith("_") and callable(getattr(module, one)))
        raise UserError(
            f"model.build {cfg.build}: {module.__file__} has no function {attribute}; it has {known or 'none'}"
        )
    if folder is not None and not _is_of(function, folder):
        raise UserError(
            f"model.build {cfg.build}: {attribute} is none of the code in {folder}; name a function of that folder"
        )
    return function


def _make_way(cfg: PythonConfig, name: str, folder: Path, sha256: str) -> None:
    """Unload modules that were imported from the folder before it changed, and those of the same name from other folders.

    Raises:
        UserError: the name belongs to an imported module that is not from a folder of code.
    """
    top = name.partition(".")[0]
    place = _file_of(sys.modules.get(top))
    if _IMPORTED.get(folder) != sha256 or (place is not None and not place.is_relative_to(folder)):
        for module, loaded in list(sys.modules.items()):
            file = _file_of(loaded)
            if file is not None and any(file.is_relative_to(known) for known in _IMPORTED):
                del sys.modules[module]
        sys.path[:] = [entry for entry in sys.path if Path(entry) not in _IMPORTED]
    if (place := _file_of(sys.modules.get(top))) is not None and not place.is_relative_to(folder):
        raise UserError(f"model.build {cfg.build}: {top} is the name of another module, {place}; rename yours")
    _IMPORTED[folder] = sha256


def _is_of(function: Any, folder: Path) -> bool:
    file = _file_of(sys.modules.get(getattr(function, "__module__", "")))
    return file is not None and file.is_relative_to(folder)


def _file_of(module: Any) -> Path | None:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return Path(file).resolve() if isinstance(file, str) else None


def _no_module(cfg: PythonConfig, why: str) -> UserError:
    where = f"of the folder {cfg.path}" if cfg.path else "that is installed here"
    hint = "" if cfg.path else "; name the folder of your code in model.path"
    return UserError(f"model.build {cfg.build}: it cannot be imported as a module {where} ({why}){hint}")
