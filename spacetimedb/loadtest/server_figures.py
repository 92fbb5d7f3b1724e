"""The server's own figures while a load test runs, from its /v1/metrics; a server without them gives none."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any, Final

from ..client.address import Address

_LINE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
PATIENCE_S: Final = 2.0
CPU, MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"
QUEUE, LAG, CLIENTS = (
    "spacetime_mailbox_bytes",
    "spacetime_fan_out_lag_bytes",
    "spacetime_worker_connected_clients",
)


class ServerFigures:
    """Sums over all series of a name. One thread at a time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._cpu: tuple[float, dict[str, float]] | None = None
        """When, and seconds by the labels of a process."""
        self._dashboard = True

    def read(self, now: float) -> dict[str, float]:
        """`cpu_percent` (of one core), `memory_mb`, `queue_bytes`, `fan_out_lag_bytes`, `clients`, as far as known.
        `now` in seconds, for rates."""
        text = self._request("GET", "/v1/metrics", None)
        if text is None:
            return {}
        sums: dict[str, float] = {}
        cpu: dict[str, float] = {}
        for found in _LINE.finditer(text):
            if found[1] in (CPU, MEMORY, QUEUE, LAG, CLIENTS):
                sums[found[1]] = sums.get(found[1], 0.0) + float(found[3])
                if found[1] == CPU:
                    cpu[found[2]] = float(found[3])
        figures: dict[str, float] = {}
        if cpu:
            if self._cpu is not None and now > self._cpu[0]:
                then, before = self._cpu
                # Processes come and go; one that is new has used what it has since then.
                used = sum(seconds - before.get(labels, 0.0) for labels, seconds in cpu.items())
                figures["cpu_percent"] = round(used / (now - then) * 100, 1)
            self._cpu = now, cpu
        if MEMORY in sums:
            figures["memory_mb"] = round(sums[MEMORY] / 1e6, 1)
        names = {"queue_bytes": QUEUE, "fan_out_lag_bytes": LAG, "clients": CLIENTS}
        return figures | {short: sums[name] for short, name in names.items() if name in sums}

    def show(self, point: dict[str, Any]) -> None:
        """Gives a point to the server's dashboard; a server that does not want it is not asked again."""
        if self._dashboard:
            self._dashboard = self._request("POST", "/dashboard/api/loadtest", json.dumps(point)) is not None

    def _request(self, method: str, path: str, body: str | None) -> str | None:
        address = self._address
        kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
        connection = kind(address.host, address.port, timeout=PATIENCE_S)
        headers = {"authorization": f"Bearer {address.token}"} if address.token else {}
        try:
            connection.request(method, address.path + path, body, headers)
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""  # busy or away: asked again next time
        finally:
            connection.close()
        return text if 200 <= response.status < 300 else None
