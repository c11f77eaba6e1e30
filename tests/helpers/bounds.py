"""How far two ways of computing one thing may lie apart: the two bounds, and how they were chosen.

That two compiled forms are equal is proved in float64. There the order of a sum, which a compiler and a processor
choose, moves a number by some 1e-15 of the largest one, and a wrong formula by its whole error: a layer norm with
another epsilon (1e-6 for 1e-5) moves the test models' states by 1e-6. FLOAT64 lies between the two.

In float32 the same comparison shows only that nothing computes in a coarser type, so it needs no sharp bound, but
one that no processor passes: 41 units of 2**-23 of the largest number is the most that was seen (on an EPYC with
AVX-512, where a bound of 5e-6 failed), bfloat16 moves numbers by 2**-8. FLOAT32, 512 units, lies between the two.
"""

import chex
import jax
import numpy as np

FLOAT64 = 1e-9
FLOAT32 = 2.0**-14


def assert_same(got, want, *, bound=None):
    """Two trees of one structure: none differs by more than its type's bound times the largest number of the tree.

    bound: instead of the type's, where what is compared was rounded elsewhere (say why).
    """
    got, want = jax.tree.map(np.asarray, (got, want))
    chex.assert_trees_all_equal_shapes(got, want)
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    bounds = [bound or (FLOAT64 if a.dtype == b.dtype == np.float64 else FLOAT32) for a, b in pairs]
    size = max(float(np.abs(b).max(initial=0.0)) for _, b in pairs)
    assert np.isfinite(size)
    for (path, _), (a, b), most in zip(jax.tree_util.tree_leaves_with_path(want), pairs, bounds, strict=True):
        off = float(np.abs(a.astype(np.float64) - b).max(initial=0.0))
        where = jax.tree_util.keystr(path)
        assert off <= most * size, f"{where}: off by {off:.3g}, {off / size:.3g} of the largest; bound {most:.3g}"
