"""Generative Video Bi-flow: streams of frames, each solved from the one before, forwards or backwards in time."""

from jvflow.biflow.sample import CURVES, Curve, backward, correcting, corruption, joint, plain, stream

__all__ = ["CURVES", "Curve", "backward", "correcting", "corruption", "joint", "plain", "stream"]
