"""Says what the values of an evaluation of clips mean, see `jvflow.metrics.legend`."""

from jvflow.metrics.legend import FVD, MOTION, PSNR

LEGEND = {
    "nfe_per_frame": "evaluations of the network for a clip over its frames, mean over clips; lower is cheaper",
    "seconds_per_frame": "wall time in seconds per frame and clip, with compilation; lower is faster",
    "frames": "errors at the frames that training used",
    "between": "errors inside the clip at frames that training did not use: interpolation",
    "beyond": "errors after the end of the clip: extrapolation",
    "beyond.second_N": "errors in second N after the end of the clip",
    "generated": "errors of the generated clips",
    "mean": "baseline without a network: the decoded mean mu(t)",
    "line": "baseline without a network: the polynomial of order 2, a line",
    "blend_latents": "baseline without a network: a blend of the latents of the two neighbouring training frames",
    "blend_pixels": "baseline without a network: a blend of the pixels of the two neighbouring training frames",
    "repeat_last": "baseline without a network: the last training frame again",
    "against_codec": f"{PSNR}; peak 2, at most 99; against the codec's round trip of the real frame",
    "against_real": f"{PSNR}; peak 2, at most 99; against the real frame",
    "side_against_codec": "10 log10(side^2 / MSE) in dB, the paper's PSNR; against the codec's round trip, higher is "
    "better",
    "motion": f"{MOTION}; up to the end of the clip, null where real video stands still",
    "text": "how many clips, generated from a caption, are nearest to a real clip of this caption",
    "text.clips": "number of clips: the most that the counts below can reach",
    "text.different_captions": "number of different captions of these clips",
    "text.nearest_guidance_N": "number of clips nearest to a real clip of their caption, with guidance N; 0 to "
    "text.clips, higher is better",
    "text.swapped_guidance_N": "the same with captions swapped in pairs: number of clips nearest to a real clip of "
    "the caption that they were given; higher is better",
} | FVD
