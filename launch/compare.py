"""Compares trained runs as Bi-flow does: python -m launch.compare --workdirs=out/demo/flow,out/demo/biflow,out/demo/condiff --out=DIR"""

from absl import flags

import launch

WORKDIRS = flags.DEFINE_list("workdirs", None, "The folders of trained runs, of one data set and protocol.")
OUT = flags.DEFINE_string("out", None, "Where compare.json and pareto.png go; a comparison that was stopped continues.")
EPSILON = flags.DEFINE_list("epsilon", ["0", "0.1", "0.2", "0.3"], "Noise levels of BI-FLOW.")
GAIN = flags.DEFINE_list("gain", ["1", "2"], "Gains of BI-FLOW's noise level per frame, up to the highest of --epsilon.")
PROTOCOL = flags.DEFINE_multi_string("protocol", [], "NAME=VALUE: replaces an entry of config.evaluate; may be repeated.")
flags.mark_flags_as_required(["workdirs", "out"])


def main():
    from jvflow.biflow.compare import compare

    record = compare(
        WORKDIRS.value, OUT.value, epsilons=[float(e) for e in EPSILON.value], gains=[float(g) for g in GAIN.value],
        overrides=launch.entries(PROTOCOL, "videos=64"),
    )
    print(f"{'method':8} {'kind':16} {'eps':>5} {'gain':>4} {'NFE':>6} {'first':>9} {'last':>9} {'mean':>9} {'motion':>6}")
    for r in record["results"]:
        values = (r[key] for key in ("nfe_per_frame", "distance_first_window", "distance_last_window", "distance_mean", "motion_last_window"))
        nfe, first, last, mean, motion = values
        epsilon, gain = r["protocol"]["epsilon"], r["protocol"]["gain"]
        print(f"{r['method']:8} {r['kind']:16} {epsilon:5g} {gain:4g} {nfe:6.2f} {first:9.2f} {last:9.2f} {mean:9.2f} {motion:6.2f}")
    print("controls: " + ", ".join(f"{name} {value:.2f}" for name, value in record["controls"].items()))


if __name__ == "__main__":
    launch.run(main)
