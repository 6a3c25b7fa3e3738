"""Networks of the user's own, pinned by their source: one name must mean one network as long as a run lasts."""

import ast
import hashlib
import importlib.util
import site
import sys
import sysconfig
from pathlib import Path

from raysr.models import find_architecture, parse_arch

_INSTALLED = (
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(Path(place).resolve() for place in (*site.getsitepackages(), site.getusersitepackages())),
)
_RAYSR = Path(__file__).resolve().parent


class CodeChangedError(ValueError):
    """A network's source that is not the one which its run was begun with."""


def code_digest(arch: str) -> str | None:
    """SHA-256 over the source of a network that is named as `package.module:Class`; None for every other one.

    The source is the file of that module and of every module of the user's own that it imports. Python, installed
    packages and raysr are left out: `run.json` has their versions. Raises ValueError as `find_architecture` does.
    """
    name = parse_arch(arch)[0]
    if ":" not in name:
        return None
    find_architecture(arch)  # imports the module
    first = name.partition(":")[0]
    files = _reached(first) or {first: Path(str(sys.modules[first].__file__))}  # installed: its own file alone
    digest = hashlib.sha256()
    for module, file in sorted(files.items()):
        source = file.read_bytes()
        digest.update(f"{module} {len(source)} ".encode() + source)
    return digest.hexdigest()


def check_code(arch: str, pinned: str | None) -> None:
    """Raise CodeChangedError where the source of `arch` is not the one that was `pinned`, if one was."""
    if pinned is None:
        return
    now = code_digest(arch)
    if now != pinned:
        raise CodeChangedError(
            f"{arch} was edited after the run began (SHA-256 of its source {str(now)[:12]}, then {pinned[:12]}): take "
            "the change back, or give the edited network another name and a new run"
        )


def _reached(first: str) -> dict[str, Path]:
    """The file of module `first`, and those of the user's modules that it imports, directly or through each other."""
    found: dict[str, Path] = {}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        file = _users_file(name) if name not in found else None
        if file is not None:
            found[name] = file
            waiting += _imported(name, file)
    return found


def _imported(module: str, file: Path) -> list[str]:
    """What the source of `module` imports, wherever in it: modules, and names that may be modules."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            names += [base, *(f"{base}.{one.name}" for one in node.names)]
    # A package's own file runs before those below it.
    return [".".join(parts[:end]) for name in names for parts in [name.split(".")] for end in range(1, len(parts) + 1)]


def _users_file(name: str) -> Path | None:
    """The source of a module that belongs neither to Python nor to an installed package nor to raysr.

    Nothing is imported to find it: below a package of the user's own, modules are found by their paths.
    """
    top, *below = name.split(".")
    module = sys.modules.get(top)
    try:
        spec = module.__spec__ if module is not None else importlib.util.find_spec(top)
    except (ImportError, AttributeError, ValueError):
        return None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    places = [Path(spec.origin)] if not below and spec.origin else []
    for folder in folders if below else ():
        inner = folder.joinpath(*below)
        places += [inner / "__init__.py", inner.with_suffix(".py")]
    found = next((place.resolve() for place in places if place.suffix == ".py" and place.is_file()), None)
    users = found is not None and not any(found.is_relative_to(root) for root in (*_INSTALLED, _RAYSR))
    return found if users else None
