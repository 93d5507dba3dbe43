"""`python -m launch.report` in a checkout is the command `jvflow report`, see jvflow/cli/report.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("report")
