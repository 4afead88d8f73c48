"""The structure that keeps the project whole, checked on its syntax trees."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
ROOTS = [REPOSITORY / root for root in ("converters", "models", "validation")]
FILES = [(root, path) for root in ROOTS for path in sorted(root.rglob("*.py"))]

# Imports point one way: a part may import itself and the parts on the lines above its own.
LAYERS = (
    "demitasse.errors",
    "demitasse.ir",
    "demitasse.preprocess",
    "demitasse.samples",
    "demitasse.readers demitasse.passes demitasse.writers demitasse_models",
    "demitasse.quantize",
    "demitasse.targets",
    "demitasse.route",
    "demitasse.conversion",
    "demitasse",
    "demitasse_validation",
    "demitasse.cli",
    "demitasse.__main__",
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts.split()}

# What takes long to import is imported inside the functions that need it.
HEAVY = {"PIL", "ai_edge_litert", "ai_edge_quantizer", "caffe", "cv2", "google", "h5py", "jinja2", "keras"}
HEAVY |= {"onnx", "onnxruntime", "rich", "scipy", "tensorflow", "tf2onnx"}
VAGUE = {"base", "common", "helper", "helpers", "misc", "util", "utils"}

Import = tuple[int, str]  # the line, and the full name that is asked for


def part_of(module: str) -> str:
    """Returns the part that a full name belongs to; what a package itself offers belongs to the package."""
    package, _, rest = module.partition(".")
    part = f"{package}.{rest.partition('.')[0]}"
    return part if part in LEVEL else package


def imports(nodes: Iterable[ast.AST], package: str) -> Iterator[Import]:
    """Yields what the import statements ask for: `from demitasse import read` asks for `demitasse.read`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = package.split(".")
            above = names[: len(names) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes that run when the module is imported: none in a function, none for types only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from run_on_import(child)


def is_upward(part: str, name: str) -> bool:
    """Tells whether a part that asks for a name reaches beside or above itself; the version is for all."""
    other = part_of(name)
    if other not in LEVEL or other == part or name == "demitasse.__version__":
        return False
    return LEVEL[other] >= LEVEL[part]


def breaches(root: Path, path: Path, source: str) -> Iterator[str]:
    parts = path.relative_to(root).with_suffix("").parts
    package, module = ".".join(parts[:-1]), ".".join(part for part in parts if part != "__init__")
    part, tree = part_of(module), ast.parse(source)
    if VAGUE & set(parts):
        yield f"{path}: a file is named after what it holds or does"
    if part == "demitasse" != module:
        yield f"{path}: {module} has no place in LAYERS"
    for line, name in imports(ast.walk(tree), package):
        if is_upward(part, name):
            yield f"{path}:{line}: {part} imports {part_of(name)}"
    banned = HEAVY if part == "demitasse_validation" else HEAVY | {"demitasse_validation"}
    for line, name in imports(run_on_import(tree), package):
        if (top := name.partition(".")[0]) in banned:
            yield f"{path}:{line}: {top} at module level"
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{path}:{node.lineno}: bare except"
    for number, text in enumerate(source.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX)\b", text):
            yield f"{path}:{number}: work left over"


def test_the_packages_keep_the_architecture() -> None:
    found = [breach for root, path in FILES for breach in breaches(root, path, path.read_text("utf-8"))]
    assert FILES
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source", "breach"),
    [
        ("ir/graph.py", "from demitasse.readers import caffe", "demitasse.ir imports demitasse.readers"),
        ("ir/__init__.py", "from ..passes import layout", "demitasse.ir imports demitasse.passes"),
        (
            "readers/caffe/net.py",
            "from ...writers import onnx",
            "demitasse.readers imports demitasse.writers",
        ),
        (
            "writers/onnx.py",
            "def f():\n    import demitasse.readers",
            "writers imports demitasse.readers",
        ),
        ("writers/onnx.py", "from demitasse import read", "demitasse.writers imports demitasse"),
        ("conversion.py", "from . import cli", "demitasse.conversion imports demitasse.cli"),
        ("conversion.py", "def f():\n    import demitasse_validation.report", "imports demitasse_validation"),
        ("cli.py", "import demitasse_validation", "demitasse_validation at module level"),
        ("writers/onnx.py", "try:\n    import onnx.helper\nfinally: ...", "onnx at module level"),
        ("export.py", "", "demitasse.export has no place in LAYERS"),
        ("ir/utils.py", "", "a file is named after what it holds or does"),
        ("errors.py", "try: ...\nexcept: ...", "bare except"),
        ("errors.py", "# TO" + "DO: later", "work left over"),
    ],
)
def test_a_breach_is_found(file: str, source: str, breach: str) -> None:
    (found,) = breaches(Path(), Path("demitasse", file), source)
    assert breach in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli.py", "def f():\n    import demitasse_validation\n    from demitasse import convert"),
        ("writers/onnx.py", "from demitasse import __version__\ndef f():\n    import onnx"),
        ("writers/onnx.py", "if typing.TYPE_CHECKING:\n    import onnx"),
        ("readers/caffe/net.py", "from . import wire\nfrom ...ir import ops\nfrom demitasse.errors import E"),
    ],
)
def test_what_is_allowed_is_no_breach(file: str, source: str) -> None:
    assert not list(breaches(Path(), Path("demitasse", file), source))


def test_no_module_imports_a_heavy_library_by_a_detour() -> None:
    paths = [path.relative_to(root) for root, path in FILES if path.name != "__main__.py"]
    modules = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert not HEAVY & set(run.stdout.split())
