"""`python -m launch.train` in a checkout is the command `jvflow train`, see jvflow/cli/train.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("train")
