"""Compares the cost and quality of Bi-flow runs on one data set.

    jvflow compare --workdirs=out/demo/flow,out/demo/biflow --out=DIR
    jvflow compare --workdirs=out/biflow --out=DIR --epsilon=0,0.2 --gain=1

Evaluates each run at one solver tolerance and at 20 network evaluations per frame; BI-FLOW also at several noise levels
and backwards in time. NFE is the number of network evaluations per frame, averaged over videos. The paper's NFE is not
comparable: it counts the slowest of eight videos (by the solver torchode). Run the same command again to continue after
an interruption.
"""

from absl import flags

from jvflow.cli import parse_numbers, parse_overrides

WORKDIRS = flags.DEFINE_list(
    "workdirs",
    None,
    "Required. Workdirs of trained runs, with the same config.data and config.evaluate.",
    required=True,
)
OUT = flags.DEFINE_string("out", None, "Required. Folder for compare.json and pareto.png.", required=True)
EPSILON = flags.DEFINE_list("epsilon", ["0", "0.1", "0.2", "0.3"], "Noise levels of BI-FLOW (config.sample.epsilon).")
GAIN = flags.DEFINE_list(
    "gain",
    ["1", "2"],
    "BI-FLOW: values of config.sample.gain, which adapts the noise level to each frame, up to the largest --epsilon.",
)
PROTOCOL = flags.DEFINE_multi_string("protocol", [], "NAME=VALUE sets config.evaluate.NAME")


def main():
    from jvflow.commands import compare

    record = compare(
        WORKDIRS.value,
        OUT.value,
        epsilons=parse_numbers(EPSILON),
        gains=parse_numbers(GAIN),
        overrides=parse_overrides(PROTOCOL, "videos=64"),
    )
    print("method   kind               eps gain    NFE     first      last      mean motion")
    for r in record["results"]:
        epsilon, gain = r["protocol"]["epsilon"], r["protocol"]["gain"]
        print(
            f"{r['method']:8} {r['kind']:16} {epsilon:5g} {gain:4g} {r['nfe_per_frame']:6.2f} "
            f"{r['distance_first_window']:9.2f} {r['distance_last_window']:9.2f} {r['distance_mean']:9.2f} "
            f"{r['motion_last_window']:6.2f}"
        )
    print("controls: " + ", ".join(f"{name} {value:.2f}" for name, value in record["controls"].items()))
