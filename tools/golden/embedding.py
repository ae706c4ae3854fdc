"""Golden values of the token embedding: first and last id, repeated ids, odd token counts."""
import torch
from common import Golden

g = Golden("embedding")
for T, C, V in [(1, 8, 3), (7, 72, 50), (33, 264, 101)]:
    table = g.randn(V, C)
    ids = torch.randint(0, V, (T,), generator=g.g)
    ids[0], ids[-1] = V - 1, 0
    h = torch.nn.functional.embedding(ids, table)
    g.case(f"{T}x{C}", {"table": table, "ids": ids}, {"h": h}, {"h": h})
g.save()
