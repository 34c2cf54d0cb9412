"""Registers our model class with `transformers` as soon as both are imported, in whichever order.

Importing `transformers` takes seconds and is not installed where only engines run, so `import atb_export` must not
do it; but a user who imports both expects `AutoModel` to know the class.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class _RegisteringLoader(Loader):
    """Runs the real loader, then registers."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        from atb_export.modeling import register

        register()


class _Watcher(MetaPathFinder):
    """Waits for the first import of `transformers`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "transformers":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


def register_when_imported() -> None:
    """Registers now if `transformers` is imported already, else right after it is."""
    if "transformers" in sys.modules:
        from atb_export.modeling import register

        register()
    else:
        sys.meta_path.insert(0, _Watcher())
