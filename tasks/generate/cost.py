"""What generation cost: seconds, rows and tokens beside each shard, so that kills and other machines add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from storage.files import read_json, write_json
from storage.shards import Batch, Row, RowStore


def write_cost(store: RowStore, batch: Batch, rows: Iterable[Row], seconds: float, device: Mapping[str, Any]) -> None:
    """Keep what a batch cost.

    Args:
        store: the batch's store.
        batch: the batch.
        rows: its rows, with `tokens`.
        seconds: wall time since the shard before it, or since the model was loaded; over all shards these sum to the
            time of generation, without loading and without what a kill made vain.
        device: what drew them, as `tasks.device.computing_device` tells.
    """
    rows = list(rows)
    cost = {"seconds": seconds, "rows": len(rows), "tokens": sum(row["tokens"] for row in rows)}
    write_json(_path(store, batch.name), {**cost, **device})


def total_cost(stores: Iterable[RowStore]) -> dict[str, Any]:
    """Sums over all that was drawn into the stores, with rows and tokens a second; null where no time was kept.

    `device` and `device_memory_gb` are null where several drew them.

    That may be more than is published: an earlier, larger request; another stage that asks the same model alike.
    """
    costs = []
    for store in stores:
        for path in sorted(store.folder.glob("*.jsonl")):
            try:
                costs.append(read_json(_path(store, path.name)))
            except (OSError, ValueError):
                continue
    total: dict[str, Any] = {key: sum(cost[key] for cost in costs) for key in ("seconds", "rows", "tokens")}
    seconds = total["seconds"]
    devices = {(cost.get("device"), cost.get("device_memory_gb")) for cost in costs}
    name, memory = devices.pop() if len(devices) == 1 else (None, None)
    return total | {
        "device": name,
        "device_memory_gb": memory,
        "rows_per_second": total["rows"] / seconds if seconds else None,
        "tokens_per_second": total["tokens"] / seconds if seconds else None,
    }


def _path(store: RowStore, shard: str) -> Any:
    return store.folder / "cost" / f"{shard}.json"
