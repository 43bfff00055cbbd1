"""What the code itself says of a stage: the modules it imports and the parameters it reads."""

import ast
from pathlib import Path

import grimp

from image_pipeline.common.params import ROOMS

PACKAGE = "image_pipeline"
SOURCE = Path("src")  # relative: pytest runs in the project's root
# Rooms that cannot change a result, so that no stage depends on them.
WITHOUT_INFLUENCE = ("common", "distributed")
# The train stage shows these curves while it runs; the plot stage draws those that are kept.
NO_OUTPUTS = {("image_pipeline.training.live_curves", "image_pipeline.plotting.curves")}
# These load the one file that params.yaml names.
CHOSEN = {
    "src/image_pipeline/downloading/dataset.py": (
        "src/image_pipeline/datasets/${download.dataset}.py"
    ),
    "src/image_pipeline/modeling/networks.py": "src/image_pipeline/models/${train.model.name}.py",
    "src/image_pipeline/pretrained/fetch.py": "src/image_pipeline/models/${train.model.name}.py",
    "src/image_pipeline/augmenting/custom.py": (
        "src/image_pipeline/augmentations/${train.augmentation.custom}.py"
    ),
}
DATASETS = SOURCE / PACKAGE / "datasets"


def stage_names() -> set[str]:
    """Return the stages there is a script for."""
    return {path.stem for path in Path("stages").glob("*.py")}


def imported_files(stage: str) -> set[str]:
    """Return the files that can change a stage's outputs: its script, and what it imports.

    Directly or not, imports inside functions too, and what is loaded by a name in params.yaml: the
    chosen network, and the schemas of the blocks that the stage reads.
    """
    script = Path("stages") / f"{stage}.py"
    graph = grimp.build_graph(PACKAGE, cache_dir=None, exclude_type_checking_imports=True)
    for importer, imported in NO_OUTPUTS:
        graph.remove_import(importer=importer, imported=imported)
    direct = _direct_imports(script, graph.modules)
    if f"{PACKAGE}.downloading.dataset" in direct:
        # What `read` alone imports cannot change what `fetch` downloads.
        skipped = "read" if stage == "download" else ""
        for path in DATASETS.glob("[a-z]*.py"):
            direct |= _direct_imports(path, graph.modules, skipped)
    modules = direct.union(*(graph.find_upstream_modules(module) for module in direct))
    parents = {
        name.rsplit(".", depth)[0] for name in modules for depth in range(1, name.count(".") + 1)
    }
    files = {script.as_posix(), *(_file_of(module) for module in modules | parents)}
    blocks = {key.split(".")[0] for key in params_read(stage)} - {"machine"}
    files |= {f"{SOURCE}/{PACKAGE}/{ROOMS[f'{block.title()}Params']}/params.py" for block in blocks}
    without = tuple(f"{SOURCE}/{PACKAGE}/{room}/" for room in WITHOUT_INFLUENCE)
    files = {name for name in files if has_code(Path(name)) and not name.startswith(without)}
    return files | {chosen for loader, chosen in CHOSEN.items() if loader in files}


def params_read(stage: str) -> set[str]:
    """Return the dotted keys that a stage's script takes from params.yaml.

    `params.train.seed` is a read of that key; `params.train`, handed on as a whole, of the block.
    A stage that loads a data set reads what the data sets' files take of the stage's block.
    """
    script = ast.parse((Path("stages") / f"{stage}.py").read_text())
    keys = _keys_in(script)
    if any(isinstance(node, ast.Name) and node.id == "load_dataset" for node in ast.walk(script)):
        for path in DATASETS.glob("[a-z]*.py"):
            found = _keys_in(ast.parse(path.read_text()))
            keys |= {key for key in found if key.split(".")[0] == stage}
    return {key for key in keys if key.split(".")[0] not in keys - {key}}


def _keys_in(tree: ast.AST) -> set[str]:
    visitor = _ParamsVisitor()
    visitor.visit(tree)
    return visitor.keys


class _ParamsVisitor(ast.NodeVisitor):
    def __init__(self) -> None:
        self.keys: set[str] = set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        root, _, key = ast.unparse(node).partition(".")
        if root != "params":
            self.generic_visit(node)
        elif key.endswith(".model_dump"):
            self.keys.add(key.removesuffix(".model_dump"))
        else:
            self.keys.add(key)


def _direct_imports(script: Path, modules: set[str], skipped_function: str = "") -> set[str]:
    found: set[str] = set()
    tree = ast.parse(script.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) != skipped_function]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found & modules


def has_code(path: Path) -> bool:
    """Whether there is more in a file than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)


def _file_of(module: str) -> str:
    path = SOURCE / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.as_posix()
