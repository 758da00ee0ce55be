"""Other people's memories, rewritten from their papers: baselines for evaluation, nothing else.

No part of the library, and never installed. Each is a module with three methods (see `Peer`),
trained by `training.peers` on the same backbone and data as memformer, and compared as the system
`eval.peers.system:Saved@FOLDER`.
"""
