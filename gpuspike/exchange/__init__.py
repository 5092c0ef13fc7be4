"""Networks and spikes as NIR, the Neuromorphic Intermediate Representation, says them.

A file is read as plain arrays, node by node, so that what cannot be used is refused by the node's name, and
files of older or other tools, with scalars for arrays or without a reset, are read too.
"""
