"""House rules that a linter does not know."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
FILES = sorted(SOURCE.rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(node: ast.AST, modules: set[str]) -> Iterator[str]:
    """Modules of ours that are imported at the top or in a function, not for type checkers only."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "relative imports are for stubs"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in modules else str(node.module)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, modules)


def _length(function: ast.FunctionDef) -> int:
    """Lines of a function, without its docstring and without one line for each parameter."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    signature = function.body[0].lineno - function.lineno
    given = function.args
    n_parameters = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
    return lines - min(signature, n_parameters)


def test_files_can_be_read_in_one_sitting():
    long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) >= 400}
    assert not long


def test_functions_fit_on_a_screen():
    """Their docstrings aside. A signature of one line per parameter is no fault; a longer one is.

    A command whose options take more lines has them in groups or under names of their own.
    """
    long = {
        f"{path.name}: {node.name}": n
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (n := _length(node)) >= 60
    }
    assert not long


def test_no_files_import_each_other_in_a_circle():
    """Nor would they if every import inside a function stood at the top of its file."""
    modules = {_module(path): path for path in FILES}
    graph = {
        name: {*_imports(ast.parse(path.read_text()), {*modules})} & modules.keys()
        for name, path in modules.items()
    }
    assert sum(map(len, graph.values())) > len(graph), "imports are found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_no_public_name_is_also_a_file_beside_it():
    """Whoever imports such a file puts it where the name was: `fl.models.answers` was a module."""
    stubs = sorted(SOURCE.rglob("__init__.pyi"))
    assert stubs
    both = [
        f"{stub.parent.name}.{name}"
        for stub in stubs
        for node in ast.walk(ast.parse(stub.read_text()))
        if isinstance(node, ast.ImportFrom)
        for name in (alias.asname or alias.name for alias in node.names)
        if node.module is not None
        and ((stub.parent / f"{name}.py").exists() or (stub.parent / name).is_dir())
    ]
    assert not both


def test_no_file_is_named_after_nothing():
    names = {path.stem for path in FILES}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_double_precision_is_for_the_cpu():
    """Apple's MPS has no float64: what is computed in it is fetched to the CPU first."""
    on_the_device = re.compile(r"(?<!\.cpu\(\))\.double\(\)|\.sum\(dtype=torch\.float64\)")
    found = [
        f"{path.name}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if on_the_device.search(line)
    ]
    assert not found


def test_what_tests_share_is_found_by_its_name_alone():
    """Processes that tests start look for it in all folders of tests; several have a `conftest`."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    names = [p.stem for p in files if p.stem != "conftest" and not p.stem.startswith("test_")]
    assert len({*names}) == len(names)
    assert not [
        path
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "conftest"
    ]
