"""How running out of memory is told apart from other failures: the GPU's memory and the machine's, here and in a log.

Light: `tasks.child` imports it before it knows what it is for.
"""

from __future__ import annotations

SIGNS = ("out of memory", "outofmemoryerror", "memoryerror", "alloc_failed", "can't allocate memory")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that the memory was not enough."""
    while error is not None:
        if says_out_of_memory(f"{type(error).__name__}: {error}") or isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def says_out_of_memory(text: str) -> bool:
    """Whether a message or a traceback says it: Python's own error, or CUDA's, cuBLAS's or torch's words for it."""
    return any(sign in text.lower() for sign in SIGNS)
