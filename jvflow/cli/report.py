"""Sets the metrics of runs next to each other and to published ones.

    jvflow report out/flow/metrics.json out/biflow/metrics.json
    jvflow report out/flow out/biflow --published=biflow --out=FILE.md

Takes files that `jvflow evaluate` wrote, or folders with a metrics.json. The published values are those of the runs'
paper, in columns of their own. Raises an error that lists the differences if the files do not have the same protocol.
"""

from absl import flags

PUBLISHED = flags.DEFINE_string(
    "published", None, "The paper whose published values to show, or none; default: the paper of the runs."
)
OUT = flags.DEFINE_string("out", None, "The Markdown file to write, in place of the standard output.")


def main(runs: list[str]):
    from jvflow.commands import report
    from jvflow.files import local_path, write_text
    from jvflow.parallel import processes

    text = report(runs, published=PUBLISHED.value)
    if not processes.is_primary():
        return
    if OUT.value is None:
        print(text, end="")
    else:
        write_text(local_path(OUT.value, "--out"), text)
