"""FlowFrames: a flow from the observed chunk of a video to the next one."""

from jvflow.flowframes.sample import make_solver, predict, predict_chunks

__all__ = ["make_solver", "predict", "predict_chunks"]
