"""The webhook all figures are taken with: 1 KiB of JSON."""

import json

BODY_BYTES = 1024
SOURCE = "bench"


def body(size: int = BODY_BYTES) -> bytes:
    """An order as a shop would send it, filled up to `size` bytes."""
    order = {
        "type": "order.paid",
        "created": 1767225600,
        "data": {
            "order": 1042,
            "currency": "EUR",
            "total": 12990,
            "lines": [{"sku": f"SKU-{n:04}", "quantity": n, "price": 999} for n in range(1, 9)],
            "customer": {"name": "Ada Lovelace", "email": "ada@example.com", "country": "GB"},
        },
        "note": "",
    }
    order["note"] = "n" * (size - len(json.dumps(order)))
    return json.dumps(order).encode()


BODY = body()
HEADERS = json.dumps(
    [
        ["Host", "127.0.0.1:8080"],
        ["Content-Length", str(len(BODY))],
        ["User-Agent", "shop/1.0"],
        ["Content-Type", "application/json"],
    ]
)
