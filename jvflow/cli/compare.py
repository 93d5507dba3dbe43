"""Compares trained runs of one data set, as Bi-flow's paper does.

    jvflow compare --workdirs=out/demo/flow,out/demo/biflow,out/demo/condiff --out=DIR

A comparison that was stopped continues with the same command.
"""

from absl import flags

from jvflow.cli import parse_overrides

WORKDIRS = flags.DEFINE_list(
    "workdirs", None, "The folders of trained runs, of one data set and protocol.", required=True
)
OUT = flags.DEFINE_string("out", None, "Where compare.json and pareto.png go.", required=True)
EPSILON = flags.DEFINE_list("epsilon", ["0", "0.1", "0.2", "0.3"], "Noise levels of BI-FLOW.")
GAIN = flags.DEFINE_list(
    "gain", ["1", "2"], "Gains of BI-FLOW's noise level per frame, up to the highest value of --epsilon."
)
PROTOCOL = flags.DEFINE_multi_string("protocol", [], "NAME=VALUE replaces an entry of config.evaluate; repeatable.")


def main():
    from jvflow.commands import compare

    record = compare(
        WORKDIRS.value,
        OUT.value,
        epsilons=[float(e) for e in EPSILON.value],
        gains=[float(g) for g in GAIN.value],
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
