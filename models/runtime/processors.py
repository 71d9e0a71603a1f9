"""How TensorFlow uses this machine: threads, and the same result each time."""

from __future__ import annotations


def prepare(threads: int) -> None:
    """Set the threads and make operations deterministic. Takes effect once, before TensorFlow has computed
    anything."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return  # TensorFlow is in use already: its threads stay as they are
    tf.config.experimental.enable_op_determinism()
