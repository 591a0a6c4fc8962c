"""Nodes: parameters in, vector out.

Begin with `host`, the nodes of one run in one process.  `building` makes it of a run's `spec`: the
data (`data`), its cut into `shards`, the task (`tasks`) and the model.  A node's gradient is
computed by `gradients`: the batch (`batch_order`, `micro_batch`, `augmenting`), then the `loss` on
a `device` in a `precision`.  Before round 0 what is foreign code is tried: `model_trial`,
`task_trial`, `attack_trial`; `trial_digests` and `environment` are what processes compare.
"""
