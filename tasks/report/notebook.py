"""`evaluation/comparative_analysis.ipynb`: the cells of `comparative_analysis.py`, executed.

They run in a kernel that is a child of a child process: an environment made for them alone, and nothing left behind
when the study is stopped. Clock times, versions and warnings are not kept, so that equal inputs give equal bytes.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.settings import Settings
from storage.files import make_folder, write_json, write_text
from storage.workspace import Workspace
from tasks.process import ChildError, run_in_child

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOK = "comparative_analysis.ipynb"
SOURCE = Path(__file__).with_name("comparative_analysis.py")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_SECONDS = 600
START_SECONDS = 120
# a machine's own IPython settings (Colab has some) lie beside the user's, where no variable turns them off
KERNEL = (
    "from IPython.core import application as ipython; "
    "ipython.SYSTEM_CONFIG_DIRS.clear(); ipython.ENV_CONFIG_DIRS.clear(); "
    "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
)


class NotebookError(RuntimeError):
    """The notebook did not run to its end; the message names the cell."""


def write_notebook(workspace: Workspace, settings: Settings) -> Path:
    """Execute the notebook on the files under `evaluation/` and write it beside them.

    Raises:
        NotebookError: a cell failed, as it does where a figure of the report cannot be confirmed, and the notebook was
            written up to it; or the kernel did not start, and the notebook was written without outputs.
    """
    path = workspace.evaluation / NOTEBOOK
    text = notebook_text(build_notebook())
    make_folder(path.parent)
    arguments = {"text": text, "folder": str(workspace.evaluation)}
    try:
        result = run_in_child("tasks.report.notebook:execute", arguments, threads=settings.hardware.threads)
    except ChildError as error:
        write_text(path, text)
        reason = str(error).strip().splitlines()[-1]
        raise NotebookError(f"{NOTEBOOK}: no kernel could execute it, so it has no outputs: {reason}") from error
    write_text(path, result["text"])
    if result["failure"]:
        raise NotebookError(f"{NOTEBOOK}: {result['failure']}")
    return path


def build_notebook() -> NotebookNode:
    """The notebook without outputs."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    _, *parts = re.split(r"^# %%(.*)\n", SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells = []
    for number, (kind, source) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        name = f"cell-{number}"
        match kind.strip():
            case "[markdown]":
                cells.append(new_markdown_cell(ast.literal_eval(source.strip()).strip(), id=name))
            case "constants":
                cells.append(new_code_cell(without_project(source), id=name))
            case _:
                cells.append(new_code_cell(source.strip(), id=name))
    notebook: NotebookNode = new_notebook(cells=cells, metadata=METADATA)
    return notebook


def notebook_text(notebook: NotebookNode) -> str:
    """The content of the file."""
    import nbformat

    return str(nbformat.writes(notebook)) + "\n"


def execute(text: str, folder: str) -> dict[str, Any]:
    """Execute a notebook in `folder`; runs in a child process, whose environment it changes.

    Returns:
        `text` of the notebook as far as it came, and `failure`: None, or the cell that failed and why.
    """
    import nbformat

    notebook = nbformat.reads(text, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook-") as own:
        _isolate(Path(own))
        failure = _run(notebook, Path(folder), Path(own))
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # what is told there is of this machine: a font cache built, a package outdated
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return {"text": notebook_text(notebook), "failure": failure}


def _isolate(own: Path) -> None:
    """No setting of the user's Jupyter, IPython or matplotlib reaches the kernel."""
    theirs = ("IPYTHON", "JPY_", "JUPYTER", "MPLBACKEND", "PYTHONSTARTUP")
    for name in [name for name in os.environ if name.startswith(theirs)]:
        del os.environ[name]
    folders = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    os.environ.update(dict.fromkeys(folders, str(own)), JUPYTER_NO_CONFIG="1", MPLBACKEND="agg")


def _run(notebook: NotebookNode, folder: Path, own: Path) -> str | None:
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    argv = [sys.executable, "-P", "-c", KERNEL, "-f", "{connection_file}"]
    kernels = own / "kernels"
    write_json(kernels / "python3" / "kernel.json", get_kernel_dict() | {"argv": argv})
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(kernels)]),
        connection_file=str(own / "connection.json"),
        ip="127.0.0.1",
    )
    reached: list[int] = []
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=CELL_SECONDS,
        startup_timeout=START_SECONDS,
        shutdown_kernel="immediate",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=lambda cell, cell_index: reached.append(cell_index),
    )
    try:
        client.execute(cleanup_kc=True)
    except CellExecutionError as error:
        return f"{_name(notebook, reached[-1])} failed: {error.ename}: {error.evalue}"
    except (CellTimeoutError, DeadKernelError) as error:
        return f"{_name(notebook, reached[-1])} did not end: {str(error).strip().splitlines()[0]}"
    return None


def _name(notebook: NotebookNode, index: int) -> str:
    """A cell by its number and the heading above it."""
    texts = [cell.source for cell in notebook.cells[:index] if cell.cell_type == "markdown"]
    headings = re.findall(r"^#+ (.+)$", "\n".join(texts), re.MULTILINE)
    return f'{notebook.cells[index].id} (in "{headings[-1]}")' if headings else str(notebook.cells[index].id)


def without_project(imports: str) -> str:
    """Imports of the project's constants as the constants themselves, so that a notebook needs no project.

    Raises:
        ValueError: the cell holds more than such imports.
    """
    lines = []
    for statement in ast.parse(imports).body:
        if not isinstance(statement, ast.ImportFrom) or statement.module is None:
            raise ValueError(f"the cell of constants only imports, it also has: {ast.unparse(statement)}")
        module = importlib.import_module(statement.module)
        lines += [f"{alias.name} = {_literal(getattr(module, alias.name))}" for alias in statement.names]
    return "\n".join(lines)


def _literal(value: Any) -> str:
    if not isinstance(value, Mapping):
        return repr(value)
    return "{\n" + "".join(f"    {key!r}: {entry!r},\n" for key, entry in value.items()) + "}"
