"""What transformers' own logits processors leave of a distribution, in the order in which its generate applies them."""
import torch
from transformers import (RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)
from common import Golden

g = Golden("sampling")
V = 60
for i, (temperature, top_k, top_p, penalty) in enumerate([
    (1.0, 0, 1.0, 1.0), (0.7, 0, 1.0, 1.0), (1.0, 5, 1.0, 1.0), (1.0, 0, 0.5, 1.0), (1.3, 0, 1.0, 1.4),
    (0.6, 12, 0.8, 1.2), (2.0, 3, 0.3, 0.8), (0.05, 0, 0.9, 1.0),
]):
    logits, said = g.randn(1, V, scale=3.0), torch.randint(0, V, (1, 9), generator=g.g)
    logits[0, 7] = logits[0, 3]  # a tie
    scores = logits.double()
    if penalty != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(penalty)(said, scores)
    scores = TemperatureLogitsWarper(temperature)(said, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(said, scores)
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(said, scores)
    out = {"p": scores.softmax(-1)[0]}
    settings = torch.tensor([temperature, top_k, top_p, penalty])
    g.case(f"case{i}", {"logits": logits[0], "said": said[0], "settings": settings}, out, out)
g.save()
