"""The pairs that `peers.py` compares: our name and arguments, theirs, and why they differ."""

from __future__ import annotations

from attrs import frozen


@frozen
class Pair:
    """One of our names with arguments, and their class with arguments.

    Arguments may be formulas (`Case.number`).  `how` is "call", "memory" for a few rounds,
    "shuffled" to shuffle our rows by the permutation that theirs draws, "labels" for a gradient
    on flipped labels, or "not compared".
    """

    peer: str
    kind: str
    ours: str
    theirs: str
    why: str = ""
    how: str = "call"


NEIGHBOURS = (
    "The scores: ours sum the n - f - 2 nearest others, as the paper does, theirs n - f - 1. "
)
KEPT = "q: theirs average n - f rows, ours max(1, n - f - 1). "
ONE_STEP = "one power iteration from a random vector"

BYZFL = (
    Pair("byzfl", "aggregator", "mean", "Average()"),
    Pair("byzfl", "aggregator", "median", "Median()"),
    Pair("byzfl", "aggregator", "trimmed-mean", "TrMean(f=f)"),
    Pair("byzfl", "aggregator", "meamed", "Meamed(f=f)"),
    Pair(
        "byzfl", "aggregator", "krum", "Krum(f=f)",
        NEIGHBOURS + "The lowest score is often the same row's.",
    ),
    Pair("byzfl", "aggregator", "krum:closest=n-f-1", "Krum(f=f)"),
    Pair("byzfl", "aggregator", "multi-krum", "MultiKrum(f=f)", KEPT + NEIGHBOURS.strip()),
    Pair("byzfl", "aggregator", "multi-krum:q=n-f,closest=n-f-1", "MultiKrum(f=f)"),
    Pair(
        "byzfl", "aggregator", "geometric-median", "GeometricMedian()",
        "Ours is the minimum, to 1e-9; theirs are 3 smoothed Weiszfeld steps from zero.",
    ),
    Pair(
        "byzfl", "aggregator", "geometric-median:nu=0.1,max_iter=3,init=zero",
        "GeometricMedian(nu=0.1, T=3)",
    ),
    Pair(
        "byzfl", "aggregator", "centered-clipping", "CenteredClipping()",
        "Defaults: tau is 10 here and 100 there, with 3 iterations here and 1 there.", "memory",
    ),
    Pair(
        "byzfl", "aggregator", "centered-clipping:tau=100,iterations=1",
        "CenteredClipping(tau=100.0, L=1)",
        "Over three rounds: both start at their last answer, first at zero.", "memory",
    ),
    Pair(
        "byzfl", "aggregator", "centered-clipping:tau=10,iterations=3",
        "CenteredClipping(tau=10.0, L=3)", "As above.", "memory",
    ),
    Pair("byzfl", "aggregator", "mda", "MDA(f=f)"),
    Pair("byzfl", "aggregator", "monna", "MoNNA(f=f)"),
    Pair("byzfl", "aggregator", "monna:reference=1", "MoNNA(f=f, idx=1)"),
    Pair(
        "byzfl", "aggregator", "smea", "SMEA(f=f)",
        "Ours compares exact eigenvalues, and finds the best subset; theirs compares estimates "
        f"by {ONE_STEP}. No argument makes them equal.",
    ),
    Pair(
        "byzfl", "aggregator", "caf", "CAF(f=f)",
        f"Ours follows the exact top direction; theirs {ONE_STEP}. No argument makes them equal.",
    ),
    Pair("byzfl", "pre-aggregator", "nnm", "NNM(f=f)"),
    Pair(
        "byzfl", "pre-aggregator", "bucketing:s=1,permutation=identity", "Bucketing()",
        "By default s is 1 there, which only shuffles, and 2 here. For the same permutation: "
        "ours draws it from the run's seed and the round, theirs from a global generator.",
        "shuffled",
    ),
    Pair(
        "byzfl", "pre-aggregator", "bucketing:s=2,permutation=identity", "Bucketing(s=2)",
        "As above.", "shuffled",
    ),
    Pair(
        "byzfl", "pre-aggregator", "clipping", "Clipping()",
        "Theirs overwrites the array that it is given.",
    ),
    Pair("byzfl", "pre-aggregator", "arc", "ARC(f=f)"),
    Pair("byzfl", "attack", "sign-flip", "SignFlipping()"),
    Pair("byzfl", "attack", "ipm", "InnerProductManipulation()"),
    Pair("byzfl", "attack", "ipm:tau=0.5", "InnerProductManipulation(tau=0.5)"),
    Pair(
        "byzfl", "attack", "alie:tau=1.5", "ALittleIsEnough()",
        "ddof: ours divides by h, theirs by h - 1, of h honest nodes. Without `tau` ours takes "
        "the paper's factor from n and b; theirs is always 1.5.",
    ),
    Pair("byzfl", "attack", "alie:tau=1.5,ddof=1", "ALittleIsEnough(tau=1.5)"),
    Pair(
        "byzfl", "attack", "opt-ipm:aggregator=trimmed-mean,pre=nnm",
        "Optimal_InnerProductManipulation(agg=TrMean(f=f), pre_agg_list=[NNM(f=f)], f=f)",
        "In a run ours aims at the run's own rules unless told otherwise; theirs at "
        "`Clipping(2.0)` and `Average()`, the benchmark at its own.",
    ),
    Pair(
        "byzfl", "attack", "opt-alie:aggregator=trimmed-mean,pre=nnm,ddof=1",
        "Optimal_ALittleIsEnough(agg=TrMean(f=f), pre_agg_list=[NNM(f=f)], f=f)",
    ),
    Pair("byzfl", "attack", "mimic", "Mimic()"),
    Pair("byzfl", "attack", "inf", "Inf()", "Ours keeps the dtype, theirs is float64."),
    Pair(
        "byzfl", "attack", "gaussian", "Gaussian()",
        "The same distribution; ours draws from the run's streams, differently at each node.",
    ),
    Pair(
        "byzfl", "attack", "label-flip", "LabelFlipping()",
        "Ours is a node's gradient on its own data with labels C - 1 - y; theirs the mean of "
        "the honest clients' gradients on such labels, the same vector from all.",
        "not compared",
    ),
)  # fmt: skip

