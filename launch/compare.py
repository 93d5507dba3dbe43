"""`python -m launch.compare` in a checkout is the command `jvflow compare`, see jvflow/cli/compare.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("compare")
