"""`python -m launch.evaluate` in a checkout is the command `jvflow evaluate`, see jvflow/cli/evaluate.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("evaluate")