LOWER = "For even n: ours is the mean of the two middle values, theirs the lower of them."
BYZPY = (
    Pair("byzpy", "aggregator", "median", "CoordinateWiseMedian()", LOWER),
    Pair("byzpy", "aggregator", "trimmed-mean", "CoordinateWiseTrimmedMean(f=f)"),
    Pair(
        "byzpy", "aggregator", "meamed", "MeanOfMedians(f=f)",
        "The values nearest to the median. " + LOWER,
    ),
    Pair(
        "byzpy", "aggregator", "krum", "Krum(f=f)",
        NEIGHBOURS + "The lowest score is often the same row's.",
    ),
    Pair("byzpy", "aggregator", "krum:closest=n-f-1", "Krum(f=f)"),
    Pair(
        "byzpy", "aggregator", "multi-krum", "MultiKrum(f=f, q=n-f-1)",
        NEIGHBOURS + "Theirs has no default for q.",
    ),
    Pair("byzpy", "aggregator", "multi-krum:closest=n-f-1", "MultiKrum(f=f, q=n-f-1)"),
    Pair(
        "byzpy", "aggregator", "geometric-median", "GeometricMedian()",
        "Theirs stops once a step is no longer than 1e-6, whatever the vectors' size. It can "
        "stop at a row that is not the minimum.",
    ),
    Pair("byzpy", "aggregator", "geometric-median", "GeometricMedian(tol=1e-12, max_iter=5000)"),
    Pair(
        "byzpy", "aggregator", "centered-clipping:init=zero", "CenteredClipping(c_tau=10.0)",
        "Defaults: 3 iterations here and 10 there, from the last answer here and from the mean "
        "there. The mean is not robust, and ours does not offer it.",
    ),
    Pair(
        "byzpy", "aggregator", "centered-clipping:tau=10,iterations=10,init=zero",
        "CenteredClipping(c_tau=10.0, init='zero')",
    ),
    Pair(
        "byzpy", "aggregator", "centered-clipping:tau=10,iterations=10,init=median",
        "CenteredClipping(c_tau=10.0, init='median')", LOWER,
    ),
    Pair("byzpy", "aggregator", "mda", "MinimumDiameterAveraging(f=f)"),
    Pair("byzpy", "aggregator", "monna", "MoNNA(f=f)"),
    Pair("byzpy", "aggregator", "monna:reference=1", "MoNNA(f=f, reference_index=1)"),
    Pair("byzpy", "aggregator", "smea", "SMEA(f=f)"),
    Pair("byzpy", "aggregator", "cge", "ComparativeGradientElimination(f=f)"),
    Pair(
        "byzpy", "aggregator", "caf", "CAF(f=f)",
        "Ours follows the exact top direction, theirs 3 power iterations from a fixed vector.",
    ),
    Pair("byzpy", "aggregator", "caf", "CAF(f=f, power_iters=1000)"),
    Pair("byzpy", "pre-aggregator", "nnm", "NearestNeighborMixing(f=f)"),
    Pair(
        "byzpy", "pre-aggregator", "bucketing:s=2,permutation=identity",
        "Bucketing(bucket_size=2, perm=order)",
        "With order = 0, 1, ..., n - 1. Theirs has no default for the size, ours has s = 2. By "
        "default both shuffle, ours by the run's seed and the round.",
    ),
    Pair("byzpy", "pre-aggregator", "clipping", "Clipping()"),
    Pair("byzpy", "pre-aggregator", "arc", "ARC(f=f)"),
    Pair("byzpy", "attack", "empire", "EmpireAttack()"),
    Pair("byzpy", "attack", "ipm:tau=0.5", "EmpireAttack(scale=-0.5)"),
    Pair(
        "byzpy", "attack", "alie:tau=z", "LittleAttack(f=f, N=n)",
        "With z the normal quantile of (n - s) / n, s = max(1, floor(n / 2) + 1 - f): theirs "
        "divides by n where the paper, and ours without `tau`, has n - f honest nodes.",
    ),
    Pair(
        "byzpy", "attack", "sign-flip", "SignFlipAttack()",
        "Of the same vector: ours flips the honest mean, theirs the gradient that it is given; "
        "`of=own` flips the node's own.",
    ),
    Pair("byzpy", "attack", "mimic", "MimicAttack()"),
    Pair("byzpy", "attack", "inf", "InfAttack()"),
    Pair(
        "byzpy", "attack", "gaussian", "GaussianAttack()",
        "The same distribution; ours draws from the run's streams, differently at each node.",
    ),
    Pair(
        "byzpy", "attack", "label-flip", "LabelFlipAttack(num_classes=10)",
        "Theirs also takes a mapping of labels, and a factor.", "labels",
    ),
)  # fmt: skip

PAIRS = (*BYZFL, *BYZPY)
