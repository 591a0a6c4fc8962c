"""The audit of a run: its rounds computed again and compared with its records.

``find_*`` returns problems, ``compare_*`` yields them, a `Verification` appends them to its own.
"""
