"""`python -m launch.dryrun` in a checkout is the command `jvflow dryrun`, see jvflow/cli/dryrun.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("dryrun")
