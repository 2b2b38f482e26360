"""Visual and audio backbones."""
