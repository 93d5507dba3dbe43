"""Says what the values of an evaluation of predictions mean, see `jvflow.metrics.legend`."""

from jvflow.metrics.legend import DISTANCE, FVD, MOTION, PSNR

LEGEND = {
    "frames_N": "predictions with chunks of N frames",
    "nfe_N": "predictions with N steps of the solver",
    "distance": f"{DISTANCE}; to the true futures of the same clips; controls.other_real is what real video has",
    "distance_seam": f"{DISTANCE}; of windows that are half observed and half predicted: does the video continue?",
    "motion": f"{MOTION}; against the true futures, null where these stand still",
    "psnr": f"{PSNR}; peak 2; against the true future",
    "nfe": "evaluations of the network in all chunks of a prediction, mean over predictions; lower is cheaper",
    "straightness": "mean squared deviation of the velocity from the straight line, over its squared length; 0 is "
    "straight, lower is better; null where no prediction moves like the true futures",
    "controls": "the same figures for videos that need no model",
    "controls.repeat_observed": "the observed chunk again",
    "controls.repeat_last": "the last observed frame repeated",
    "controls.other_real": "real training clips: the distance that a perfect model could reach",
} | FVD
