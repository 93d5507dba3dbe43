"""Generative Video Bi-flow: streams of frames, each solved from the last, forwards and backwards."""

from jvflow.biflow.sample import CURVES, Curve, backward, correcting, corruption, joint, plain, stream

__all__ = ["CURVES", "Curve", "backward", "correcting", "corruption", "joint", "plain", "stream"]
