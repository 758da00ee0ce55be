"""Peers: other memories, rewritten from their papers as baselines for evaluation only.

Peers are no part of the library and are never installed. Each is a module with the methods of
`Peer`. `training.peers` trains it on the same backbone and data as memformer. Benchmarks name it
as the system `eval.peers.system:Saved@FOLDER`.
"""
