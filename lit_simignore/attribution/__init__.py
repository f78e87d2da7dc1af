"""WHERE information flows: attention shares, saliency, class activation maps, token clusters, the cliff of truncation.

Pure functions on tensors that somebody else took out of a model; torch only. One question per file.
"""
