"""Choose by a byte budget: what each size would cost, then the best mix of the size you name.

    python examples/choose_by_budget.py CHECKPOINT OUT [MEGABYTES]

For decoders of the Llama form. Sensitivities are measured once for each checkpoint and kept in the
cache: 76 s for 135 million parameters on two cores. Without MEGABYTES the program only
says what there is to choose from.
"""

import sys
from collections import Counter
from pathlib import Path

from llmkg_lab import Scheme, convert, open_checkpoint
from llmkg_lab.quantize.budget import price
from llmkg_lab.quantize.budget.allocate import ACCEPTABLE, allocate, frontier

ROWS = 8  # of the table of sizes


def main(path: str, out: str, megabytes: str = "") -> None:
    """Print the sizes to choose from, and make the artifact of the one that was named."""
    checkpoint = open_checkpoint(path)
    sensitivities = price.measure(checkpoint)
    points = frontier(sensitivities)  # (bytes, nats), the smallest mix first
    print("MB       predicted KL, nats per token")
    for nbytes, kl in points[:: max(1, len(points) // ROWS)]:
        print(f"{nbytes / 1e6:<8.2f} {kl:.4f}{'' if kl <= ACCEPTABLE else '  (broken)'}")
    if not megabytes:
        return
    chosen = allocate(sensitivities, round(float(megabytes) * 1e6))
    bits = Counter(layout.bits for layout in chosen.layouts.values())
    print(
        "matrices by bits: "
        + ", ".join(f"{count} at {width}" for width, count in sorted(bits.items()))
        + f"; another MB would take {chosen.next_megabyte:.2g} nats off"
    )
    scheme = Scheme.parse(f"budget:{megabytes}MB")
    artifact = convert(checkpoint, scheme, Path(out) / scheme.name)
    print(f"{artifact.folder}: {artifact.nbytes / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
