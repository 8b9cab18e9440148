"""How scores of lesions and grades become evidence."""

from uml_kernels import EvidenceKind

EVIDENCE: EvidenceKind = "exp"
"""The exponential of a score: a change of the score then changes the probabilities as much as in a softmax.

With softplus it changes them less, the more evidence there is, and grades were hardly learnt.
"""
