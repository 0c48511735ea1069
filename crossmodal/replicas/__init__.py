"""Learning from many replicas of a network, each with data of its own (Sun 2023, arXiv 2302.01020).

Pure functions over the replicas' states, which know of no engine: `aggregation`, `server`, `topology`, `partition`,
`compression`; and `homogeneous`, an environment in which a policy sends a model from node to node.
"""
