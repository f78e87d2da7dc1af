"""Where information flows: attention shares, heads, saliency, class-activation maps, token clusters. torch only."""
