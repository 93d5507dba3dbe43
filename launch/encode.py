"""`python -m launch.encode` in a checkout is the command `jvflow encode`, see jvflow/cli/encode.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("encode")
