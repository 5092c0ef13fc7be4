"""The house: who may import whom, what importing costs, and that every public name is explained."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gpuspike"
FILES = sorted(PACKAGE.rglob("*.py"))

ORDER = [
    "errors", "kinds", "screen", "reading", "strangers", "registry", "plugins", "rng", "backend", "forks",
    "neuron", "kernels", "network", "datasets", "substrate", "training", "accountant", "exchange", "config",
    "store", "report", "runs", "api",
    "torch", "jax", "cli",
]  # fmt: skip
"""The floors: a file imports only from floors below its own."""

KERNELS_MAY_USE = {"errors", "backend", "forks", "neuron", "rng"}
HYDRA_IS_KNOWN_TO = {"config", "cli"}
CUPY_IS_KNOWN_TO = {"backend.py", "kernels/cuda/__init__.py"}
MOST_LINES = 400

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())


def room(file: Path) -> str:
    """The module, or for a file in a folder that folder, as ORDER names it; "" for the package itself."""
    name = file.relative_to(PACKAGE).with_suffix("").parts[0]
    return "" if name == "__init__" else name


def imported(tree: ast.AST) -> set[str]:
    """Full names of the modules, and of what is taken out of them, that some source imports anywhere."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            names |= {part.value for part in ast.walk(argument) if isinstance(part, ast.Constant)}
    return {name.rstrip(".") for name in names}


def source(file: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"))


def rooms_used(file: Path) -> set[str]:
    """The other rooms of gpuspike that a file imports; "" for names taken from the package itself."""
    rooms = set()
    for name in imported(source(file)):
        if name == "gpuspike" or name.startswith("gpuspike."):
            part = [*name.split("."), ""][1]
            rooms.add(part if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists() else "")
    return rooms - {room(file)}


def libraries_used(file: Path) -> set[str]:
    """Top-level names of everything that a file imports."""
    return {name.split(".")[0] for name in imported(source(file))}


def test_the_order_has_all_rooms_and_no_other() -> None:
    assert {room(file) for file in FILES} == {"", *ORDER}


@pytest.mark.parametrize("here", ORDER)
def test_a_module_imports_only_modules_before_it(here: str) -> None:
    used = {name for file in FILES if room(file) == here for name in rooms_used(file)}
    assert used <= set(ORDER[: ORDER.index(here)])
    if here == "kernels":
        assert used <= KERNELS_MAY_USE


@each_file
def test_hydra_is_known_to_the_configuration_and_the_commands_only(file: Path) -> None:
    if libraries_used(file) & {"hydra", "omegaconf"}:
        assert room(file) in HYDRA_IS_KNOWN_TO


@each_file
def test_cupy_is_imported_where_the_backend_is_chosen_and_only_when_needed(file: Path) -> None:
    if "cupy" in libraries_used(file):
        assert file.relative_to(PACKAGE).as_posix() in CUPY_IS_KNOWN_TO
    at_import = [node for node in source(file).body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert "cupy" not in {name.split(".")[0] for node in at_import for name in imported(node)}


@each_file
def test_only_the_reference_needs_scipy_and_only_the_cpu_kernels_numba(file: Path) -> None:
    used = libraries_used(file)
    if "scipy" in used:
        assert file.parent == PACKAGE / "kernels" / "reference"
    if used & {"numba", "llvmlite"}:
        leaf = file.parent in (PACKAGE / "training" / "losses", PACKAGE / "training" / "optimizers")
        assert room(file) == "kernels" or leaf


@pytest.mark.parametrize(
    "heavy",
    [
        "numba", "matplotlib", "hydra", "omegaconf", "cupy", "wandb", "scipy", "rich", "yaml", "sklearn",
        "pandas", "torch", "jax", "nir", "h5py",
    ],
)  # fmt: skip
def test_importing_gpuspike_loads_nothing_heavy(heavy: str, loaded: set[str]) -> None:
    assert heavy not in loaded


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """Top-level modules after `import gpuspike` in a fresh process."""
    code = "import gpuspike, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def modules_after(code: str, folder: Path) -> set[str]:
    """Top-level modules in a fresh process that has run some code, whether or not it exits."""
    wrapped = (
        "import sys\n"
        f"try:\n    {code}\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('loaded', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", wrapped], cwd=folder, capture_output=True, text=True, check=True
    )
    return set(answer.stdout.splitlines()[-1].split())


HEAVY = {
    "nir",
    "h5py",
    "numba",
    "matplotlib",
    "cupy",
    "scipy",
    "wandb",
    "tensorboardX",
    "optuna",
    "submitit",
    "joblib",
}


@pytest.mark.parametrize(
    "command",
    [
        "gpuspike-train",
        "gpuspike-tune",
        "gpuspike-need",
        "gpuspike-export",
        "gpuspike-import",
        "gpuspike-price",
    ],
)
def test_asking_a_command_for_help_loads_nothing_heavy(command: str, tmp_path: Path) -> None:
    module, function = {
        "gpuspike-train": ("gpuspike.cli.train", "train"),
        "gpuspike-tune": ("gpuspike.cli.tune", "tune"),
        "gpuspike-need": ("gpuspike.cli.need", "need"),
        "gpuspike-export": ("gpuspike.cli.exchange", "export"),
        "gpuspike-import": ("gpuspike.cli.exchange", "import_"),
        "gpuspike-price": ("gpuspike.cli.price", "price"),
    }[command]
    code = f"sys.argv = ['{command}', '--help']; import {module}; {module}.{function}()"
    loaded = modules_after(code, tmp_path)
    assert loaded & HEAVY == set()
    assert "gpuspike" in loaded


def test_a_run_loads_no_dashboard_and_no_device_that_it_does_not_use(tmp_path: Path) -> None:
    sizes = ["dataset.n_train=150", "dataset.n_validation=10", "dataset.n_test=10"]
    given = ["backend=cpu", "training.epochs=1", *sizes]
    code = f"sys.argv = ['gpuspike-train', *{given}]; import gpuspike.cli.train; gpuspike.cli.train.train()"
    loaded = modules_after(code, tmp_path)
    assert loaded & {"wandb", "tensorboardX", "optuna", "submitit", "joblib", "cupy"} == set()
    assert {"numba", "matplotlib"} <= loaded


def test_every_name_of_the_package_s_front_door_is_there_and_explained() -> None:
    import gpuspike

    assert {"LIF", "NO_SPIKE", "first_spikes", "first_spikes_vjp", "Network", "fit"} <= set(gpuspike.__all__)
    assert all(getattr(gpuspike, name) is not None for name in gpuspike.__all__)
    assert set(gpuspike.__all__) <= set(dir(gpuspike))
    with pytest.raises(AttributeError, match="has no attribute 'Netwrok'"):
        gpuspike.Netwrok  # noqa: B018


def unexplained(body: list[ast.stmt], prefix: str = "") -> list[str]:
    """Public functions, classes and methods without a docstring; functions inside functions are private."""
    names = []
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        decorators = [] if isinstance(node, ast.ClassDef) else map(ast.unparse, node.decorator_list)
        if node.name.startswith("_") or "overload" in decorators:
            continue
        if not ast.get_docstring(node):
            names.append(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            names += unexplained(node.body, f"{prefix}{node.name}.")
    return names


@each_file
def test_every_module_and_every_public_name_has_a_docstring(file: Path) -> None:
    tree = source(file)
    assert ast.get_docstring(tree)
    assert unexplained(tree.body) == []


@each_file
def test_no_file_grows_beyond_what_one_can_read(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
