"""Says what the values of an evaluation of streams mean, see `jvflow.metrics.legend`."""

from jvflow.metrics.legend import DISTANCE, FVD, MOTION, PSNR

LEGEND = {
    "nfe_per_frame": "evaluations of the network per frame, mean over frames and streams; lower is cheaper",
    "nfe_batch": "evaluations per frame of the slowest of each 8 streams, what the paper calls steps; lower is cheaper",
    "seconds_per_frame": "wall time in seconds per frame and stream, without compilation; lower is faster",
    "distance_first_window": f"{DISTANCE}; over the first windows, as many as protocol.pooled says",
    "distance_last_window": f"{DISTANCE}; over the last windows: above the first ones where streams drift away",
    "distance_mean": f"{DISTANCE}; mean over time; controls.real_vs_real is what real video has",
    "distance": f"[first frame, distance] over time; {DISTANCE}",
    "motion_first_window": f"{MOTION}; over the first windows",
    "motion_last_window": f"{MOTION}; over the last windows",
    "motion": f"[first frame, motion] over time; {MOTION}",
    "truth": "errors against the true video that follows the start, by the number of frames after it",
    "truth.psnr.N": f"{PSNR}; of frame N after the start against the true frame N",
    "truth.ssim.N": "structural similarity of frame N and the true frame N, up to 1; higher is better",
    "controls": "distances of videos that need no model, by the same protocol",
    "controls.real_vs_real": f"{DISTANCE}; of training clips: the value that a perfect model could reach",
    "controls.frozen": f"{DISTANCE}; of first frames repeated",
    "controls.noise": f"{DISTANCE}; of uniform random pixels",
    "equal_accuracy": "the figures under the adaptive solver, with the tolerance that the paper uses for all methods",
    "equal_budget": "the figures under 20 Euler steps a frame",
    "epsilon": "noise level of the streams, in units of pixels from -1 to 1: the best one of the search",
    "trend.slope": "slope of the line through the distance over time, per frame; 0 is no drift, lower is better",
    "trend.first": f"begin of that line; {DISTANCE}",
    "trend.last": f"end of that line; {DISTANCE}",
    "search": "the noise levels that were tried on other streams, each with its cost and mean distance",
} | FVD
